//! A span by its ids, as one process tells another.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use opentelemetry::trace::{SpanId, TraceId};
use uuid::Uuid;

/// Where the ids are in a `traceparent`.
const TRACE: Range<usize> = 3..35;
const SPAN: Range<usize> = 36..52;
const FLAGS: Range<usize> = 53..55;
/// The flag of what is recorded.
const SAMPLED: u8 = 1;

/// The trace and the span that others are part of: W3C's `traceparent`,
/// <https://www.w3.org/TR/trace-context/#traceparent-header>.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    pub(crate) trace: TraceId,
    pub(crate) span: SpanId,
    /// Whether it is recorded: what isn't, has no part that is.
    pub(crate) is_sampled: bool,
}

/// Why a text is no [`Context`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no traceparent: expected `00-TRACE-SPAN-FLAGS` in lower-case hex")]
pub struct ContextError(String);

impl Context {
    /// A span of a trace that begins with it.
    pub(crate) fn first() -> Self {
        Self {
            trace: TraceId::from_bytes(Uuid::new_v4().into_bytes()),
            span: span_id(),
            is_sampled: true,
        }
    }

    /// Another span of the same trace.
    pub(crate) fn next(self) -> Self {
        Self {
            span: span_id(),
            ..self
        }
    }
}

/// Eight random bytes: none of a UUID's fixed bits are in its last half but for two, and never all of them zero.
fn span_id() -> SpanId {
    let [.., a, b, c, d, e, f, g, h] = Uuid::new_v4().into_bytes();
    SpanId::from_bytes([a, b, c, d, e, f, g, h])
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.is_sampled) * SAMPLED;
        write!(f, "00-{}-{}-{flags:02x}", self.trace, self.span)
    }
}

impl FromStr for Context {
    type Err = ContextError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let text = Some(text).filter(|text| is_traceparent(text.as_bytes()))?;
            Some(Self {
                trace: TraceId::from_hex(text.get(TRACE)?).ok()?,
                span: SpanId::from_hex(text.get(SPAN)?).ok()?,
                is_sampled: u8::from_str_radix(text.get(FLAGS)?, 16).ok()? & SAMPLED != 0,
            })
        };
        parse().ok_or_else(|| ContextError(text.to_owned()))
    }
}

/// Whether a header's value is a `traceparent`,
/// <https://www.w3.org/TR/trace-context/#traceparent-header-field-values>: a later version may say more at the end.
#[must_use]
pub fn is_traceparent(value: &[u8]) -> bool {
    let hex = |range: Range<usize>| {
        value.get(range).is_some_and(|digits| {
            digits
                .iter()
                .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte))
        })
    };
    let zero = |range: Range<usize>| {
        value
            .get(range)
            .is_none_or(|digits| digits.iter().all(|byte| *byte == b'0'))
    };
    let dash = |index: usize| value.get(index) == Some(&b'-');
    let version = value.get(..2).unwrap_or_default();
    let end = value.len() == 55 || (version != b"00" && dash(55));
    end && hex(0..2)
        && version != b"ff"
        && dash(2)
        && hex(TRACE)
        && !zero(TRACE)
        && dash(35)
        && hex(SPAN)
        && !zero(SPAN)
        && dash(52)
        && hex(FLAGS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_round_trip_and_what_is_none_is_named() {
        let first = Context::first();
        assert_eq!(first.to_string().parse(), Ok(first));
        let next = first.next();
        assert_eq!(next.trace, first.trace);
        assert_ne!(next.span, first.span);
        // Of the flags, what isn't known is not passed on.
        for (given, passed) in [("00", "00"), ("01", "01"), ("02", "00"), ("ff", "01")] {
            let given = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{given}");
            let next = given.parse::<Context>().unwrap().next().to_string();
            assert_eq!((&next[..36], &next[53..]), (&given[..36], passed));
        }
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-x",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-00",
            "00-4bf9-00f067aa0ba902b7-00",
        ] {
            let error = bad.parse::<Context>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{bad}`")), "{error}");
        }
    }
}
