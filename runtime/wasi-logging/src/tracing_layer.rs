//! The process' own `tracing` events as log lines.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;
use wisp_contract::log::{Level, Line, chain};

use crate::clock::Now;
use crate::sink::Sink;

/// A `tracing_subscriber` layer that sends every event to a [`Sink`]. The fields `event`, `function` and `request_id`,
/// of the event or of a span around it, become the line's members of that name; all other fields are kept as they are.
pub struct Tracing {
    sink: Arc<dyn Sink>,
}

impl Tracing {
    /// A layer that sends to `sink`.
    #[must_use]
    pub fn new(sink: Arc<dyn Sink>) -> Self {
        Self { sink }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Tracing {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context
            .event_scope(event)
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
        {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.0.extend(
                    outer
                        .0
                        .iter()
                        .map(|(name, value)| (name.clone(), value.clone())),
                );
            }
        }
        event.record(&mut fields);
        self.sink.line(&fields.into_line(event, Now::read()));
    }
}

#[derive(Default)]
struct Fields(BTreeMap<String, Value>);

impl Fields {
    fn into_line<'a>(mut self, event: &Event<'a>, now: Now) -> Line<'a> {
        let mut text = |name: &str| {
            self.0.remove(name).map(|value| match value {
                Value::String(text) => text,
                other => other.to_string(),
            })
        };
        let message = text("message").unwrap_or_default();
        let (name, function, request_id) = (text("event"), text("function"), text("request_id"));
        // What came through the `log` crate has its origin in fields.
        let target = text("log.target");
        for noise in ["log.file", "log.line", "log.module_path"] {
            self.0.remove(noise);
        }
        Line {
            ts: now.ts().into(),
            level: match *event.metadata().level() {
                tracing::Level::TRACE => Level::Trace,
                tracing::Level::DEBUG => Level::Debug,
                tracing::Level::INFO => Level::Info,
                tracing::Level::WARN => Level::Warn,
                tracing::Level::ERROR => Level::Error,
            },
            target: target.map_or_else(|| event.metadata().target().into(), Into::into),
            message: message.into(),
            event: name.map(Into::into),
            function: function.map(Into::into),
            request_id: request_id.map(Into::into),
            fields: self.0,
        }
    }

    fn set(&mut self, field: &Field, value: impl Into<Value>) {
        // A line has these members itself; a JSON object must not have a name twice.
        let name = match field.name() {
            "ts" | "level" | "target" | "requestId" => format!("{}_", field.name()),
            name => name.to_owned(),
        };
        self.0.insert(name, value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.set(field, chain(value));
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::sink::Memory;

    #[test]
    fn events_become_lines_with_the_fields_of_their_spans() {
        let sink = Arc::new(Memory::default());
        let subscriber = tracing_subscriber::registry().with(Tracing::new(sink.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let outer = tracing::info_span!("outer", function = "a/b", depth = 1);
            let _outer = outer.enter();
            let inner = tracing::info_span!("inner", depth = 2, request_id = tracing::field::Empty);
            let _inner = inner.enter();
            inner.record("request_id", "r-1");
            let error = std::io::Error::other("boom");
            let error: &(dyn std::error::Error + 'static) = &error;
            tracing::warn!(
                event = "request",
                status = 503,
                target = "x",
                error,
                "answered {}",
                "it"
            );
        });
        let lines = sink.lines();
        let mut line: Line<'_> = serde_json::from_str(&lines[0]).unwrap();
        line.ts = "2026-01-02T03:04:05.000000Z".into();
        insta::assert_snapshot!(serde_json::to_string_pretty(&line).unwrap(), @r#"
        {
          "ts": "2026-01-02T03:04:05.000000Z",
          "level": "warn",
          "target": "wisp_wasi_logging::tracing_layer::tests",
          "message": "answered it",
          "event": "request",
          "function": "a/b",
          "requestId": "r-1",
          "depth": 2,
          "error": "boom",
          "status": 503,
          "target_": "x"
        }
        "#);
    }
}
