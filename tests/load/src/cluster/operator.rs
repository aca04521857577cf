//! An operator that wakes nothing, and answers as it is told to.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::Notify;
use wisp_contract::assignment::Key;
use wisp_contract::headers;
use wisp_contract::operator::{ENSURE, Ensured, REPORT, Replica, Report};

use crate::server::{Body, Server};

/// An operator's port.
#[derive(Debug)]
pub(crate) struct Operator {
    server: Server,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    key: Key,
    seen: Mutex<Seen>,
    came: Notify,
}

#[derive(Debug)]
struct Seen {
    answer: Result<Vec<Replica>, (u16, Value)>,
    /// How long a wake-up takes.
    takes: Duration,
    wake_ups: usize,
    /// What the last one is part of, by its `traceparent`.
    trace: Option<String>,
    reports: Vec<Report>,
}

impl Operator {
    pub(crate) async fn start(address: Option<SocketAddr>, key: Key) -> std::io::Result<Self> {
        let state = Arc::new(State {
            key,
            seen: Mutex::new(Seen {
                answer: Ok(Vec::new()),
                takes: Duration::ZERO,
                wake_ups: 0,
                trace: None,
                reports: Vec::new(),
            }),
            came: Notify::new(),
        });
        let address = address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
        let answering = Arc::clone(&state);
        let server = Server::start(address, move |request| {
            let state = Arc::clone(&answering);
            async move { state.answer(request).await }
        })
        .await?;
        Ok(Self { server, state })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address
    }

    pub(crate) fn answer(&self, answer: Result<Vec<Replica>, (u16, Value)>) {
        self.state.seen().answer = answer;
    }

    pub(crate) fn take(&self, time: Duration) {
        self.state.seen().takes = time;
    }

    pub(crate) fn wake_ups(&self) -> usize {
        self.state.seen().wake_ups
    }

    pub(crate) fn trace(&self) -> Option<String> {
        self.state.seen().trace.clone()
    }

    pub(crate) async fn report(&self, what: impl Fn(&Report) -> bool) -> Report {
        loop {
            let came = self.state.came.notified();
            let found = self
                .state
                .seen()
                .reports
                .iter()
                .find(|report| what(report))
                .cloned();
            if let Some(report) = found {
                return report;
            }
            came.await;
        }
    }
}

impl State {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let key = request.headers().get(headers::KEY);
        if key.is_none_or(|key| key.as_bytes() != self.key.0.as_bytes()) {
            return respond(403, &problem("the key is wrong"));
        }
        let path = request.uri().path().to_owned();
        let trace = request.headers().get(headers::TRACEPARENT);
        let trace = trace.and_then(|trace| Some(trace.to_str().ok()?.to_owned()));
        let Ok(body) = request.into_body().collect().await else {
            return respond(400, &problem("the body broke off"));
        };
        let body = body.to_bytes();
        match path.as_str() {
            ENSURE => {
                let takes = {
                    let mut seen = self.seen();
                    seen.wake_ups += 1;
                    seen.trace = trace;
                    seen.takes
                };
                tokio::time::sleep(takes).await;
                match &self.seen().answer {
                    Ok(replicas) => {
                        let ensured = Ensured {
                            replicas: replicas.clone(),
                        };
                        respond(200, &json!(ensured))
                    }
                    Err((status, problem)) => respond(*status, problem),
                }
            }
            REPORT => match serde_json::from_slice(&body) {
                Ok(report) => {
                    let mut seen = self.seen();
                    seen.reports.push(report);
                    // A bench runs for long.
                    let old = seen.reports.len().saturating_sub(1000);
                    seen.reports.drain(..old);
                    drop(seen);
                    self.came.notify_waiters();
                    respond(204, &Value::Null)
                }
                Err(error) => respond(400, &problem(&error.to_string())),
            },
            _ => respond(404, &problem("there is no such path")),
        }
    }
}

fn problem(detail: &str) -> Value {
    json!({
        "type": "about:blank", "title": "", "status": 400, "detail": detail, "reason": "fake", "fault": "client",
        "retryable": false, "requestId": "",
    })
}

fn respond(status: u16, value: &Value) -> Response<Body> {
    let text = if value.is_null() {
        String::new()
    } else {
        value.to_string()
    };
    let mut response = Response::new(Full::from(text).boxed_unsync());
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if status == 503 {
        response
            .headers_mut()
            .insert("retry-after", http::HeaderValue::from_static("7"));
    }
    response
}
