//! What a body says of itself that it is.

use ::http::{HeaderMap, StatusCode, header};

use crate::{Error, Result};

/// Refuses a body that says of itself that it isn't `expected`, which is what `fits` finds. One that says nothing is taken
/// for it.
pub(crate) fn check(
    headers: &HeaderMap,
    expected: &str,
    fits: impl FnOnce(&str) -> bool,
) -> Result<()> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let value = String::from_utf8_lossy(value.as_bytes());
    let essence = value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    if fits(&essence) {
        return Ok(());
    }
    Err(Error::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported-media-type",
        format!("the body's content-type is `{value}`; expected `{expected}`"),
    ))
}
