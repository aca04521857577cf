//! The operator's two ports: one for gateways and replicas, who show a key, and one for kubelets and Prometheus.

mod api;
mod open;
mod respond;
mod sent;

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
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wisp_places::{Asked, Places};

pub use api::{Api, Standing};
pub use open::Health;
use respond::Body;
use sent::Sent;

/// The longest that a request's head may take, and that a connection may go without a sign of life.
const HEAD: Duration = Duration::from_secs(10);
/// Requests that a connection of HTTP/2 may have at once: a gateway has all its wake-ups on one.
const MOST_AT_ONCE: u32 = 4096;
/// The most connections of a port. Everybody in the cluster may open them.
pub const CONNECTIONS: usize = 4096;
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

/// Serves HTTP/1.1, and HTTP/2 by prior knowledge, until `end`, and then what has begun. Each time that `doubt` is told, connections
/// end with what has begun on them: who asks again comes to whoever leads. Where there are `most` connections,
/// the oldest goes for another that asks nothing.
pub async fn serve<A: Answer>(
    listener: TcpListener,
    answerer: Arc<A>,
    most: usize,
    end: CancellationToken,
    doubt: watch::Receiver<()>,
) {
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
    let mut places = Places::new(most, "connections to a port of the operator's");
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
        let Some(place) = places.take(Asked::claim) else {
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (answerer, end, builder) = (Arc::clone(&answerer), end.clone(), builder.clone());
        let mut doubt = doubt.clone();
        doubt.mark_unchanged();
        tracker.spawn(async move {
            let asked = CancellationToken::new();
            let service = service_fn(|mut request: Request<Incoming>| {
                asked.cancel();
                request.extensions_mut().insert(peer);
                let (answerer, asking) = (Arc::clone(&answerer), Asked::new(&place));
                async move {
                    let answer = answerer.answer(request).await;
                    Ok::<_, Infallible>(answer.map(|body| Sent::new(body, asking)))
                }
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
                () = place.lost() => return,
                () = end.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
                Ok(()) = doubt.changed() => {
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::StatusCode;
    use http_body_util::Empty;
    use hyper::client::conn::http2::{SendRequest, handshake};
    use tokio::net::TcpStream;
    use tokio::sync::Semaphore;
    use tokio::task::JoinHandle;

    use super::*;

    /// Answers once there is a permit, and counts who waits for one.
    struct Gate(Semaphore, AtomicUsize);

    impl Answer for Gate {
        async fn answer(self: Arc<Self>, _: Request<Incoming>) -> Response<Body> {
            self.1.fetch_add(1, Ordering::SeqCst);
            self.0.acquire().await.unwrap().forget();
            self.1.fetch_sub(1, Ordering::SeqCst);
            respond::text(StatusCode::OK, "ok\n")
        }
    }

    type Kept = (
        SendRequest<Empty<bytes::Bytes>>,
        JoinHandle<Result<(), hyper::Error>>,
    );

    async fn connect(address: std::net::SocketAddr) -> Kept {
        let stream = TcpStream::connect(address).await.unwrap();
        let connected = handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = connected.unwrap();
        (sender, tokio::spawn(connection))
    }

    fn request() -> Request<Empty<bytes::Bytes>> {
        Request::new(Empty::new())
    }

    /// Would fail if a gateway kept to an operator that is cut off while another leads, or lost what it had asked that one.
    #[tokio::test]
    async fn a_connection_that_is_kept_ends_where_another_may_lead() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let gate = Arc::new(Gate(Semaphore::new(0), AtomicUsize::new(0)));
        let end = CancellationToken::new();
        let (doubt, doubted) = watch::channel(());
        let served = serve(listener, Arc::clone(&gate), 8, end.clone(), doubted);
        let served = tokio::spawn(served);
        for _ in 0..2 {
            let (mut sender, connection) = connect(address).await;
            gate.0.add_permits(1);
            let answer = sender.send_request(request()).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
            let asked = tokio::spawn(sender.send_request(request()));
            while gate.1.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
            doubt.send_replace(());
            gate.0.add_permits(1);
            assert_eq!(asked.await.unwrap().unwrap().status(), StatusCode::OK);
            // Whoever has it would go on asking there.
            let ended = timeout(HEAD, connection).await.unwrap();
            ended.unwrap().unwrap();
            drop(sender);
        }
        end.cancel();
        served.await.unwrap();
    }

    /// Keeps `/wait` waiting until it may be answered, and counts who waits.
    struct Patient(Semaphore, AtomicUsize);

    impl Answer for Patient {
        async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
            if request.uri().path() == "/wait" {
                self.1.fetch_add(1, Ordering::SeqCst);
                self.0.acquire().await.unwrap().forget();
            }
            respond::text(StatusCode::OK, "ok\n")
        }
    }

    /// Would fail if somebody who opens connections and keeps them could keep others from being heard, or who waits for an answer
    /// lost it to them.
    #[tokio::test]
    async fn whoever_asks_nothing_makes_room() {
        const MOST: usize = 3;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let patient = Arc::new(Patient(Semaphore::new(0), AtomicUsize::new(0)));
        let end = CancellationToken::new();
        let (_doubt, doubted) = watch::channel(());
        let served = serve(listener, Arc::clone(&patient), MOST, end.clone(), doubted);
        let served = tokio::spawn(served);
        let (mut asks, _kept) = connect(address).await;
        let mut waits = request();
        *waits.uri_mut() = "/wait".parse().unwrap();
        let waits = tokio::spawn(asks.send_request(waits));
        while patient.1.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let mut idle = Vec::new();
        for _ in 0..2 * MOST {
            let (mut sender, connection) = connect(address).await;
            let answer = sender.send_request(request()).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
            idle.push((sender, connection));
        }
        let (_first, first) = idle.remove(0);
        let _ = timeout(HEAD, first).await.unwrap().unwrap();
        patient.0.add_permits(1);
        assert_eq!(waits.await.unwrap().unwrap().status(), StatusCode::OK);
        end.cancel();
        served.await.unwrap();
    }
}
