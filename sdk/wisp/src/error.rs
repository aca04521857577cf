//! An error that becomes the response.

use std::any::Any;
use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

use ::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::{Body, Response, json, request};

/// An error that becomes the response: `application/problem+json` (RFC 9457) with the status, a stable word for machines
/// (`reason`) and one sentence for the client (`detail`).
///
/// Every standard error converts into one by `?`: a 500 whose text goes to the log, and never to the client. Of
/// [`http::Error`](crate::http::Error), what another service is to blame for is a 502, or a 504 where it took too long; so is
/// what [`ResponseExt`](crate::ResponseExt) says of a response that broke off.
///
/// ```
/// use wisp::Error;
/// use wisp::http::StatusCode;
///
/// fn top(text: &str) -> wisp::Result<usize> {
///     let top = text.parse().map_err(|_| Error::bad_request(format!("`top` is `{text}`; expected 1 to 10")))?;
///     if top > 10 {
///         return Err(Error::new(StatusCode::UNPROCESSABLE_ENTITY, "too-many", format!("`top` is {top}; at most 10")));
///     }
///     Ok(top)
/// }
/// assert_eq!(top("x").unwrap_err().reason(), "bad-request");
/// assert_eq!(top("11").unwrap_err().status(), 422);
/// ```
///
/// # An error type of your own with statuses
///
/// Implement `From` it for `wisp::Error`, and not [`std::error::Error`], by which it would be a 500 already:
///
/// ```
/// use wisp::http::StatusCode;
/// use wisp::{Error, Request};
///
/// enum ShopError {
///     SoldOut,
///     Storage(std::io::Error),
/// }
///
/// impl From<ShopError> for Error {
///     fn from(error: ShopError) -> Self {
///         match error {
///             ShopError::SoldOut => Self::new(StatusCode::CONFLICT, "sold-out", "there is none left"),
///             ShopError::Storage(error) => error.into(),
///         }
///     }
/// }
///
/// async fn buy(_request: Request) -> Result<&'static str, ShopError> {
///     Err(ShopError::SoldOut)
/// }
/// # let response = wisp::test::call(buy, wisp::test::request("POST", "/").build());
/// # assert_eq!(response.status(), 409);
/// # assert_eq!(Error::from(ShopError::Storage(std::io::Error::other("disk"))).status(), 500);
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    status: StatusCode,
    reason: Cow<'static, str>,
    detail: Cow<'static, str>,
    headers: HeaderMap,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error with any status. `reason` is a word of a small, stable set, such as `no-such-user`; `detail` is a
    /// sentence that the client may read.
    ///
    /// ```
    /// let error = wisp::Error::new(wisp::http::StatusCode::CONFLICT, "taken", "the name `a` is taken");
    /// assert_eq!(error.to_string(), "409 taken: the name `a` is taken");
    /// ```
    pub fn new(
        status: StatusCode,
        reason: impl Into<Cow<'static, str>>,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self(Box::new(Inner {
            status,
            reason: reason.into(),
            detail: detail.into(),
            headers: HeaderMap::new(),
            source: None,
        }))
    }

    /// A 400 with reason `bad-request`.
    ///
    /// ```
    /// assert_eq!(wisp::Error::bad_request("`top` is missing").status(), 400);
    /// ```
    pub fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", detail)
    }

    /// A 404 with reason `not-found`.
    ///
    /// ```
    /// assert_eq!(wisp::Error::not_found("there is no user 7").status(), 404);
    /// ```
    pub fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", detail)
    }

    /// A 500 with reason `internal-error`. The client learns nothing of `source`; the log has it, with its causes.
    /// What implements [`std::error::Error`] becomes one by `?` alone; this takes texts too.
    ///
    /// ```
    /// let error = wisp::Error::internal("the index is empty");
    /// assert_eq!(error.status(), 500);
    /// assert!(!error.detail().contains("index"));
    /// ```
    pub fn internal(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal-error",
            "the function failed; its log says why",
        )
        .with_source(source)
    }

    /// Adds what caused it, for the log: at level error from status 500 on, at level info below.
    ///
    /// ```
    /// let cause = "x".parse::<u8>().unwrap_err();
    /// let error = wisp::Error::bad_request("`top` is no number").with_source(cause);
    /// assert_eq!(error.source().unwrap().to_string(), "invalid digit found in string");
    /// ```
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same, for which the client gets another answer.
    pub(crate) fn answered(
        mut self,
        (status, reason, detail): (StatusCode, &'static str, &'static str),
    ) -> Self {
        self.0.status = status;
        self.0.reason = reason.into();
        self.0.detail = detail.into();
        self
    }

    /// Adds to the log's text what the source is about.
    pub(crate) fn about(mut self, what: &str) -> Self {
        if let Some(source) = self.0.source.take() {
            self.0.source = Some(Box::new(About {
                what: what.to_owned(),
                source,
            }));
        }
        self
    }

    /// Adds a header to the response, as `retry-after` or `www-authenticate`.
    ///
    /// ```
    /// use wisp::http::{HeaderValue, StatusCode, header};
    ///
    /// let error = wisp::Error::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "try again in a second")
    ///     .with_header(header::RETRY_AFTER, HeaderValue::from_static("1"));
    /// assert_eq!(error.into_response().headers()["retry-after"], "1");
    /// ```
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.append(name, value);
        self
    }

    /// The response's status.
    ///
    /// ```
    /// assert_eq!(wisp::Error::not_found("no").status(), 404);
    /// ```
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The stable word for machines.
    ///
    /// ```
    /// assert_eq!(wisp::Error::not_found("no").reason(), "not-found");
    /// ```
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    /// The sentence for the client.
    ///
    /// ```
    /// assert_eq!(wisp::Error::not_found("there is no user 7").detail(), "there is no user 7");
    /// ```
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// What caused it, which only the log sees.
    ///
    /// ```
    /// assert!(wisp::Error::not_found("no").source().is_none());
    /// ```
    #[must_use]
    pub fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0
            .source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }

    /// The response that the client gets. The log gets what the client isn't told: the cause of what is 500 or more, or
    /// was added by [`Error::with_source`]. A handler that returns the error needn't call this.
    ///
    /// ```
    /// let response = wisp::Error::not_found("there is no user 7").into_response();
    /// assert_eq!(response.headers()["content-type"], "application/problem+json");
    /// ```
    #[must_use]
    pub fn into_response(self) -> Response {
        self.report();
        let body = self.problem(&request::request_id());
        let Inner {
            status, headers, ..
        } = *self.0;
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        response
    }

    /// RFC 9457's problem details with wisp's members. Written by hand: a function without any other JSON needs no more.
    fn problem(&self, request_id: &str) -> String {
        let Inner {
            status,
            reason,
            detail,
            ..
        } = &*self.0;
        let fault = if status.is_server_error() {
            "function"
        } else {
            "client"
        };
        let retryable = matches!(
            *status,
            StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        );
        let title = status.canonical_reason().unwrap_or("Error");
        let mut text = String::with_capacity(192 + detail.len());
        for (name, value) in [
            ("type", "about:blank"),
            ("title", title),
            ("detail", detail),
            ("reason", reason),
        ] {
            text.push(if text.is_empty() { '{' } else { ',' });
            json::push_string(&mut text, name);
            text.push(':');
            json::push_string(&mut text, value);
        }
        text.push_str(",\"status\":");
        text.push_str(status.as_str());
        text.push_str(",\"fault\":");
        json::push_string(&mut text, fault);
        text.push_str(if retryable {
            ",\"retryable\":true"
        } else {
            ",\"retryable\":false"
        });
        text.push_str(",\"requestId\":");
        json::push_string(&mut text, request_id);
        text.push('}');
        text
    }

    /// What the log says: the source with its causes, or else the sentence for the client.
    pub(crate) fn chain(&self) -> String {
        let Some(source) = self.source() else {
            return self.detail().to_owned();
        };
        let mut text = source.to_string();
        let mut next = source.source();
        while let Some(cause) = next {
            let cause_text = cause.to_string();
            // Some errors show their cause themselves.
            if !text.ends_with(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            next = cause.source();
        }
        text
    }

    /// Writes to the log what the client isn't told. A client's own mistakes are none of the log's business, unless a cause
    /// was added for it.
    fn report(&self) {
        let level = if self.status().is_server_error() {
            ::log::Level::Error
        } else if self.0.source.is_some() {
            ::log::Level::Info
        } else {
            return;
        };
        let (status, reason) = (self.status(), self.reason());
        let line = format!("{} {reason}: {}", status.as_str(), self.chain());
        crate::report::write(level, &line);
    }
}

/// What a failure is about.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
struct About {
    what: String,
    source: Box<dyn StdError + Send + Sync>,
}

impl<E: StdError + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        // There is no second `From` beside one of every error.
        let asked: Option<&crate::http::Error> = (&error as &dyn Any).downcast_ref();
        match asked.and_then(crate::http::Error::answer) {
            Some((status, reason, detail)) => Self::new(status, reason, detail).with_source(error),
            None => Self::internal(error),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}: {}",
            self.status().as_str(),
            self.reason(),
            self.detail()
        )
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)?;
        match &self.0.source {
            Some(_) => write!(f, " ({})", self.chain()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
