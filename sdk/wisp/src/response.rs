//! Making responses, and reading those of others.

use std::future::Future;

use ::http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::http::{self, Upstream};
use crate::{Body, Bytes, Error, Response, Result};

/// JSON with status 200.
///
/// ```
/// let response = wisp::response::json(&[1, 2]).unwrap();
/// assert_eq!(response.headers()["content-type"], "application/json");
/// ```
///
/// # Errors
/// A 500 where `value` has no JSON form, such as a map whose keys are no strings.
pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Response> {
    Ok(with_type("application/json", serde_json::to_vec(value)?))
}

/// Plain text with status 200.
///
/// ```
/// let response = wisp::response::text("hello");
/// assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
/// ```
pub fn text(text: impl Into<String>) -> Response {
    with_type("text/plain; charset=utf-8", text.into())
}

/// HTML with status 200.
///
/// ```
/// let response = wisp::response::html("<h1>hello</h1>");
/// assert_eq!(response.headers()["content-type"], "text/html; charset=utf-8");
/// ```
pub fn html(html: impl Into<String>) -> Response {
    with_type("text/html; charset=utf-8", html.into())
}

/// Bytes with status 200 and `application/octet-stream`; set another `content-type` where they have one.
///
/// ```
/// let mut response = wisp::response::bytes(vec![0x89, b'P', b'N', b'G']);
/// response.headers_mut().insert("content-type", wisp::http::HeaderValue::from_static("image/png"));
/// ```
pub fn bytes(bytes: impl Into<Bytes>) -> Response {
    with_type("application/octet-stream", bytes.into())
}

/// A status and no body.
///
/// ```
/// use wisp::http::StatusCode;
/// assert_eq!(wisp::response::status(StatusCode::NO_CONTENT).status(), 204);
/// ```
#[must_use]
pub fn status(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// A redirect: 303, so that the client comes to `location` with GET.
///
/// One that begins with the request's [`prefix`](crate::RequestExt::prefix) leads to the same wherever the function is
/// reached, by its host or by its path, `/<namespace>/<name>/…`. Without the prefix, one that begins with `/` leads out of a
/// function that is reached by its path. A relative one, as `done`, goes on from the URL that the client asked for: from
/// `/<namespace>/<name>` without a slash at the end, which the function sees as `/`, it leads out likewise, and so does one
/// with too many `../`.
///
/// ```
/// use wisp::{Request, RequestExt, Response, Result, response};
///
/// async fn create(request: Request) -> Result<Response> {
///     response::redirect(&format!("{}/done", request.prefix()))
/// }
/// # let location = |request: wisp::test::TestRequest| wisp::test::call(create, request.build()).headers()["location"].clone();
/// # assert_eq!(location(wisp::test::request("GET", "/a/b").header("x-forwarded-prefix", "/default/shop")), "/default/shop/done");
/// # assert_eq!(location(wisp::test::request("GET", "/a/b")), "/done");
/// ```
///
/// # Errors
/// A 500 where `location` can't be in a header.
pub fn redirect(location: &str) -> Result<Response> {
    let mut response = status(StatusCode::SEE_OTHER);
    response
        .headers_mut()
        .insert(header::LOCATION, HeaderValue::from_str(location)?);
    Ok(response)
}

pub(crate) fn with_type(media_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// What a handler may return: a [`Response`], a text, bytes, a status, nothing (204), a status with any of them, and a
/// [`Result`] of any of them.
///
/// ```
/// use wisp::http::StatusCode;
/// use wisp::IntoResponse;
///
/// async fn created() -> impl IntoResponse {
///     (StatusCode::CREATED, "made")
/// }
/// let response = wisp::test::call(|_| created(), wisp::test::request("PUT", "/").build());
/// assert_eq!(response.status(), 201);
/// ```
#[diagnostic::on_unimplemented(
    message = "a handler can't return `{Self}`",
    label = "`{Self}` is no response",
    note = "it returns `wisp::Response`, a text, bytes, a `StatusCode`, `()`, or a `wisp::Result` of one of them"
)]
pub trait IntoResponse {
    /// The response, or the error that becomes one.
    ///
    /// ```
    /// use wisp::IntoResponse;
    /// assert_eq!("hello".into_response().unwrap().status(), 200);
    /// ```
    ///
    /// # Errors
    /// The handler's own.
    fn into_response(self) -> Result<Response>;
}

impl IntoResponse for Response {
    fn into_response(self) -> Result<Response> {
        Ok(self)
    }
}

impl<T: IntoResponse, E: Into<Error>> IntoResponse for Result<T, E> {
    fn into_response(self) -> Result<Response> {
        self.map_err(Into::into)?.into_response()
    }
}

impl IntoResponse for &'static str {
    fn into_response(self) -> Result<Response> {
        Ok(with_type("text/plain; charset=utf-8", self))
    }
}

impl IntoResponse for String {
    fn into_response(self) -> Result<Response> {
        Ok(text(self))
    }
}

impl IntoResponse for Bytes {
    fn into_response(self) -> Result<Response> {
        Ok(bytes(self))
    }
}

impl IntoResponse for Vec<u8> {
    fn into_response(self) -> Result<Response> {
        Ok(bytes(self))
    }
}

impl IntoResponse for StatusCode {
    fn into_response(self) -> Result<Response> {
        Ok(status(self))
    }
}

impl IntoResponse for () {
    fn into_response(self) -> Result<Response> {
        Ok(status(StatusCode::NO_CONTENT))
    }
}

impl<T: IntoResponse> IntoResponse for (StatusCode, T) {
    fn into_response(self) -> Result<Response> {
        let mut response = self.1.into_response()?;
        *response.status_mut() = self.0;
        Ok(response)
    }
}

/// Reads a [`Response`]: that of an outgoing request, or a handler's in a test. What is wrong with the former is logged with
/// its request's method and URL, without the query. A body of the function's own that fails is a 500. What was read stays in the response, so reading it again gives the same.
/// Where that is too much memory, `response.body_mut().bytes()` takes it.
///
/// ```
/// use wisp::ResponseExt;
///
/// let mut response = wisp::response::json(&["a", "b"]).unwrap();
/// let names: Vec<String> = wisp::test::block_on(response.json()).unwrap();
/// assert_eq!(names, ["a", "b"]);
/// ```
pub trait ResponseExt: Sized {
    /// The body as JSON, whatever its `content-type`.
    ///
    /// ```
    /// # use wisp::ResponseExt;
    /// let mut response = wisp::response::text("{");
    /// let error = wisp::test::block_on(response.json::<u8>()).unwrap_err();
    /// assert_eq!(error.status(), 500);
    /// ```
    ///
    /// # Errors
    /// A 500 where the body isn't that JSON: what another service sends is none of our client's mistakes. Where it didn't
    /// arrive as a whole a 502, or a 504 where it took too long.
    fn json<T: DeserializeOwned>(&mut self) -> impl Future<Output = Result<T>>;

    /// The whole body.
    ///
    /// ```
    /// # use wisp::ResponseExt;
    /// let mut response = wisp::response::text("hello");
    /// assert_eq!(wisp::test::block_on(response.bytes()).unwrap(), "hello");
    /// ```
    ///
    /// # Errors
    /// A 502 where it didn't arrive as a whole, or a 504 where it took too long.
    fn bytes(&mut self) -> impl Future<Output = Result<Bytes>>;

    /// The whole body as text.
    ///
    /// ```
    /// # use wisp::ResponseExt;
    /// let mut response = wisp::response::text("hello");
    /// assert_eq!(wisp::test::block_on(response.text()).unwrap(), "hello");
    /// ```
    ///
    /// # Errors
    /// A 500 where it isn't UTF-8. Where it didn't arrive as a whole a 502, or a 504 where it took too long.
    fn text(&mut self) -> impl Future<Output = Result<String>>;

    /// The response itself where its status is 2xx or 3xx.
    ///
    /// ```
    /// use wisp::ResponseExt;
    /// let response = wisp::response::status(wisp::http::StatusCode::NOT_FOUND);
    /// let error = response.error_for_status().unwrap_err();
    /// assert_eq!(error.source().unwrap().to_string(), "the response's status is 404 Not Found");
    /// ```
    ///
    /// # Errors
    /// A 500 where the status is 4xx or 5xx: whether the service fails or was asked the wrong thing is the function's to
    /// say, which looks at the status itself where its client is to get another.
    fn error_for_status(self) -> Result<Self>;
}

impl ResponseExt for Response {
    async fn json<T: DeserializeOwned>(&mut self) -> Result<T> {
        read(self, |bytes| Ok(serde_json::from_slice(bytes)?)).await
    }

    async fn bytes(&mut self) -> Result<Bytes> {
        read(self, |bytes| Ok(bytes.clone())).await
    }

    async fn text(&mut self) -> Result<String> {
        read(self, |bytes| Ok(str::from_utf8(bytes)?.to_owned())).await
    }

    fn error_for_status(self) -> Result<Self> {
        let status = self.status();
        if status.is_client_error() || status.is_server_error() {
            let error = Error::internal(format!("the response's status is {status}"));
            return Err(about(&self, error));
        }
        Ok(self)
    }
}

async fn read<T>(response: &mut Response, read: impl FnOnce(&Bytes) -> Result<T>) -> Result<T> {
    let made = response.body_mut().read(read).await;
    made.flatten().map_err(|error| about(response, error))
}

/// Says which request the response answers, where it is an outgoing request's: a function may ask many. A body that broke off
/// is the other service's doing then.
fn about(response: &Response, error: Error) -> Error {
    match response.extensions().get::<Upstream>() {
        Some(Upstream(request)) => http::of_body(error).about(request),
        None => error,
    }
}
