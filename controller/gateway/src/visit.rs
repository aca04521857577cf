//! One request from its head to its response's last byte: counted, and reported when it is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};
use wisp_traces::{Context, Span, SpanKind, Traces};

use crate::admit::Admitted;
use crate::forward::Peer;
use crate::function::Function;
use crate::identify::TRACEPARENT;
use crate::report::{RequestReport, RequestReporter};

/// One request from its head to its response's last byte, counted and reported when it is over.
pub(crate) struct Visit {
    pub(crate) function: Option<Arc<Function>>,
    arrived: Instant,
    /// Since when its function's time counts.
    began: Instant,
    pub(crate) status: u16,
    reason: Option<&'static str>,
    pub(crate) queue: Duration,
    pub(crate) activate: Duration,
    is_flying: bool,
    /// When it was over, if that is known.
    over: Option<Instant>,
    report: Option<Box<Draft>>,
    /// Whether the request came as part of a trace.
    pub(crate) is_clients_trace: bool,
    /// What is told of a request that waited for a wake-up.
    cold: Option<Box<Cold>>,
}

struct Cold {
    /// What the client says that it is part of.
    parent: Option<Context>,
    whole: Span,
    waking: Span,
}

struct Draft {
    reporter: Arc<dyn RequestReporter>,
    request_id: HeaderValue,
    client: std::net::IpAddr,
    method: Method,
    path: String,
}

/// What a request is counted as whose client left before it was answered.
const CLIENT_LEFT: u16 = 499;

impl Visit {
    pub(crate) fn begin(
        reporter: Option<&Arc<dyn RequestReporter>>,
        parts: &Parts,
        id: &HeaderValue,
        peer: &Peer,
    ) -> Self {
        let report = reporter.map(|reporter| {
            Box::new(Draft {
                reporter: Arc::clone(reporter),
                request_id: id.clone(),
                client: peer.ip,
                method: parts.method.clone(),
                path: parts
                    .uri
                    .path_and_query()
                    .map_or_else(String::new, |path| path.as_str().to_owned()),
            })
        });
        let arrived = Instant::now();
        Self {
            function: None,
            arrived,
            began: arrived,
            status: CLIENT_LEFT,
            reason: None,
            queue: Duration::ZERO,
            activate: Duration::ZERO,
            is_flying: false,
            over: None,
            report,
            is_clients_trace: false,
            cold: None,
        }
    }

    /// Since when its function's time counts.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Which function it is for had to be asked, which is no part of that function's time.
    pub(crate) fn looked_up(&mut self, now: Instant) {
        self.began = now;
    }

    pub(crate) fn reach(&mut self, function: &Arc<Function>) {
        function.stats.came();
        self.function = Some(Arc::clone(function));
    }

    pub(crate) fn waited(&mut self, admitted: &Admitted) {
        self.queue += admitted.queue;
        self.activate += admitted.activate;
    }

    /// It waits for the function to be woken: from now on there is a trace of it, which is told here by its context. Where its
    /// client doesn't sample the trace that it is part of, others learn that alone.
    pub(crate) fn wait(&mut self, traces: &Traces, headers: &HeaderMap) -> Option<Context> {
        if !traces.is_on() {
            return None;
        }
        let cold = self.cold.get_or_insert_with(|| {
            let parent = headers
                .get(TRACEPARENT)
                .filter(|_| self.is_clients_trace)
                .and_then(|parent| parent.to_str().ok()?.parse().ok());
            let mut whole = traces.span_at("request", SpanKind::Server, parent, self.arrived);
            whole.set("faas.coldstart", true);
            let waking = whole.child("activate");
            Box::new(Cold {
                parent,
                whole,
                waking,
            })
        });
        cold.waking.context().or(cold.parent)
    }

    /// It waits no more: what comes now is part of its trace.
    pub(crate) fn awoke(&mut self, headers: &mut HeaderMap) {
        let Some(cold) = &mut self.cold else { return };
        drop(std::mem::take(&mut cold.waking));
        let context = cold.whole.context().map(|context| context.to_string());
        if let Some(context) = context.and_then(|context| HeaderValue::from_str(&context).ok()) {
            headers.insert(TRACEPARENT, context);
        }
    }

    pub(crate) fn fly(&mut self, now: Instant) {
        if let (false, Some(function)) = (self.is_flying, &self.function) {
            function.stats.begin_flight(now);
            self.is_flying = true;
        }
    }

    pub(crate) fn land(&mut self, now: Instant) {
        if let (true, Some(function)) = (self.is_flying, &self.function) {
            function.stats.end_flight(now);
            self.is_flying = false;
        }
    }

    /// It is over as soon as this is dropped, which is about to be.
    pub(crate) fn over(&mut self, now: Instant) {
        self.over = Some(now);
    }

    pub(crate) fn failed(&mut self, reason: &'static str) {
        self.reason = Some(reason);
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let now = self.over.unwrap_or_else(Instant::now);
        self.land(now);
        let elapsed = now.saturating_duration_since(self.arrived);
        if let Some(function) = &self.function {
            function.stats.answered(self.status, elapsed);
        }
        if let Some(mut cold) = self.cold.take() {
            cold.whole
                .set("http.response.status_code", i64::from(self.status));
            if let Some(function) = &self.function {
                cold.whole.set("wisp.function", function.id.to_string());
            }
            if let Some(reason) = self.reason {
                cold.whole.fail(reason);
            }
        }
        if let Some(draft) = self.report.take() {
            let left = (self.status == CLIENT_LEFT).then_some("client-left");
            draft.reporter.report(RequestReport {
                function: self.function.as_ref().map(|function| function.id.clone()),
                request_id: draft.request_id.to_str().unwrap_or_default().to_owned(),
                client: draft.client,
                method: draft.method,
                path: draft.path,
                status: self.status,
                reason: self.reason.or(left),
                elapsed,
                queue: self.queue,
                activate: self.activate,
            });
        }
    }
}
