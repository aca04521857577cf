//! A span by its ids, as one process tells another.

use std::fmt;
use std::str::FromStr;

use opentelemetry::trace::{SpanId, TraceId};
use uuid::Uuid;

/// The trace and the span that others are part of: W3C's `traceparent`,
/// <https://www.w3.org/TR/trace-context/#traceparent-header>.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    pub(crate) trace: TraceId,
    pub(crate) span: SpanId,
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
        // Sampled: it is being recorded.
        write!(f, "00-{}-{}-01", self.trace, self.span)
    }
}

impl FromStr for Context {
    type Err = ContextError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut parts = text.split('-');
            let (version, trace, span, flags) =
                (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
            // A later version may say more at the end.
            let is_whole = parts.next().is_none() || version != "00";
            let lengths = [version.len(), trace.len(), span.len(), flags.len()];
            let context = Self {
                trace: TraceId::from_hex(trace).ok()?,
                span: SpanId::from_hex(span).ok()?,
            };
            let is_valid = is_whole
                && version != "ff"
                && lengths == [2, 32, 16, 2]
                && context.trace != TraceId::INVALID
                && context.span != SpanId::INVALID;
            is_valid.then_some(context)
        };
        parse().ok_or_else(|| ContextError(text.to_owned()))
    }
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
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        assert!(good.parse::<Context>().is_ok());
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
