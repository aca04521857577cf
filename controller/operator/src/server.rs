//! The operator's two ports: one for gateways and replicas, who show a key, and one for kubelets and Prometheus.

mod api;
mod open;
mod respond;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use api::{Api, Standing};
pub use open::Health;
use respond::Body;

/// The longest that a request's head may take.
const HEAD: Duration = Duration::from_secs(10);
/// The longest that requests may take to end when the process does.
const DRAIN: Duration = Duration::from_secs(5);

/// Answers a request.
pub trait Answer: Send + Sync + 'static {
    /// Answers it; what goes wrong is an answer, too.
    fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Body>> + Send;
}

/// Serves until `end`, and then what has begun.
pub async fn serve<A: Answer>(listener: TcpListener, answerer: Arc<A>, end: CancellationToken) {
    let tracker = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = end.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let (answerer, end) = (Arc::clone(&answerer), end.clone());
        tracker.spawn(async move {
            let service = service_fn(move |request| {
                let answerer = Arc::clone(&answerer);
                async move { Ok::<_, Infallible>(answerer.answer(request).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            let result = tokio::select! {
                result = connection.as_mut() => result,
                () = end.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = result {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }
    tracker.close();
    let _ = tokio::time::timeout(DRAIN, tracker.wait()).await;
}
