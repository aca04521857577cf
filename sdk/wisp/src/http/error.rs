//! Why an outgoing request got no response.

use ::http::Method;

/// Why an outgoing request got no response. A response of any status is no error; see
/// [`error_for_status`](crate::ResponseExt::error_for_status).
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
    pub(crate) fn new(method: Method, url: String, cause: Cause) -> Self {
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
}
