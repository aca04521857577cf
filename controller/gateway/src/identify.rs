//! Who a request is in logs and traces.

use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;
use wisp_contract::headers;
use wisp_traces::is_traceparent;

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static(headers::REQUEST_ID);
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static(headers::TRACEPARENT);
const TRACESTATE: HeaderName = HeaderName::from_static(headers::TRACESTATE);

/// The longest id that is taken from a client.
const LONGEST_ID: usize = 128;

/// The client's id where it is a printable token of at most 128 bytes, else a new one.
pub(crate) fn request_id(headers: &HeaderMap) -> HeaderValue {
    match headers.get(REQUEST_ID) {
        Some(id)
            if (1..=LONGEST_ID).contains(&id.len())
                && id.as_bytes().iter().all(u8::is_ascii_graphic) =>
        {
            id.clone()
        }
        _ => new_id(),
    }
}

/// A new one.
pub(crate) fn new_id() -> HeaderValue {
    let mut buffer = Uuid::encode_buffer();
    let id = Uuid::new_v4().as_hyphenated().encode_lower(&mut buffer);
    HeaderValue::from_str(id).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

/// Whether the request is part of one trace, its client's; else what it says of any is taken away.
pub(crate) fn has_trace(headers: &mut HeaderMap) -> bool {
    let mut given = headers.get_all(TRACEPARENT).iter();
    let is_one = match (given.next(), given.next()) {
        (Some(parent), None) => is_traceparent(parent.as_bytes()),
        _ => false,
    };
    if !is_one {
        headers.remove(TRACEPARENT);
        headers.remove(TRACESTATE);
    }
    is_one
}

/// Makes the request part of a trace that begins here, not sampled.
pub(crate) fn begin_trace(headers: &mut HeaderMap) {
    let (trace, span) = (Uuid::new_v4(), Uuid::new_v4());
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    let digits = trace.as_bytes().iter().chain(span.as_bytes());
    let places = (3..35).step_by(2).chain((36..52).step_by(2));
    for (byte, place) in digits.zip(places) {
        if let Some([high, low]) = text.get_mut(place..place + 2) {
            (*high, *low) = (digit(byte >> 4), digit(byte & 15));
        }
    }
    if let Ok(value) = HeaderValue::from_bytes(&text) {
        headers.insert(TRACEPARENT, value);
    }
}

/// The hexadecimal digit of a number below 16. Formatting through `fmt` costs ten times as much.
fn digit(number: u8) -> u8 {
    number + if number < 10 { b'0' } else { b'a' - 10 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_taken_only_where_it_is_a_short_printable_token() {
        let id = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(value).unwrap());
            request_id(&headers)
        };
        assert_eq!(id(b"abc-1"), "abc-1");
        assert_eq!(id(&[b'x'; 128]), "x".repeat(128));
        for bad in [&b""[..], b"a b", b"a\tb", "ä".as_bytes(), &[b'x'; 129]] {
            let made = id(bad);
            assert_eq!(made.len(), 36, "{bad:?}");
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }

    #[test]
    fn a_trace_goes_on_where_it_is_one_and_begins_otherwise() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        for (given, kept) in [
            (good, true),
            (
                "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what",
                true,
            ),
            (
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what",
                false,
            ),
            (
                "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
                false,
            ),
            (
                "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
                false,
            ),
            (
                "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                false,
            ),
            (
                "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
                false,
            ),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, HeaderValue::from_static(given));
            headers.insert(TRACESTATE, HeaderValue::from_static("a=b"));
            if !has_trace(&mut headers) {
                begin_trace(&mut headers);
            }
            assert_eq!(headers.get(TRACEPARENT).unwrap() == given, kept, "{given}");
            assert_eq!(headers.contains_key(TRACESTATE), kept, "{given}");
            assert!(
                is_traceparent(headers.get(TRACEPARENT).unwrap().as_bytes()),
                "{given}"
            );
        }
    }
}
