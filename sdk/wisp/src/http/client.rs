//! Building and sending requests.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use serde::Serialize;

use super::error::{Cause, without_secrets};
use super::headers::is_of_the_connection;
use super::{Error, Upstream};
use crate::{Body, Request, Response, percent, platform, time};

/// How long to wait for what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// From sending to the response's head.
    pub(crate) head: Option<Duration>,
    /// Between two parts of the response's body.
    pub(crate) between_bytes: Option<Duration>,
}

/// What several outgoing requests have in common.
///
/// ```
/// use std::time::Duration;
/// use wisp::http::Client;
///
/// # wisp::test::upstream("https://api.example.com", async |request| {
/// #     Ok(wisp::response::text(request.headers()["authorization"].to_str()?))
/// # });
/// # wisp::test::block_on(async {
/// let client = Client::new().header("authorization", "Bearer t").timeout(Duration::from_secs(2));
/// let response = client.post("https://api.example.com/items").json(&["a"]).await?;
/// assert_eq!(response.status(), 200);
/// # Ok::<_, wisp::Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Default)]
pub struct Client {
    headers: Headers,
    timeouts: Timeouts,
}

impl Client {
    /// A client without headers, and without a timeout but the function's own.
    ///
    /// ```
    /// let client = wisp::http::Client::new();
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends this header with every request, unless the request sets another of that name. What is no header, or the host's
    /// as `host` is, is an error when a request is sent.
    ///
    /// ```
    /// let client = wisp::http::Client::new().header("accept", "application/json");
    /// ```
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.set(name, value);
        self
    }

    /// How long each request waits for the head of its response.
    ///
    /// ```
    /// let client = wisp::http::Client::new().timeout(std::time::Duration::from_secs(2));
    /// ```
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeouts.head = Some(limit);
        self
    }

    /// How long each request waits between two parts of its response's body.
    ///
    /// ```
    /// let client = wisp::http::Client::new().read_timeout(std::time::Duration::from_secs(2));
    /// ```
    #[must_use]
    pub fn read_timeout(mut self, limit: Duration) -> Self {
        self.timeouts.between_bytes = Some(limit);
        self
    }

    /// A GET request.
    ///
    /// ```
    /// let request = wisp::http::Client::new().get("https://example.com/");
    /// ```
    pub fn get(&self, url: &str) -> RequestBuilder {
        self.request(Method::GET, url)
    }

    /// A POST request.
    ///
    /// ```
    /// let request = wisp::http::Client::new().post("https://example.com/").body("hello");
    /// ```
    pub fn post(&self, url: &str) -> RequestBuilder {
        self.request(Method::POST, url)
    }

    /// A PUT request.
    ///
    /// ```
    /// let request = wisp::http::Client::new().put("https://example.com/1").body("hello");
    /// ```
    pub fn put(&self, url: &str) -> RequestBuilder {
        self.request(Method::PUT, url)
    }

    /// A DELETE request.
    ///
    /// ```
    /// let request = wisp::http::Client::new().delete("https://example.com/1");
    /// ```
    pub fn delete(&self, url: &str) -> RequestBuilder {
        self.request(Method::DELETE, url)
    }

    /// A request of any method.
    ///
    /// ```
    /// let request = wisp::http::Client::new().request(wisp::http::Method::PATCH, "https://example.com/1");
    /// ```
    pub fn request(&self, method: Method, url: &str) -> RequestBuilder {
        RequestBuilder {
            method,
            url: url.to_owned(),
            headers: self.headers.clone(),
            body: Body::empty(),
            timeouts: self.timeouts,
        }
    }

    /// Sends a request as it is, with this client's headers where it has none of that name, and its timeouts. Its body is
    /// streamed on.
    ///
    /// ```
    /// use std::time::Duration;
    /// use wisp::{Request, Response, Result};
    /// use wisp::http::Client;
    ///
    /// async fn proxy(mut request: Request) -> Result<Response> {
    ///     *request.uri_mut() = "https://backend.example.com/".parse()?;
    ///     let client = Client::new().header("authorization", "Bearer t").timeout(Duration::from_secs(2));
    ///     Ok(client.send(request).await?)
    /// }
    /// # wisp::test::upstream("https://backend.example.com", async |request| {
    /// #     Ok(request.headers()["authorization"].to_str()?.to_owned())
    /// # });
    /// # let response = wisp::test::block_on(proxy(wisp::test::request("GET", "/a").build())).unwrap();
    /// # assert_eq!(wisp::test::block_on(response.into_body().bytes()).unwrap(), "Bearer t");
    /// ```
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn send(&self, mut request: Request) -> Result<Response, Error> {
        match &self.headers.built {
            Ok(headers) => {
                for (name, value) in headers {
                    let place = request.headers_mut().entry(name);
                    place.or_insert_with(|| value.clone());
                }
                transmit(request, self.timeouts).await
            }
            Err(detail) => {
                let (method, url) = (request.method().clone(), request.uri().to_string());
                Err(Error::new(method, &url, Cause::Invalid(detail.clone())))
            }
        }
    }
}

/// A GET request: `wisp::http::get(url).await?`.
///
/// ```
/// # wisp::test::upstream("https://example.com", async |_request| Ok("hello"));
/// # wisp::test::block_on(async {
/// let response = wisp::http::get("https://example.com/").await?;
/// assert_eq!(response.status(), 200);
/// # Ok::<_, wisp::Error>(())
/// # }).unwrap();
/// ```
pub fn get(url: &str) -> RequestBuilder {
    Client::new().get(url)
}

/// A POST request: `wisp::http::post(url).body("…").await?`.
///
/// ```
/// # wisp::test::upstream("https://example.com", async |request| Ok(wisp::Response::new(request.into_body())));
/// # wisp::test::block_on(async {
/// use wisp::ResponseExt;
/// let mut response = wisp::http::post("https://example.com/").body("hello").await?;
/// assert_eq!(response.text().await?, "hello");
/// # Ok::<_, wisp::Error>(())
/// # }).unwrap();
/// ```
pub fn post(url: &str) -> RequestBuilder {
    Client::new().post(url)
}

/// Sends a request as it is, such as one that came in and was given another URI. Its body is streamed on. There is no timeout
/// but the function's own: [`Client::send`] has others.
///
/// ```
/// use wisp::{Request, Response, Result};
///
/// async fn proxy(mut request: Request) -> Result<Response> {
///     let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
///     *request.uri_mut() = format!("https://backend.example.com{path}").parse()?;
///     Ok(wisp::http::send(request).await?)
/// }
/// # wisp::test::upstream("https://backend.example.com", async |request| Ok(request.uri().path().to_owned()));
/// # let response = wisp::test::block_on(proxy(wisp::test::request("GET", "/a").build())).unwrap();
/// # assert_eq!(wisp::test::block_on(response.into_body().bytes()).unwrap(), "/a");
/// ```
///
/// # Errors
/// See [`Error`].
pub async fn send(request: Request) -> Result<Response, Error> {
    transmit(request, Timeouts::default()).await
}

/// Percent-encodes a text so that it is one segment of a URL's path, whatever it holds. `.` and `..` stay what they are, which
/// no encoding makes names of.
///
/// ```
/// let name = "a/b?";
/// let url = format!("https://example.com/files/{}", wisp::http::encode_segment(name));
/// assert_eq!(url, "https://example.com/files/a%2Fb%3F");
/// ```
#[must_use]
pub fn encode_segment(text: &str) -> Cow<'_, str> {
    percent::encode(text)
}

/// A request to be sent by awaiting it.
///
/// ```
/// # wisp::test::upstream("https://example.com", async |_request| Ok("hello"));
/// # wisp::test::block_on(async {
/// let response = wisp::http::get("https://example.com/").header("accept", "text/plain").await?;
/// # Ok::<_, wisp::Error>(())
/// # }).unwrap();
/// ```
#[must_use = "a request is sent by awaiting it"]
pub struct RequestBuilder {
    method: Method,
    url: String,
    headers: Headers,
    body: Body,
    timeouts: Timeouts,
}

/// Without what may be a secret, as an error's.
impl fmt::Debug for RequestBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBuilder")
            .field("method", &self.method)
            .field("url", &without_secrets(&self.url))
            .field("headers", &self.headers)
            .field("timeouts", &self.timeouts)
            .finish_non_exhaustive()
    }
}

impl RequestBuilder {
    /// Sets a header, in place of one of that name that it or its client has. What is none, or the host's as `host` and
    /// `connection` are, is an error when the request is sent.
    ///
    /// ```
    /// let request = wisp::http::get("https://example.com/").header("accept", "text/plain");
    /// ```
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.set(name, value);
        self
    }

    /// Adds a header beside those of that name that the request or its client has. What is none, or the host's, is an error
    /// likewise.
    ///
    /// ```
    /// # wisp::test::upstream("https://example.com", async |request| {
    /// #     Ok(request.headers().get_all("accept").iter().count().to_string())
    /// # });
    /// # wisp::test::block_on(async {
    /// # use wisp::ResponseExt;
    /// let request = wisp::http::get("https://example.com/")
    ///     .append_header("accept", "text/html")
    ///     .append_header("accept", "text/plain;q=0.5");
    /// # assert_eq!(request.await?.text().await?, "2");
    /// # Ok::<_, wisp::Error>(())
    /// # }).unwrap();
    /// ```
    pub fn append_header(mut self, name: &str, value: &str) -> Self {
        self.headers.append(name, value);
        self
    }

    /// Adds `name=value` to the URL's query, percent-encoded. In a path, [`encode_segment`] does the same for a segment.
    ///
    /// ```
    /// # wisp::test::upstream("https://example.com", async |request| Ok(request.uri().to_string()));
    /// # wisp::test::block_on(async {
    /// # use wisp::ResponseExt;
    /// let request = wisp::http::get("https://example.com/search").query("q", "shoes & socks").query("page", 2);
    /// assert_eq!(request.await?.text().await?, "https://example.com/search?q=shoes%20%26%20socks&page=2");
    /// # Ok::<_, wisp::Error>(())
    /// # }).unwrap();
    /// ```
    pub fn query(mut self, name: &str, value: impl Display) -> Self {
        percent::add_to_query(&mut self.url, name, &value.to_string());
        self
    }

    /// Sets the body: bytes, a text, or a stream. A GET or HEAD whose body is a stream needs a `content-length`, and is an
    /// error without: HTTP/1.1 sends none of it.
    ///
    /// ```
    /// let request = wisp::http::post("https://example.com/").body(vec![1, 2, 3]);
    /// ```
    pub fn body(mut self, body: impl Into<Body>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets the body to JSON, with its `content-type` where none is set.
    ///
    /// ```
    /// let request = wisp::http::post("https://example.com/").json(&["a", "b"]);
    /// ```
    pub fn json<T: Serialize + ?Sized>(mut self, value: &T) -> Self {
        match serde_json::to_vec(value) {
            Ok(bytes) => {
                self.headers.or_insert(
                    header::CONTENT_TYPE,
                    HeaderValue::from_static("application/json"),
                );
                self.body = bytes.into();
            }
            Err(error) => self
                .headers
                .refuse(format!("its body has no JSON form: {error}")),
        }
        self
    }

    /// How long to wait for the head of the response.
    ///
    /// ```
    /// let request = wisp::http::get("https://example.com/").timeout(std::time::Duration::from_secs(2));
    /// ```
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeouts.head = Some(limit);
        self
    }

    /// How long to wait between two parts of the response's body.
    ///
    /// ```
    /// let request = wisp::http::get("https://example.com/").read_timeout(std::time::Duration::from_secs(2));
    /// ```
    pub fn read_timeout(mut self, limit: Duration) -> Self {
        self.timeouts.between_bytes = Some(limit);
        self
    }

    /// Sends it. Awaiting the request does the same.
    ///
    /// ```
    /// # wisp::test::upstream("https://example.com", async |_request| Ok("hello"));
    /// # wisp::test::block_on(async {
    /// let response = wisp::http::get("https://example.com/").send().await?;
    /// # Ok::<_, wisp::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn send(self) -> Result<Response, Error> {
        let Self {
            method,
            url,
            headers,
            body,
            timeouts,
        } = self;
        let fail = |method: &Method, cause| Error::new(method.clone(), &url, cause);
        let headers = headers
            .built
            .map_err(|detail| fail(&method, Cause::Invalid(detail)))?;
        let uri: Uri = url
            .parse()
            .map_err(|error| fail(&method, Cause::Invalid(format!("it is no URL: {error}"))))?;
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        transmit(request, timeouts).await
    }
}

impl IntoFuture for RequestBuilder {
    type Output = Result<Response, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Response, Error>>>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

async fn transmit(request: Request, timeouts: Timeouts) -> Result<Response, Error> {
    let method = request.method().clone();
    let url = request.uri().to_string();
    let sent = match check(&request) {
        Ok(()) => {
            let response = platform::client::send(request, timeouts);
            match timeouts.head {
                Some(limit) => time::timeout(limit, response)
                    .await
                    .unwrap_or(Err(Cause::TimedOut)),
                None => response.await,
            }
        }
        Err(detail) => Err(Cause::Invalid(detail)),
    };
    match sent {
        Ok(mut response) => {
            let upstream = Upstream(format!("{method} {}", without_secrets(&url)));
            response.extensions_mut().insert(upstream);
            Ok(response)
        }
        Err(cause) => Err(Error::new(method, &url, cause)),
    }
}

/// Whether the request can be sent as it is, or the sentence on why it can't.
fn check(request: &Request) -> Result<(), String> {
    let uri = request.uri();
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
        return Err("the URL must begin with http:// or https:// and name a host".to_owned());
    }
    if uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        // Which host a name before the @ is meant for is nobody's to guess.
        return Err("the URL holds a user's name or password, which can't be sent there: send them in the header `authorization`".to_owned());
    }
    // A body that came in is let pass: that of a GET has no length where it has no bytes.
    let method = request.method();
    if matches!(*method, Method::GET | Method::HEAD)
        && request.body().is_streamed()
        && !request.headers().contains_key(header::CONTENT_LENGTH)
    {
        return Err(format!(
            "its body is a stream, of which HTTP/1.1 sends nothing with {method}: send bytes, set `content-length`, or use another method"
        ));
    }
    Ok(())
}

/// Headers, or the sentence on what was wrong with the first that is none.
#[derive(Clone)]
struct Headers {
    built: Result<HeaderMap, String>,
}

/// Their names: values may be secrets.
impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.built {
            Ok(headers) => f.debug_set().entries(headers.keys()).finish(),
            Err(why) => f.debug_tuple("Wrong").field(why).finish(),
        }
    }
}

impl Default for Headers {
    fn default() -> Self {
        Self {
            built: Ok(HeaderMap::new()),
        }
    }
}

impl Headers {
    /// In place of what there is of that name.
    fn set(&mut self, name: &str, value: &str) {
        self.add(name, value, |headers, name, value| {
            headers.insert(name, value);
        });
    }

    /// Beside what there is of that name.
    fn append(&mut self, name: &str, value: &str) {
        self.add(name, value, |headers, name, value| {
            headers.append(name, value);
        });
    }

    fn add(
        &mut self,
        name: &str,
        value: &str,
        add: impl FnOnce(&mut HeaderMap, HeaderName, HeaderValue),
    ) {
        let Ok(headers) = &mut self.built else { return };
        match (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_str(value),
        ) {
            (Ok(name), Ok(_)) if is_of_the_connection(&name) => self.refuse(format!(
                "the header `{name}` is of the connection, which is the host's"
            )),
            (Ok(name), Ok(value)) => add(headers, name, value),
            (Err(_), _) => self.refuse(format!("`{name}` is no header name")),
            // The value may be a secret.
            (_, Err(_)) => self.refuse(format!(
                "the value of the header `{name}` holds characters that no header may"
            )),
        }
    }

    fn or_insert(&mut self, name: HeaderName, value: HeaderValue) {
        if let Ok(headers) = &mut self.built {
            headers.entry(name).or_insert(value);
        }
    }

    fn refuse(&mut self, detail: String) {
        self.built = Err(detail);
    }
}
