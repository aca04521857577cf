//! What kubelets and Prometheus ask.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::Answer;
use super::respond::{Body, Refusal, respond, text};
use crate::artifacts::Artifacts;
use crate::cluster::Cluster;
use crate::live::Functions;
use crate::metrics::{self, Metrics};

/// Whether the process is well, and its counts.
pub struct Health {
    /// Whether it can lead or does: it reaches the API server.
    pub is_ready: Arc<AtomicBool>,
    /// Its counts.
    pub metrics: Arc<Metrics>,
    /// What it knows.
    pub cluster: Arc<Cluster>,
    /// What it remembers.
    pub live: Arc<Functions>,
    /// What it has.
    pub artifacts: Arc<dyn Artifacts>,
}

impl Answer for Health {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/healthz") => text(StatusCode::OK, "ok\n"),
            (&Method::GET, "/readyz") if self.is_ready.load(Ordering::Acquire) => {
                text(StatusCode::OK, "ready\n")
            }
            (&Method::GET, "/readyz") => text(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
            (&Method::GET, "/metrics") => {
                self.metrics
                    .cluster(self.live.len(), self.cluster.watch_errors());
                match self.artifacts.figures().await {
                    Ok(figures) => self.metrics.artifacts(&figures),
                    Err(error) => tracing::warn!(%error, "the store can't be counted"),
                }
                respond(StatusCode::OK, metrics::MEDIA_TYPE, self.metrics.text())
            }
            (_, path) => Refusal::NoPath(path.to_owned()).response(""),
        }
    }
}
