//! The second port: /healthz, /readyz and /metrics.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use wisp_gateway::Gateway;
use wisp_places::{Claim, Places};

use crate::counts::Counts;
use crate::table::Table;

/// The most connections. Everybody in the cluster may open them, and a kubelet and a few who gather metrics need some.
const CONNECTIONS: usize = 64;

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Something is missing that this names.
    Starting(&'static str),
    /// Requests are taken.
    Serving,
    /// Nothing new shall come.
    Draining,
}

/// What the port tells.
pub(crate) struct Health {
    phase: Mutex<Phase>,
    parts: OnceLock<(Arc<Gateway>, Arc<Table>)>,
    counts: Arc<Counts>,
}

impl Health {
    pub(crate) fn new(counts: Arc<Counts>) -> Self {
        Self {
            phase: Mutex::new(Phase::Starting("it begins")),
            parts: OnceLock::new(),
            counts,
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// Whose counts are told, and whose watches must be synced.
    pub(crate) fn show(&self, gateway: Arc<Gateway>, table: Arc<Table>) {
        let _ = self.parts.set((gateway, table));
    }

    /// # Errors
    /// Why it isn't ready.
    fn ready(&self) -> Result<(), &'static str> {
        match *self.phase.lock().unwrap_or_else(PoisonError::into_inner) {
            Phase::Starting(missing) => return Err(missing),
            Phase::Draining => return Err("it drains"),
            Phase::Serving => {}
        }
        match self.parts.get() {
            Some((_, table)) if table.is_synced() => Ok(()),
            _ => Err("the functions and their pods aren't all known yet"),
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        const TEXT: &str = "text/plain; charset=utf-8";
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return respond(
                StatusCode::METHOD_NOT_ALLOWED,
                TEXT,
                "expected GET\n".to_owned(),
            );
        }
        match request.uri().path() {
            "/healthz" => respond(StatusCode::OK, TEXT, "ok\n".to_owned()),
            "/readyz" => match self.ready() {
                Ok(()) => respond(StatusCode::OK, TEXT, "ready\n".to_owned()),
                Err(missing) => respond(
                    StatusCode::SERVICE_UNAVAILABLE,
                    TEXT,
                    format!("not ready: {missing}\n"),
                ),
            },
            "/metrics" => {
                let own = self.counts.text(self.ready().is_ok());
                let (media_type, functions) = self
                    .parts
                    .get()
                    .map_or((TEXT, String::new()), |(gateway, _)| gateway.metrics());
                respond(StatusCode::OK, media_type, functions + &own)
            }
            _ => respond(
                StatusCode::NOT_FOUND,
                TEXT,
                "expected /healthz, /readyz or /metrics\n".to_owned(),
            ),
        }
    }

    /// Answers for ever.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut places = Places::<()>::new(CONNECTIONS, "connections to the health port");
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection of the health port failed");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    continue;
                }
            };
            let Some(place) = places.take(|()| Claim::Weak) else {
                continue;
            };
            let health = Arc::clone(&self);
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let answer = health.answer(&request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(stream), service);
                tokio::select! {
                    _ = connection => {}
                    () = place.lost() => {}
                }
            });
        }
    }
}

fn respond(status: StatusCode, media_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
