//! Building requests for tests.

use ::http::uri::Scheme;
use ::http::{HeaderName, HeaderValue, Method, Uri, header};
use serde::Serialize;

use crate::{Body, Request};

/// Begins a request. [`TestRequest::body`], [`TestRequest::json`] or [`TestRequest::build`] ends it.
///
/// ```
/// let request = wisp::test::request("POST", "/items?top=3").header("accept", "text/plain").body("hello");
/// assert_eq!(request.uri().query(), Some("top=3"));
/// ```
///
/// # Panics
/// When `method` is no HTTP method or `uri` is no URI.
#[expect(clippy::panic, reason = "a test fails by panicking")]
#[must_use]
pub fn request(method: &str, uri: &str) -> TestRequest {
    let Ok(method) = Method::from_bytes(method.as_bytes()) else {
        panic!("`{method}` is no HTTP method")
    };
    let Ok(uri) = uri.parse::<Uri>() else {
        panic!("`{uri}` is no URI")
    };
    let mut request = Request::new(Body::empty());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    TestRequest(request)
}

/// A request to be. See [`request`].
///
/// ```
/// let request = wisp::test::request("GET", "/").build();
/// ```
#[derive(Debug)]
pub struct TestRequest(Request);

impl TestRequest {
    /// Adds a header. `host` becomes the URI's, as a host does it.
    ///
    /// ```
    /// let request = wisp::test::request("GET", "/").header("accept", "text/html").build();
    /// assert_eq!(request.headers()["accept"], "text/html");
    /// ```
    ///
    /// # Panics
    /// When it is no header.
    #[expect(clippy::panic, reason = "a test fails by panicking")]
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        match (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_str(value),
        ) {
            (Ok(header::HOST), _) => match at(self.0.uri(), value) {
                Some(uri) => *self.0.uri_mut() = uri,
                None => panic!("`{value}` is no host"),
            },
            (Ok(name), Ok(value)) => drop(self.0.headers_mut().append(name, value)),
            _ => panic!("`{name}: {value}` is no header"),
        }
        self
    }

    /// The request with this body: bytes, a text, or a [`Body`].
    ///
    /// ```
    /// let request = wisp::test::request("POST", "/").body("hello");
    /// assert_eq!(request.body().size(), Some(5));
    /// ```
    pub fn body(mut self, body: impl Into<Body>) -> Request {
        *self.0.body_mut() = body.into();
        self.0
    }

    /// The request with a JSON body, and its `content-type`.
    ///
    /// ```
    /// let request = wisp::test::request("POST", "/").json(&["a", "b"]);
    /// assert_eq!(request.headers()["content-type"], "application/json");
    /// ```
    ///
    /// # Panics
    /// When `value` has no JSON form.
    #[expect(clippy::panic, reason = "a test fails by panicking")]
    pub fn json<T: Serialize + ?Sized>(mut self, value: &T) -> Request {
        match serde_json::to_vec(value) {
            Ok(bytes) => {
                self.0.headers_mut().insert(
                    header::CONTENT_TYPE,
                    HeaderValue::from_static("application/json"),
                );
                self.body(bytes)
            }
            Err(error) => panic!("the body has no JSON form: {error}"),
        }
    }

    /// The request without a body.
    ///
    /// ```
    /// assert_eq!(wisp::test::request("GET", "/").build().method(), "GET");
    /// ```
    #[must_use]
    pub fn build(self) -> Request {
        self.0
    }
}

/// The same of another host.
fn at(uri: &Uri, host: &str) -> Option<Uri> {
    let mut parts = uri.clone().into_parts();
    parts.scheme.get_or_insert(Scheme::HTTP);
    parts.authority = Some(host.parse().ok()?);
    Uri::from_parts(parts).ok()
}
