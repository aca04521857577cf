//! JSON, and what is said of JSON that is wrong.

use ::http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use crate::{Error, content_type};

/// Appends `text` as a JSON string (RFC 8259, section 7).
pub(crate) fn push_string(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if control < ' ' => {
                const HEX: [char; 16] = [
                    '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
                ];
                let code = control as usize;
                out.push_str("\\u00");
                out.extend(HEX.get(code >> 4));
                out.extend(HEX.get(code & 15));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

/// Refuses a body that says of itself that it is something else.
pub(crate) fn check_type(headers: &HeaderMap) -> Result<(), Error> {
    content_type::check(headers, "application/json", |essence| {
        essence == "application/json" || essence == "text/json" || essence.ends_with("+json")
    })
}

/// Reads a request's body.
pub(crate) fn from_client<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    if bytes.is_empty() {
        return Err(Error::new(
            StatusCode::BAD_REQUEST,
            "invalid-json",
            "the body is empty; expected JSON",
        ));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let detail = match error.classify() {
            Category::Data => format!("the body is JSON, but not what is expected here: {error}"),
            Category::Eof => format!("the body ends before its JSON does: {error}"),
            Category::Syntax | Category::Io => format!("the body is no valid JSON: {error}"),
        };
        Error::new(StatusCode::BAD_REQUEST, "invalid-json", detail)
    })
}
