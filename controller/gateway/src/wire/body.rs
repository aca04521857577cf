//! Bodies: where they end.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    COOKIE, HOST, HeaderName, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http_body::Frame;

use super::{MAX_FIELDS, WireError, end_of_fields, headers};
use crate::forward;

/// The longest line that says how long a chunk is.
const MAX_CHUNK_LINE: usize = 4 << 10;

/// A piece of a body whose length nobody said before. Not an empty one, which would end it.
pub(crate) fn chunk(data: Bytes) -> impl Buf {
    let size = Bytes::from(format!("{:x}\r\n", data.len()));
    size.chain(data).chain(&b"\r\n"[..])
}

/// The end of such a body.
pub(crate) fn last_chunk(trailers: &HeaderMap) -> Vec<u8> {
    let mut out = b"0\r\n".to_vec();
    for (name, value) in trailers.iter().filter(|(name, _)| may_trail(name)) {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// What frames, routes or admits a message has to come before it, <https://www.rfc-editor.org/rfc/rfc9110#section-6.5.1>.
fn may_trail(name: &HeaderName) -> bool {
    ![
        AUTHORIZATION,
        CONNECTION,
        CONTENT_ENCODING,
        CONTENT_LENGTH,
        CONTENT_RANGE,
        CONTENT_TYPE,
        COOKIE,
        HOST,
        SET_COOKIE,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
        forward::KEY,
    ]
    .contains(name)
}

/// Tells a response's body from what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decoder {
    /// There is none, or no more of it.
    Done,
    /// So many bytes are left.
    Length(u64),
    Chunked(Chunks),
    UntilClosed,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chunks {
    Size,
    /// So many bytes are left of the chunk.
    Data(u64),
    /// The end of its line.
    End,
    /// What follows the last; so many bytes of it were looked at.
    Trailers(usize),
}

impl Decoder {
    /// Takes the next piece of the body from `input`, where there is one.
    pub(crate) fn decode(
        &mut self,
        input: &mut BytesMut,
    ) -> Result<Option<Frame<Bytes>>, WireError> {
        match self {
            Self::Done => Ok(None),
            Self::UntilClosed => Ok(piece(input, u64::MAX).map(Frame::data)),
            Self::Length(left) => {
                let data = piece(input, *left);
                *left = left.saturating_sub(data.as_ref().map_or(0, Bytes::len) as u64);
                if *left == 0 {
                    *self = Self::Done;
                }
                Ok(data.map(Frame::data))
            }
            Self::Chunked(next) => loop {
                match next {
                    Chunks::Size => match size(input)? {
                        None => return Ok(None),
                        Some(0) => *next = Chunks::Trailers(0),
                        Some(size) => *next = Chunks::Data(size),
                    },
                    Chunks::Data(left) => {
                        let Some(data) = piece(input, *left) else {
                            return Ok(None);
                        };
                        *left = left.saturating_sub(data.len() as u64);
                        if *left == 0 {
                            *next = Chunks::End;
                        }
                        return Ok(Some(Frame::data(data)));
                    }
                    Chunks::End => {
                        if !b"\r\n".starts_with(input.get(..2).unwrap_or(input)) {
                            return Err(WireError::Chunk);
                        }
                        if input.len() < 2 {
                            return Ok(None);
                        }
                        input.advance(2);
                        *next = Chunks::Size;
                    }
                    Chunks::Trailers(seen) => {
                        let trailers = trailers(input, seen)?;
                        if trailers.is_some() {
                            *self = Self::Done;
                        }
                        return Ok(trailers
                            .filter(|trailers| !trailers.is_empty())
                            .map(Frame::trailers));
                    }
                }
            },
        }
    }

    /// The connection ended. Whether the body has, too.
    pub(crate) fn ends(&mut self) -> bool {
        if *self == Self::UntilClosed {
            *self = Self::Done;
        }
        *self == Self::Done
    }
}

/// At most so many bytes, where there are any.
fn piece(input: &mut BytesMut, most: u64) -> Option<Bytes> {
    let length = usize::try_from(most).map_or(input.len(), |most| most.min(input.len()));
    (length > 0).then(|| input.split_to(length).freeze())
}

/// How long the next chunk is.
fn size(input: &mut BytesMut) -> Result<Option<u64>, WireError> {
    match input.first() {
        None => return Ok(None),
        Some(digit) if digit.is_ascii_hexdigit() => {}
        Some(_) => return Err(WireError::Chunk),
    }
    match httparse::parse_chunk_size(input).map_err(|_| WireError::Chunk)? {
        httparse::Status::Complete((line, size)) => {
            input.advance(line);
            Ok(Some(size))
        }
        httparse::Status::Partial if input.len() > MAX_CHUNK_LINE => Err(WireError::Chunk),
        httparse::Status::Partial => Ok(None),
    }
}

fn trailers(input: &mut BytesMut, seen: &mut usize) -> Result<Option<HeaderMap>, WireError> {
    if input.starts_with(b"\r\n") {
        input.advance(2);
        return Ok(Some(HeaderMap::new()));
    }
    let Some(end) = end_of_fields(input, seen)? else {
        return Ok(None);
    };
    let bytes = input.split_to(end).freeze();
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    match httparse::parse_headers(&bytes, &mut fields)? {
        httparse::Status::Complete((length, fields)) if length == bytes.len() => {
            headers(&bytes, fields).map(Some)
        }
        _ => Err(httparse::Error::NewLine.into()),
    }
}
