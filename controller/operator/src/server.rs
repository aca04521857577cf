//! The operator's two ports: one for gateways and replicas, who show a key, and one for kubelets and Prometheus.

mod api;
mod caller;
mod downloads;
mod open;
mod respond;
mod sent;

use std::convert::Infallible;
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
use caller::Caller;
use downloads::Download;
pub use open::Health;
use respond::Body;
use sent::Sent;

/// The longest that a request's head may take, and that a connection may go without a sign of life.
const HEAD: Duration = Duration::from_secs(10);
/// Requests that a connection of HTTP/2 may have at once: a gateway has all its wake-ups on one.
const MOST_AT_ONCE: u32 = 4096;
/// Bytes of an answer that are kept for a client of HTTP/1.1 that doesn't read, beside what is read of a file at once.
const MOST_UNREAD: usize = 64 << 10;
/// The longest that requests may take to end when the process does.
const DRAIN: Duration = Duration::from_secs(5);

/// Who may open how many connections to a port, and what they speak.
#[derive(Debug, Clone, Copy)]
pub enum Port {
    /// Gateways and replicas: where there are too many connections, the oldest goes for another on which no gateway waits for an answer,
    /// and no replica for a file.
    Keyed,
    /// Everybody in the cluster, for what is small and known: the oldest goes for another. No HTTP/2: clients of that can have
    /// thousands of answers kept which they don't read.
    Open,
}

impl Port {
    fn most(self) -> usize {
        match self {
            Self::Keyed => 4096,
            Self::Open => 64,
        }
    }

    fn builder(self) -> Builder<TokioExecutor> {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .max_buf_size(MOST_UNREAD)
            .header_read_timeout(HEAD);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(HEAD)
            .keep_alive_timeout(HEAD)
            .max_concurrent_streams(MOST_AT_ONCE);
        match self {
            Self::Keyed => builder,
            Self::Open => builder.http1_only(),
        }
    }
}

/// Answers a request.
pub trait Answer: Send + Sync + 'static {
    /// Whether a gateway asks it, by its key.
    fn is_gateways(&self, _request: &Request<Incoming>) -> bool {
        false
    }

    /// Answers it; what goes wrong is an answer, too.
    fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Body>> + Send;
}

/// Serves HTTP until `end`, and then what has begun. Each time that `doubt` is told, connections end with what has begun on them:
/// who asks again comes to whoever leads.
pub async fn serve<A: Answer>(
    listener: TcpListener,
    answerer: Arc<A>,
    port: Port,
    end: CancellationToken,
    doubt: watch::Receiver<()>,
) {
    serve_at_most(port.most(), port.builder(), listener, answerer, end, doubt).await;
}

async fn serve_at_most<A: Answer>(
    most: usize,
    builder: Builder<TokioExecutor>,
    listener: TcpListener,
    answerer: Arc<A>,
    end: CancellationToken,
    doubt: watch::Receiver<()>,
) {
    let tracker = TaskTracker::new();
    let mut places = Places::new(most, "connections to a port of the operator's");
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = end.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok((stream, peer)) => (stream, peer.ip().to_canonical()),
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
            let caller = Caller::new(peer, Arc::clone(&place));
            let service = service_fn(|mut request: Request<Incoming>| {
                asked.cancel();
                let answerer = Arc::clone(&answerer);
                let unanswered = caller.begin(answerer.is_gateways(&request));
                request.extensions_mut().insert(caller.clone());
                async move {
                    let mut answer = answerer.answer(request).await;
                    let download = answer.extensions_mut().remove::<Arc<Download>>();
                    Ok::<_, Infallible>(answer.map(|body| Sent::new(body, unanswered, download)))
                }
            });
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            let silence = async {
                if timeout(HEAD, asked.cancelled()).await.is_ok() {
                    std::future::pending().await
                }
            };
            let served = async {
                tokio::select! {
                    result = connection.as_mut() => return result,
                    () = end.cancelled() => {}
                    Ok(()) = doubt.changed() => {}
                }
                connection.as_mut().graceful_shutdown();
                connection.await
            };
            let result = tokio::select! {
                result = served => result,
                () = silence => return,
                () = place.lost() => return,
                () = caller.cut().cancelled() => return,
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::sync::Semaphore;
    use tokio::task::JoinHandle;

    use super::downloads::Downloads;
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
        let served = serve(
            listener,
            Arc::clone(&gate),
            Port::Keyed,
            end.clone(),
            doubted,
        );
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

    /// Keeps a gateway's `/wait` waiting until it may be answered, and counts who waits.
    struct Patient(Semaphore, AtomicUsize);

    impl Answer for Patient {
        fn is_gateways(&self, request: &Request<Incoming>) -> bool {
            request.uri().path() == "/wait"
        }

        async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
            if self.is_gateways(&request) {
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
        let builder = Port::Keyed.builder();
        let served = serve_at_most(
            MOST,
            builder,
            listener,
            Arc::clone(&patient),
            end.clone(),
            doubted,
        );
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

    /// More than lies between a server and a client that doesn't read.
    const LARGE: usize = 64 << 20;

    /// Answers with 300 KB, and with so much as a file.
    struct Large(Downloads);

    impl Answer for Large {
        fn is_gateways(&self, request: &Request<Incoming>) -> bool {
            request.uri().path() == "/gateway"
        }

        async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
            let is_file = request.uri().path() == "/file";
            let length = if is_file { LARGE } else { 300_000 };
            let mut answer = respond::respond(StatusCode::OK, "a/b", vec![0; length]);
            if is_file {
                let caller = request.extensions().get::<Caller>().unwrap();
                let turn = self.0.turn(caller).await.unwrap();
                let download = turn.begin(caller, 300_000);
                answer.extensions_mut().insert(Arc::new(download));
            }
            answer
        }
    }

    /// Would fail if whoever reaches the port could have thousands of answers kept that they don't read, or a gateway's wake-ups
    /// were cut off for being many.
    #[tokio::test]
    async fn who_leaves_many_answers_untaken_is_cut_off() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let end = CancellationToken::new();
        let (_doubt, doubted) = watch::channel(());
        let large = Arc::new(Large(Downloads::default()));
        let served = serve(listener, large, Port::Keyed, end.clone(), doubted);
        let served = tokio::spawn(served);
        for (path, most) in [("/gateway", 100), ("/other", 64)] {
            let stream = TcpStream::connect(address).await.unwrap();
            let mut client = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
            client.initial_stream_window_size(0);
            let connected = client.handshake(TokioIo::new(stream)).await;
            let (mut sender, connection) = connected.unwrap();
            let mut connection = tokio::spawn(connection);
            let mut kept = Vec::new();
            // One after the other: no more than one waits for its head.
            while kept.len() < most {
                let mut request = request();
                *request.uri_mut() = path.parse().unwrap();
                let answer = sender.send_request(request).await.unwrap();
                assert_eq!(answer.status(), StatusCode::OK);
                kept.push(answer);
            }
            if most < 100 {
                let _ = sender.send_request(request()).await;
                let _ = timeout(HEAD, &mut connection).await.unwrap().unwrap();
            }
        }
        end.cancel();
        served.await.unwrap();
    }

    /// Would fail if who reads nothing held a file's memory for ever, whether or not this operator is about to lead no more.
    #[tokio::test]
    async fn a_file_that_is_not_taken_ends() {
        for is_doubted in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let end = CancellationToken::new();
            let (doubt, doubted) = watch::channel(());
            let large = Arc::new(Large(Downloads::default()));
            let served = serve(
                listener,
                Arc::clone(&large),
                Port::Keyed,
                end.clone(),
                doubted,
            );
            let served = tokio::spawn(served);
            let mut stream = TcpStream::connect(address).await.unwrap();
            let ask = b"GET /file HTTP/1.1\r\nhost: a\r\n\r\n";
            stream.write_all(ask).await.unwrap();
            let mut start = [0; 12];
            stream.read_exact(&mut start).await.unwrap();
            assert_eq!(&start, b"HTTP/1.1 200");
            if is_doubted {
                doubt.send_replace(());
            }
            tokio::task::yield_now().await;
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(70)).await;
            tokio::time::resume();
            let mut rest = Vec::new();
            let _ = timeout(HEAD, stream.read_to_end(&mut rest)).await.unwrap();
            assert!(rest.len() < LARGE, "{}", rest.len());
            end.cancel();
            served.await.unwrap();
        }
    }

    /// Would fail if one address kept others from their files, or who isn't served soon weren't told so.
    #[tokio::test(start_paused = true)]
    async fn files_to_one_address_leave_room_for_others() {
        let downloads = Downloads::default();
        let caller = |last: u8| {
            let address = std::net::IpAddr::from([10, 0, 0, last]);
            Caller::new(address, Arc::default())
        };
        let (one, other) = (caller(1), caller(2));
        let mut held = Vec::new();
        // A replica's component and models.
        for _ in 0..33 {
            held.push(downloads.turn(&one).await.unwrap());
        }
        while let Some(turn) = downloads.turn(&one).await {
            held.push(turn);
        }
        assert!(downloads.turn(&other).await.is_some());
        held.clear();
        assert!(downloads.turn(&one).await.is_some());
    }
}
