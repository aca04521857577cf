//! Cold starts as traces: what a request to a sleeping function waited for, process by process and phase by phase, for
//! any collector that speaks OpenTelemetry's protocol.
//!
//! Spans are rare here (one request in a function's sleep, not each), so they are made by hand and all of them are sent,
//! but for those of traces that came with a request and that its client doesn't sample. Where they go is what
//! OpenTelemetry's own environment variables say: `OTEL_EXPORTER_OTLP_ENDPOINT`, or
//! `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, with `OTEL_EXPORTER_OTLP_HEADERS` and `OTEL_EXPORTER_OTLP_TIMEOUT`
//! (<https://opentelemetry.io/docs/specs/otel/protocol/exporter/>), by HTTP and protobuf. Without either no span is made.

mod context;
mod export;
mod span;

pub use context::{Context, ContextError, is_traceparent};
pub use export::{SetupError, Traces};
pub use opentelemetry::trace::SpanKind;
pub use span::Span;
