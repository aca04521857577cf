//! What is said to a replica and what it says, in bytes: HTTP/1.1, <https://www.rfc-editor.org/rfc/rfc9112>.
//!
//! What a replica says is its function's to choose, and a client's connection may carry other functions' responses after it:
//! a message that two readers could take for two different ones is none.

use std::io::Write as _;
use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, response};
use hyper::ext::ReasonPhrase;

use crate::forward;

mod body;

pub(crate) use self::body::{Chunks, Decoder, chunk, last_chunk};

/// The largest head of a response, and the largest trailers.
const MAX_HEAD: usize = 64 << 10;
/// The most header fields, or trailer fields.
const MAX_FIELDS: usize = 100;

/// What is no HTTP/1.1, or more than one could want of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("a head that is none")]
    Head(#[from] httparse::Error),
    #[error("a head of more than {MAX_HEAD} bytes")]
    HeadTooLarge,
    #[error("a field `{0}` that is none")]
    Field(String),
    #[error("a body whose length is said in two ways, or wrongly")]
    Framing,
    #[error("a chunk whose length is none")]
    Chunk,
}

/// How a request's body is told apart from what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none.
    None,
    Length(u64),
    Chunked,
}

/// Writes a request's head. Its framing is said here alone, and its `key` for the replica.
pub(crate) fn write_head(
    out: &mut Vec<u8>,
    parts: &Parts,
    framing: Framing,
    key: Option<&HeaderValue>,
) {
    let mut piece = |bytes: &[u8]| out.extend_from_slice(bytes);
    piece(parts.method.as_str().as_bytes());
    piece(b" ");
    // What has no path has the root's.
    piece(parts.uri.path().as_bytes());
    if let Some(query) = parts.uri.query() {
        piece(b"?");
        piece(query.as_bytes());
    }
    piece(b" HTTP/1.1\r\n");
    let mut is_length_said = false;
    for (name, value) in &parts.headers {
        if name == CONTENT_LENGTH {
            is_length_said = true;
        } else if name != TRANSFER_ENCODING {
            piece(name.as_str().as_bytes());
            piece(b": ");
            piece(value.as_bytes());
            piece(b"\r\n");
        }
    }
    if let Some(key) = key {
        piece(forward::KEY.as_str().as_bytes());
        piece(b": ");
        piece(key.as_bytes());
        piece(b"\r\n");
    }
    match framing {
        // A method that usually has a body says that there is none, <https://www.rfc-editor.org/rfc/rfc9110#section-8.6>.
        Framing::None
            if is_length_said
                || matches!(parts.method, Method::POST | Method::PUT | Method::PATCH) =>
        {
            piece(b"content-length: 0\r\n");
        }
        Framing::None => {}
        // Writing to memory never fails.
        Framing::Length(length) => _ = write!(out, "content-length: {length}\r\n"),
        Framing::Chunked => piece(b"transfer-encoding: chunked\r\n"),
    }
    out.extend_from_slice(b"\r\n");
}

/// A response's head, and what follows it.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) parts: response::Parts,
    pub(crate) body: Decoder,
    /// Whether the connection can be used for another exchange.
    pub(crate) is_kept: bool,
}

/// Takes a response's head from `input`, where all of it is there. `seen` bytes of it were looked at before.
pub(crate) fn read_head(
    input: &mut BytesMut,
    seen: &mut usize,
    asked: &Method,
) -> Result<Option<Head>, WireError> {
    let Some(end) = end_of_fields(input, seen)? else {
        return Ok(None);
    };
    let bytes = input.split_to(end).freeze();
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let parsing = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut parsed,
        &bytes,
        &mut fields,
    )?;
    // Lines that end otherwise than others end the head elsewhere.
    if parsing != httparse::Status::Complete(bytes.len()) {
        return Err(httparse::Error::NewLine.into());
    }
    let is_http_11 = parsed.version == Some(1);
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.version = Version::HTTP_11;
    parts.status = StatusCode::from_u16(parsed.code.unwrap_or_default())
        .map_err(|_| httparse::Error::Status)?;
    let reason = parsed.reason.unwrap_or_default();
    if Some(reason) != parts.status.canonical_reason()
        && let Ok(reason) = ReasonPhrase::try_from(reason.as_bytes())
    {
        parts.extensions.insert(reason);
    }
    parts.headers = headers(&bytes, parsed.headers)?;
    let length = length(&mut parts.headers)?;
    let encoding = chunked(&parts.headers)?;
    let is_bodiless = *asked == Method::HEAD
        || parts.status.is_informational()
        || matches!(
            parts.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
    let body = match (encoding, length) {
        (true, Some(_)) => return Err(WireError::Framing),
        (true, None) if !is_http_11 => return Err(WireError::Framing),
        _ if is_bodiless => Decoder::Done,
        (true, None) => Decoder::Chunked(Chunks::Size),
        (false, Some(0)) => Decoder::Done,
        (false, Some(length)) => Decoder::Length(length),
        (false, None) => Decoder::UntilClosed,
    };
    let is_kept = is_http_11 && body != Decoder::UntilClosed && !says_close(&parts.headers);
    Ok(Some(Head {
        parts,
        body,
        is_kept,
    }))
}

/// Where the empty line ends that ends a head.
fn end_of_fields(input: &[u8], seen: &mut usize) -> Result<Option<usize>, WireError> {
    const END: &[u8] = b"\r\n\r\n";
    let unseen = input.get(*seen..).unwrap_or_default();
    let end = memchr::memmem::find(unseen, END)
        .map(|at| at.saturating_add(*seen).saturating_add(END.len()));
    // That is no end, and who sends it waits for nothing more.
    if end.is_none() && memchr::memmem::find(unseen, b"\n\n").is_some() {
        return Err(httparse::Error::NewLine.into());
    }
    if end.map_or(input.len() > MAX_HEAD, |end| end > MAX_HEAD) {
        return Err(WireError::HeadTooLarge);
    }
    *seen = match end {
        Some(_) => 0,
        // Its end may have begun.
        None => input.len().saturating_sub(END.len() - 1),
    };
    Ok(end)
}

fn headers(bytes: &Bytes, fields: &[httparse::Header<'_>]) -> Result<HeaderMap, WireError> {
    // The way back adds some.
    let mut headers = HeaderMap::with_capacity(fields.len() + 2);
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes())
            .map_err(|_| WireError::Field(field.name.to_owned()))?;
        // Empty ones lie anywhere.
        let value = if field.value.is_empty() {
            HeaderValue::from_static("")
        } else {
            HeaderValue::from_maybe_shared(bytes.slice_ref(field.value))
                .map_err(|_| WireError::Field(field.name.to_owned()))?
        };
        headers.append(name, value);
    }
    Ok(headers)
}

/// The length that is said, once from now on.
fn length(headers: &mut HeaderMap) -> Result<Option<u64>, WireError> {
    let mut said = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = said.next() else {
        return Ok(None);
    };
    let is_repeated = match said.next() {
        None => false,
        Some(second) if second == first && said.all(|other| other == first) => true,
        Some(_) => return Err(WireError::Framing),
    };
    let text = first.to_str().map_err(|_| WireError::Framing)?;
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(WireError::Framing);
    }
    let length = text.parse().map_err(|_| WireError::Framing)?;
    if is_repeated {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(Some(length))
}

/// Whether the body is chunked, and nothing else.
fn chunked(headers: &HeaderMap) -> Result<bool, WireError> {
    let mut said = headers.get_all(TRANSFER_ENCODING).iter();
    match (said.next(), said.next()) {
        (None, _) => Ok(false),
        (Some(only), None) if only.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(true),
        // A function has no other to offer, and its client didn't ask for one.
        _ => Err(WireError::Framing),
    }
}

fn says_close(headers: &HeaderMap) -> bool {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|word| word.trim().eq_ignore_ascii_case("close"))
}

#[cfg(test)]
mod tests;
