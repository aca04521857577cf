//! Configuration and secrets: what the function's `spec.env` says, read through `wasi:config`.
//!
//! Values are read when asked for. Don't keep one in [`#[wisp::init]`](macro@crate::init): it would lie in the
//! component's snapshot.
//!
//! ```
//! wisp::test::config("GREETING", "hello");
//! assert_eq!(wisp::config::get("GREETING").unwrap().as_deref(), Some("hello"));
//! assert_eq!(wisp::config::get("MISSING").unwrap(), None);
//! ```

use crate::platform;

/// Why a value couldn't be had.
///
/// ```
/// let error = wisp::config::require("TOKEN").unwrap_err();
/// assert_eq!(error.to_string(), "`TOKEN` isn't configured: name it in the function's `spec.env`");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The function's configuration doesn't have it.
    #[error("`{key}` isn't configured: name it in the function's `spec.env`")]
    Missing {
        /// The key that was asked for.
        key: String,
    },
    /// The host couldn't read it.
    #[error("`{key}` can't be read: {detail}")]
    Unreadable {
        /// The key that was asked for.
        key: String,
        /// The host's words.
        detail: String,
    },
}

/// The value of `key`, `None` where there is none.
///
/// ```
/// wisp::test::config("LEVEL", "info");
/// assert_eq!(wisp::config::get("LEVEL").unwrap().unwrap(), "info");
/// ```
///
/// # Errors
/// [`Error::Unreadable`].
pub fn get(key: &str) -> Result<Option<String>, Error> {
    platform::config::get(key)
}

/// The value of `key`, which the function can't do without. Secrets are values like others: they come from
/// `valueFrom.secretKeyRef`.
///
/// ```
/// wisp::test::config("TOKEN", "hunter2");
/// assert_eq!(wisp::config::require("TOKEN").unwrap(), "hunter2");
/// ```
///
/// # Errors
/// [`Error::Missing`] and [`Error::Unreadable`].
pub fn require(key: &str) -> Result<String, Error> {
    get(key)?.ok_or_else(|| Error::Missing {
        key: key.to_owned(),
    })
}
