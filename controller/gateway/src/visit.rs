//! One request from its head to its response's last byte: counted, and reported when it is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderValue, Method};

use crate::admit::Admitted;
use crate::forward::Peer;
use crate::function::Function;
use crate::report::{RequestReport, RequestReporter};

/// One request from its head to its response's last byte, counted and reported when it is over.
pub(crate) struct Visit {
    pub(crate) function: Option<Arc<Function>>,
    arrived: Instant,
    pub(crate) status: u16,
    reason: Option<&'static str>,
    pub(crate) queue: Duration,
    pub(crate) activate: Duration,
    is_flying: bool,
    report: Option<Box<Draft>>,
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
        Self {
            function: None,
            arrived: Instant::now(),
            status: CLIENT_LEFT,
            reason: None,
            queue: Duration::ZERO,
            activate: Duration::ZERO,
            is_flying: false,
            report,
        }
    }

    pub(crate) fn reach(&mut self, function: &Arc<Function>) {
        function.stats.came();
        self.function = Some(Arc::clone(function));
    }

    pub(crate) fn waited(&mut self, admitted: &Admitted) {
        self.queue += admitted.queue;
        self.activate += admitted.activate;
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

    pub(crate) fn failed(&mut self, reason: &'static str) {
        self.reason = Some(reason);
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let now = Instant::now();
        self.land(now);
        let elapsed = now.saturating_duration_since(self.arrived);
        if let Some(function) = &self.function {
            function.stats.answered(self.status, elapsed);
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
