//! Why an outgoing request got no response.

use ::http::{Method, StatusCode};

use crate::body::ReadError;

/// Status, reason and detail for the client.
type Answer = (StatusCode, &'static str, &'static str);

const TIMED_OUT: Answer = (
    StatusCode::GATEWAY_TIMEOUT,
    "upstream-timeout",
    "a service that the function asked didn't answer in time",
);

const FAILED: Answer = (
    StatusCode::BAD_GATEWAY,
    "upstream-failed",
    "a service that the function asked can't be reached, or broke off",
);

/// Why an outgoing request got no response. It tells the URL without its query, and without a user's name and password: these
/// may be secrets, and errors are logged. A response of any status is no error; see
/// [`error_for_status`](crate::ResponseExt::error_for_status).
///
/// A handler that passes it on by `?` answers with a 504 where it [timed out](Self::is_timeout), with a 502 where the other
/// service couldn't be reached or broke off, and with a 500 where the request could never be sent as it is: it isn't allowed,
/// or is none. A response's body that breaks off or takes too long is answered likewise where
/// [`ResponseExt`](crate::ResponseExt) reads it.
///
/// ```
/// let error = wisp::test::block_on(async { wisp::http::get("https://example.com/").await }).unwrap_err();
/// assert!(error.is_denied());
/// assert_eq!(
///     error.to_string(),
///     "GET https://example.com/: the function's `spec.outbound.allow` doesn't name https://example.com",
/// );
/// ```
#[derive(Debug, thiserror::Error)]
#[error("{method} {url}: {}", .cause.text(.url))]
pub struct Error {
    method: Method,
    url: String,
    cause: Cause,
}

/// The URL without what may be a secret: what is before an `@`, and after a `?`. Errors are logged.
pub(super) fn without_secrets(url: &str) -> String {
    let (url, has_query) = match url.find(['?', '#']) {
        Some(end) => (url.get(..end).unwrap_or_default(), true),
        None => (url, false),
    };
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let separator = if scheme.is_empty() { "" } else { "://" };
    let query = if has_query { "?…" } else { "" };
    format!("{scheme}{separator}{host}{path}{query}")
}

#[derive(Debug)]
#[cfg_attr(
    not(target_family = "wasm"),
    expect(dead_code, reason = "a test's upstreams fail in fewer ways")
)]
pub(crate) enum Cause {
    /// The origin isn't in the function's allow-list.
    Denied,
    /// The name resolves to an address that the allow-list doesn't name.
    AddressDenied,
    TimedOut,
    Unresolved,
    Refused,
    /// The request itself is wrong.
    Invalid(String),
    Failed(String),
}

impl Cause {
    fn text(&self, url: &str) -> String {
        match self {
            Self::Denied => {
                let path = url
                    .find("://")
                    .and_then(|at| url.get(at + 3..)?.find('/').map(|slash| at + 3 + slash));
                let origin = path.and_then(|at| url.get(..at)).unwrap_or(url);
                format!("the function's `spec.outbound.allow` doesn't name {origin}")
            }
            Self::AddressDenied => {
                "it resolves to a loopback, private or metadata address, which the function's \
                                    `spec.outbound.allow` must name itself"
                    .to_owned()
            }
            Self::TimedOut => "timed out".to_owned(),
            Self::Unresolved => "its host can't be resolved".to_owned(),
            Self::Refused => "the connection is refused".to_owned(),
            Self::Invalid(detail) | Self::Failed(detail) => detail.clone(),
        }
    }
}

impl Error {
    pub(crate) fn new(method: Method, url: &str, cause: Cause) -> Self {
        let url = without_secrets(url);
        Self { method, url, cause }
    }

    /// Whether the function isn't allowed to send requests there.
    ///
    /// ```
    /// let error = wisp::test::block_on(async { wisp::http::get("https://example.com/").await }).unwrap_err();
    /// assert!(error.is_denied());
    /// ```
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self.cause, Cause::Denied | Cause::AddressDenied)
    }

    /// Whether the time was over before there was a response.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// wisp::test::upstream("https://slow.example.com", async |_request| {
    ///     wisp::time::sleep(Duration::from_secs(60)).await;
    ///     Ok(wisp::response::text("late"))
    /// });
    /// let client = wisp::http::Client::new().timeout(Duration::from_secs(1));
    /// let error = wisp::test::block_on(client.get("https://slow.example.com/").send()).unwrap_err();
    /// assert!(error.is_timeout());
    /// ```
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self.cause, Cause::TimedOut)
    }

    /// What the client is told, where another service is to blame.
    pub(crate) fn answer(&self) -> Option<Answer> {
        match self.cause {
            Cause::TimedOut => Some(TIMED_OUT),
            Cause::Unresolved | Cause::Refused | Cause::Failed(_) => Some(FAILED),
            Cause::Denied | Cause::AddressDenied | Cause::Invalid(_) => None,
        }
    }
}

/// `error` of a response's body, answered likewise where the service broke it off.
pub(crate) fn of_body(error: crate::Error) -> crate::Error {
    match ReadError::of_sender(&error).map(ReadError::is_timeout) {
        Some(true) => error.answered(TIMED_OUT),
        Some(false) => error.answered(FAILED),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if a key in a URL came to lie in a log.
    #[test]
    fn an_error_tells_no_secrets_of_its_url() {
        for (url, told) in [
            ("https://a.example/x?key=s3cret", "https://a.example/x?…"),
            (
                "https://ada:s3cret@a.example:8443/x",
                "https://a.example:8443/x",
            ),
            ("https://ada:s3@cret@a.example", "https://a.example"),
            ("https://a.example#s3cret", "https://a.example?…"),
            ("ada:s3cret@a.example/x?s3cret", "a.example/x?…"),
            ("https://a.example/@x", "https://a.example/@x"),
            ("not a url", "not a url"),
        ] {
            let error = Error::new(Method::GET, url, Cause::Denied);
            let (shown, debug) = (error.to_string(), format!("{error:?}"));
            assert!(shown.starts_with(&format!("GET {told}: ")), "{shown}");
            assert!(
                !shown.contains("cret") && !debug.contains("cret"),
                "{shown}"
            );
        }
    }
}
