//! The operator's two ports: one for gateways and replicas, who show a key, and one for kubelets and Prometheus.

mod api;
mod open;
mod respond;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use api::{Api, Standing};
pub use open::Health;
use respond::Body;

/// The longest that a request's head may take, and that a connection may go without a sign of life.
const HEAD: Duration = Duration::from_secs(10);
/// Requests that a connection of HTTP/2 may have at once: a gateway has all its wake-ups on one.
const MOST_AT_ONCE: u32 = 4096;
/// The longest that requests may take to end when the process does.
const DRAIN: Duration = Duration::from_secs(5);

/// Who asks, in a request's extensions.
#[derive(Debug, Clone, Copy)]
struct Peer(IpAddr);

/// Answers a request.
pub trait Answer: Send + Sync + 'static {
    /// Answers it; what goes wrong is an answer, too.
    fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Body>> + Send;
}

/// Serves HTTP/1.1, and HTTP/2 by prior knowledge, until `end`, and then what has begun.
pub async fn serve<A: Answer>(listener: TcpListener, answerer: Arc<A>, end: CancellationToken) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HEAD)
        .keep_alive_timeout(HEAD)
        .max_concurrent_streams(MOST_AT_ONCE);
    let tracker = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = end.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok((stream, peer)) => (stream, Peer(peer.ip().to_canonical())),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let (answerer, end, builder) = (Arc::clone(&answerer), end.clone(), builder.clone());
        tracker.spawn(async move {
            let asked = CancellationToken::new();
            let service = service_fn(|mut request: Request<Incoming>| {
                asked.cancel();
                request.extensions_mut().insert(peer);
                let answerer = Arc::clone(&answerer);
                async move { Ok::<_, Infallible>(answerer.answer(request).await) }
            });
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            let silence = async {
                if timeout(HEAD, asked.cancelled()).await.is_ok() {
                    std::future::pending().await
                }
            };
            let result = tokio::select! {
                result = connection.as_mut() => result,
                () = silence => return,
                () = end.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = result {
                tracing::debug!(error, "a connection ended early");
            }
        });
    }
    tracker.close();
    let _ = timeout(DRAIN, tracker.wait()).await;
}
