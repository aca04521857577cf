//! Header lists between the `http` crate and `wasi:http`.

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue};
use wasip2::http::types::{Fields, HeaderError};

use crate::http::is_of_the_connection;

/// Copies `wasi:http` fields. What is no valid header is left out.
pub(crate) fn from_fields(fields: &Fields) -> HeaderMap {
    let entries = fields.entries();
    let mut headers = HeaderMap::with_capacity(entries.len());
    for (name, value) in entries {
        let name = HeaderName::from_bytes(name.as_bytes());
        let value = HeaderValue::from_maybe_shared(bytes::Bytes::from(value));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

/// How long the body is, by its `content-length`; 0 where there is none.
pub(crate) fn length(headers: &HeaderMap) -> u64 {
    announced(headers).unwrap_or(0)
}

/// What the `content-length` says, where there is one.
pub(crate) fn announced(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// Copies what describes the message itself. Headers of one connection (RFC 9110, section 7.6.1) are the host's.
pub(crate) fn to_fields(headers: &HeaderMap) -> Result<Fields, HeaderError> {
    let entries: Vec<(String, Vec<u8>)> = headers
        .iter()
        .filter(|(name, _)| !is_of_the_connection(name))
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect();
    Fields::from_list(&entries)
}
