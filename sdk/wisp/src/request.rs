//! Reading a request.

use std::cell::RefCell;
use std::future::Future;
use std::str::FromStr;

use ::http::{HeaderValue, StatusCode, header};
use serde::de::DeserializeOwned;

use crate::body::ReadError;
use crate::percent::Text;
use crate::router::Params;
use crate::{Bytes, Error, Form, Request, Result, form, json, percent};

thread_local! {
    static ID: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The id of the request that is being handled, from its header `x-request-id`: the host's log lines, the response and
/// problem bodies carry the same. Empty outside of a request, and where the host gives none.
///
/// ```
/// async fn handle() -> String {
///     wisp::request_id()
/// }
/// let request = wisp::test::request("GET", "/").header("x-request-id", "42").build();
/// let mut response = wisp::test::call(|_| handle(), request);
/// # use wisp::ResponseExt;
/// assert_eq!(wisp::test::block_on(response.text()).unwrap(), "42");
/// ```
#[must_use]
pub fn request_id() -> String {
    ID.with_borrow(Clone::clone)
}

/// Begins a request.
pub(crate) fn set_id(header: Option<&HeaderValue>) {
    let id = header
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    ID.with_borrow_mut(|current| {
        current.clear();
        current.push_str(id);
    });
}

/// Reads a [`Request`]: its body, query, cookies and path parameters. What the client got wrong is an error that becomes a 400
/// (or 415) which says so. What `json`, `form`, `bytes` and `text` read stays in the request, so reading it again gives the same, and
/// [`http::send`](crate::http::send) sends it on. A body that is large is in memory as long as the request is then, and twice with
/// its text: where that is too much, `request.body_mut().bytes()` takes it, and [`chunk`](crate::Body::chunk) takes it bit by bit.
///
/// ```
/// # use wisp::{Request, RequestExt, Result};
/// # #[derive(serde::Deserialize)]
/// # struct Event { id: u32 }
/// # fn verify(_: &wisp::http::HeaderMap, _: &[u8]) -> Result<()> { Ok(()) }
/// async fn hook(mut request: Request) -> Result<String> {
///     let signed = request.bytes().await?;
///     verify(request.headers(), &signed)?;
///     let event: Event = request.json().await?;
///     Ok(event.id.to_string())
/// }
/// # let request = wisp::test::request("POST", "/").body(r#"{"id": 7}"#);
/// # assert_eq!(wisp::test::block_on(hook(request)).unwrap(), "7");
/// ```
///
/// ```
/// use wisp::{Request, RequestExt, Response, Result, response};
///
/// #[derive(serde::Deserialize)]
/// struct Order { item: String }
///
/// async fn handle(mut request: Request) -> Result<Response> {
///     let order: Order = request.json().await?;
///     Ok(response::text(order.item))
/// }
///
/// let request = wisp::test::request("POST", "/").body(r#"{"item": 3}"#);
/// let error = wisp::test::block_on(handle(request)).unwrap_err();
/// assert_eq!(error.status(), 400);
/// assert!(error.detail().ends_with("expected a string at line 1 column 10"));
/// ```
pub trait RequestExt {
    /// The body as JSON. Reading it again gives the same;
    /// `request.body_mut().bytes()` takes it, where the request needn't keep the memory.
    ///
    /// ```
    /// # use wisp::RequestExt;
    /// let mut request = wisp::test::request("POST", "/").body("[1, 2]");
    /// let numbers: Vec<u8> = wisp::test::block_on(request.json()).unwrap();
    /// assert_eq!(numbers, [1, 2]);
    /// ```
    ///
    /// # Errors
    /// 415 where `content-type` is there and not JSON; 400 with line and column where the body isn't that JSON, or
    /// didn't arrive as a whole.
    fn json<T: DeserializeOwned>(&mut self) -> impl Future<Output = Result<T>>;

    /// The body as a form, `application/x-www-form-urlencoded`. Reading it again gives the same;
    /// `request.body_mut().bytes()` takes it, where the request needn't keep the memory.
    ///
    /// ```
    /// # use wisp::RequestExt;
    /// let mut request = wisp::test::request("POST", "/login").body("user=Ada&page=%2Fhome");
    /// let form = wisp::test::block_on(request.form()).unwrap();
    /// assert_eq!(form.get::<String>("page").unwrap().unwrap(), "/home");
    /// ```
    ///
    /// # Errors
    /// 415 where `content-type` is there and another, as `multipart/form-data` is; 400 where the body holds what is no UTF-8
    /// text, or didn't arrive as a whole.
    fn form(&mut self) -> impl Future<Output = Result<Form>>;

    /// The whole body. Its size is bounded by the function's `limits.requestBody`. Reading it again gives the same;
    /// `request.body_mut().bytes()` takes it, where the request needn't keep the memory.
    ///
    /// ```
    /// # use wisp::RequestExt;
    /// let mut request = wisp::test::request("POST", "/").body("abc");
    /// assert_eq!(wisp::test::block_on(request.bytes()).unwrap(), "abc");
    /// ```
    ///
    /// # Errors
    /// 400 where it didn't arrive as a whole.
    fn bytes(&mut self) -> impl Future<Output = Result<Bytes>>;

    /// The whole body as text. Reading it again gives the same;
    /// `request.body_mut().bytes()` takes it, where the request needn't keep the memory.
    ///
    /// ```
    /// # use wisp::RequestExt;
    /// let mut request = wisp::test::request("POST", "/").body(vec![0xff]);
    /// let error = wisp::test::block_on(request.text()).unwrap_err();
    /// assert_eq!(error.detail(), "the body is no UTF-8 text: byte 0 is 0xff");
    /// ```
    ///
    /// # Errors
    /// 400 where it isn't UTF-8, or didn't arrive as a whole.
    fn text(&mut self) -> impl Future<Output = Result<String>>;

    /// A parameter of the path that the [`Router`](crate::Router) matched, decoded and parsed.
    ///
    /// ```
    /// use wisp::{Request, RequestExt, Result, Router};
    ///
    /// async fn user(request: Request) -> Result<String> {
    ///     let id: u64 = request.param("id")?;
    ///     Ok(format!("user {id}"))
    /// }
    /// let router = Router::new().get("/users/{id}", user);
    /// let error = wisp::test::block_on(router.handle(wisp::test::request("GET", "/users/x").build())).unwrap_err();
    /// assert_eq!(error.detail(), "`id` in the path is `x`: invalid digit found in string");
    /// ```
    ///
    /// # Errors
    /// 400 where it doesn't parse, or isn't UTF-8; 500 where the route has no such parameter.
    fn param<T: FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<T>;

    /// A value of the query, decoded and parsed: the first where there are several, `None` where the name isn't there.
    ///
    /// ```
    /// # use wisp::RequestExt;
    /// let request = wisp::test::request("GET", "/search?q=red+shoes&top=5").build();
    /// assert_eq!(request.query::<String>("q").unwrap().unwrap(), "red shoes");
    /// assert_eq!(request.query::<usize>("top").unwrap(), Some(5));
    /// assert_eq!(request.query::<usize>("page").unwrap(), None);
    /// ```
    ///
    /// # Errors
    /// 400 where it doesn't parse, or isn't UTF-8.
    fn query<T: FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<Option<T>>;

    /// All values of that name in the query, in their order, decoded and parsed.
    ///
    /// ```
    /// # use wisp::RequestExt;
    /// let request = wisp::test::request("GET", "/items?tag=red&tag=new").build();
    /// assert_eq!(request.query_all::<String>("tag").unwrap(), ["red", "new"]);
    /// assert!(request.query_all::<String>("size").unwrap().is_empty());
    /// ```
    ///
    /// # Errors
    /// 400 where one of them doesn't parse, or isn't UTF-8.
    fn query_all<T: FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<Vec<T>>;

    /// The value of a cookie as the client sends it (RFC 6265, section 4.2), quotes and escapes included: the first where
    /// there are several, `None` where there is none, or it isn't UTF-8.
    ///
    /// ```
    /// # use wisp::RequestExt;
    /// let request = wisp::test::request("GET", "/").header("cookie", "theme=dark; session=a1b2").build();
    /// assert_eq!(request.cookie("session"), Some("a1b2"));
    /// assert_eq!(request.cookie("user"), None);
    /// ```
    fn cookie(&self, name: &str) -> Option<&str>;

    /// What the gateway took from the path, `/<namespace>/<name>`, from its header `x-forwarded-prefix`; empty where the
    /// function was reached by its host. What the function's own paths begin with for the client, as in links.
    ///
    /// ```
    /// # use wisp::RequestExt;
    /// let request = wisp::test::request("GET", "/items").header("x-forwarded-prefix", "/default/shop").build();
    /// assert_eq!(request.prefix(), "/default/shop");
    /// let request = wisp::test::request("GET", "/items").header("host", "shop.example.com").build();
    /// assert_eq!(request.prefix(), "");
    /// ```
    fn prefix(&self) -> &str;

    /// The URL that the client asked for, by the gateway's headers `x-forwarded-proto`, `x-forwarded-host` and
    /// `x-forwarded-prefix`, and by the URI itself where they aren't; without scheme and host where nobody names a host.
    /// Where the client asked for `/<namespace>/<name>` without a slash at the end, it has the slash.
    ///
    /// The gateway takes nobody's word for these headers, save that of proxies before it which it was told to trust. Where
    /// requests come another way they are as true as who sends them. The host is the client's choice in either case, so a
    /// link that goes to somebody else, as in a mail, is made from a setting. There is no header `host`:
    /// [`Uri::host`](crate::http::Uri::host) of the request's URI is what came in it.
    ///
    /// ```
    /// # use wisp::RequestExt;
    /// let request = wisp::test::request("GET", "/items?page=2")
    ///     .header("x-forwarded-proto", "https")
    ///     .header("x-forwarded-host", "example.com")
    ///     .header("x-forwarded-prefix", "/default/shop")
    ///     .build();
    /// assert_eq!(request.url(), "https://example.com/default/shop/items?page=2");
    /// ```
    fn url(&self) -> String;
}

impl RequestExt for Request {
    async fn json<T: DeserializeOwned>(&mut self) -> Result<T> {
        json::check_type(self.headers())?;
        let read = self.body_mut().read(|bytes| json::from_client(bytes));
        read.await.map_err(unreadable)?
    }

    async fn form(&mut self) -> Result<Form> {
        form::check_type(self.headers())?;
        let read = self.body_mut().read(|bytes| Form::from_client(bytes));
        read.await.map_err(unreadable)?
    }

    async fn bytes(&mut self) -> Result<Bytes> {
        self.body_mut().read(Bytes::clone).await.map_err(unreadable)
    }

    async fn text(&mut self) -> Result<String> {
        let read = self.body_mut().read(|bytes| text(bytes));
        read.await.map_err(unreadable)?
    }

    fn param<T: FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<T> {
        let value = self
            .extensions()
            .get::<Params>()
            .and_then(|params| params.get(name));
        let value = value
            .ok_or_else(|| Error::internal(format!("the route has no parameter `{{{name}}}`")))?;
        let text =
            percent::decode(value).ok_or_else(|| percent::no_text(name, Text::Path, value))?;
        percent::parse(name, Text::Path, &text)
    }

    fn query<T: FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<Option<T>> {
        let mut values = percent::query_values(self.uri().query(), name);
        values.next().transpose()
    }

    fn query_all<T: FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<Vec<T>> {
        percent::query_values(self.uri().query(), name).collect()
    }

    fn cookie(&self, name: &str) -> Option<&str> {
        let headers = self.headers().get_all(header::COOKIE).iter();
        headers
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b';'))
            .filter_map(|pair| str::from_utf8(pair).ok()?.trim().split_once('='))
            .find_map(|(key, value)| (key == name).then_some(value))
    }

    fn prefix(&self) -> &str {
        let prefix = forwarded(self, "x-forwarded-prefix").unwrap_or_default();
        prefix.trim_end_matches('/')
    }

    fn url(&self) -> String {
        let uri = self.uri();
        let (prefix, path) = (self.prefix(), uri.path_and_query());
        let path = path.map_or("/", |path| path.as_str());
        let host = uri.authority().map(|authority| authority.as_str());
        let Some(host) = forwarded(self, "x-forwarded-host").or(host) else {
            return format!("{prefix}{path}");
        };
        let scheme = forwarded(self, "x-forwarded-proto").or(uri.scheme_str());
        format!("{}://{host}{prefix}{path}", scheme.unwrap_or("http"))
    }
}

/// What a header of the gateway's says: of several proxies the one that the client asked.
fn forwarded<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    let value = request.headers().get(name)?.to_str().ok()?;
    let first = value.split(',').next()?.trim();
    (!first.is_empty()).then_some(first)
}

fn text(bytes: &[u8]) -> Result<String> {
    let text = str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        let byte = bytes.get(at).copied().unwrap_or_default();
        Error::bad_request(format!(
            "the body is no UTF-8 text: byte {at} is {byte:#04x}"
        ))
    })?;
    Ok(text.to_owned())
}

/// A body that its sender broke off is the client's doing.
fn unreadable(error: Error) -> Error {
    match ReadError::of_sender(&error) {
        Some(cause) => {
            let detail = format!("the body didn't arrive as a whole: {cause}");
            Error::new(StatusCode::BAD_REQUEST, "incomplete-body", detail)
        }
        None => error,
    }
}

#[cfg(test)]
mod tests;
