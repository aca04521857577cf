//! A span while it goes on.

use std::time::{Instant, SystemTime};

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use crate::context::Context;
use crate::export::Traces;

/// A span while it goes on: it ends, and is sent, when it is dropped. Where no traces are made it is nothing, nor is it
/// anything as part of what isn't sampled.
#[derive(Debug, Default)]
pub struct Span(Option<Box<Open>>);

#[derive(Debug)]
struct Open {
    traces: Traces,
    context: Context,
    parent: Option<Context>,
    is_parent_remote: bool,
    name: &'static str,
    kind: SpanKind,
    begin: SystemTime,
    end: Option<SystemTime>,
    attributes: Vec<KeyValue>,
    status: Status,
}

impl Span {
    pub(crate) fn new(
        traces: &Traces,
        name: &'static str,
        kind: SpanKind,
        parent: Option<Context>,
        is_parent_remote: bool,
        begin: Instant,
    ) -> Self {
        if !traces.is_on() || parent.is_some_and(|parent| !parent.is_sampled) {
            return Self(None);
        }
        Self(Some(Box::new(Open {
            traces: traces.clone(),
            context: parent.map_or_else(Context::first, Context::next),
            parent,
            is_parent_remote,
            name,
            kind,
            begin: wall(begin),
            end: None,
            attributes: Vec::new(),
            status: Status::Unset,
        })))
    }

    /// What others become part of it by.
    #[must_use]
    pub fn context(&self) -> Option<Context> {
        self.0.as_ref().map(|open| open.context)
    }

    /// A part of it that begins now.
    #[must_use]
    pub fn child(&self, name: &'static str) -> Self {
        self.child_at(name, Instant::now())
    }

    /// A part of it that began at `begin`.
    #[must_use]
    pub fn child_at(&self, name: &'static str, begin: Instant) -> Self {
        match &self.0 {
            None => Self(None),
            Some(open) => Self::new(
                &open.traces,
                name,
                SpanKind::Internal,
                Some(open.context),
                false,
                begin,
            ),
        }
    }

    /// Says something of it, by a name of OpenTelemetry's semantic conventions where there is one.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(open) = &mut self.0 {
            open.attributes.push(KeyValue::new(key, value));
        }
    }

    /// It did not do what it was to do.
    pub fn fail(&mut self, why: impl Into<std::borrow::Cow<'static, str>>) {
        if let Some(open) = &mut self.0 {
            open.status = Status::error(why);
        }
    }

    /// It ended at `end`.
    pub fn end_at(mut self, end: Instant) {
        if let Some(open) = &mut self.0 {
            open.end = Some(wall(end));
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(open) = self.0.take() else { return };
        let context = |context: Context, is_remote| {
            let flags = TraceFlags::SAMPLED;
            let state = TraceState::default();
            SpanContext::new(context.trace, context.span, flags, is_remote, state)
        };
        let data = SpanData {
            span_context: context(open.context, false),
            parent_span_id: open.parent.map_or(SpanId::INVALID, |parent| parent.span),
            parent_span_is_remote: open.is_parent_remote,
            span_kind: open.kind,
            name: open.name.into(),
            start_time: open.begin,
            end_time: open.end.unwrap_or_else(SystemTime::now),
            attributes: open.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: open.status,
            instrumentation_scope: InstrumentationScope::builder("wisp")
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
        };
        open.traces.send(data);
    }
}

/// When that was, by the clock that others have, too.
fn wall(instant: Instant) -> SystemTime {
    let (now, wall) = (Instant::now(), SystemTime::now());
    let then = match now.checked_duration_since(instant) {
        Some(ago) => wall.checked_sub(ago),
        None => wall.checked_add(instant.duration_since(now)),
    };
    then.unwrap_or(wall)
}
