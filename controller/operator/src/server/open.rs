//! What kubelets and Prometheus ask.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::Mutex;

use super::Answer;
use super::respond::{Body, Refusal, respond, text};
use crate::artifacts::Artifacts;
use crate::cluster::Cluster;
use crate::live::Functions;
use crate::metrics::{self, Metrics};

/// The store is counted so often at most, whoever asks: all of its files are looked at for that.
const COUNTED_EVERY: Duration = Duration::from_secs(1);

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
    /// When that was counted last.
    pub counted: Mutex<Option<Instant>>,
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
                let mut counted = self.counted.lock().await;
                if counted.is_none_or(|counted| counted.elapsed() >= COUNTED_EVERY) {
                    match self.artifacts.figures().await {
                        Ok(figures) => self.metrics.artifacts(&figures),
                        Err(error) => tracing::warn!(%error, "the store can't be counted"),
                    }
                    *counted = Some(Instant::now());
                }
                drop(counted);
                respond(StatusCode::OK, metrics::MEDIA_TYPE, self.metrics.text())
            }
            (_, path) => Refusal::NoPath(path.to_owned()).response(""),
        }
    }
}
