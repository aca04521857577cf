//! One client's connection: TLS where it is spoken, HTTP/1.1 or HTTP/2, until it ends or the drain ends it.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioTimer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wisp_admit::Permit;
use wisp_deadline::ConnectionTimer;

use crate::arriving::Arriving;
use crate::body::Outgoing;
use crate::forward::Peer;
use crate::frames::Unread;
use crate::gateway::Gateway;
use crate::idle::Usage;
use crate::io::Io;
use crate::overdue::{self, Overdue};

/// How often an HTTP/2 client is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(60);
/// The longest that a TLS handshake may take.
#[cfg(feature = "tls")]
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest head of a request.
const MAX_HEAD: usize = 64 << 10;
/// The most requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 100;

/// What the gateway takes of one HTTP/2 request's body, and of all those of a connection together, before a replica does.
/// The second has room for the first of all requests: uploads that wait for their turn leave room for those that are taken.
pub(crate) const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 32 << 20;
const _: () = assert!(MAX_STREAMS * STREAM_WINDOW < CONNECTION_WINDOW);

/// What lies between TCP and HTTP.
#[derive(Clone)]
pub(crate) enum Transport {
    Plain,
    #[cfg(feature = "tls")]
    Tls(Arc<arc_swap::ArcSwap<rustls::ServerConfig>>),
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.scheme())
    }
}

impl Transport {
    fn scheme(&self) -> &'static str {
        match self {
            Self::Plain => "http",
            #[cfg(feature = "tls")]
            Self::Tls(_) => "https",
        }
    }
}

/// The connections of one thread.
pub(crate) struct Connections {
    gateway: Arc<Gateway>,
    transport: Transport,
    tasks: TaskTracker,
    draining: CancellationToken,
}

impl Connections {
    pub(crate) fn new(gateway: Arc<Gateway>, transport: Transport) -> Self {
        Self {
            gateway,
            transport,
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
        }
    }

    /// Serves a connection until it ends, and holds its place as long.
    pub(crate) fn start(&self, stream: TcpStream, from: SocketAddr, place: Permit) {
        let peer = Peer {
            place: Some(Arc::new(place)),
            ..Peer::new(from.ip(), self.transport.scheme())
        };
        let (gateway, tasks) = (Arc::clone(&self.gateway), self.tasks.clone());
        let (transport, draining) = (self.transport.clone(), self.draining.clone());
        self.tasks.spawn(async move {
            let _ = stream.set_nodelay(true);
            let client = Client {
                gateway,
                peer,
                tasks,
                draining,
            };
            match transport {
                Transport::Plain => client.plain(stream).await,
                #[cfg(feature = "tls")]
                Transport::Tls(configuration) => {
                    client.tls(stream, configuration.load_full()).await
                }
            }
        });
    }

    /// Waits until everything that was asked is answered.
    pub(crate) async fn drain(&self) {
        self.draining.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

struct Client {
    gateway: Arc<Gateway>,
    peer: Peer,
    tasks: TaskTracker,
    draining: CancellationToken,
}

impl Client {
    async fn plain(self, stream: TcpStream) {
        let idle_timeout = self.gateway.options().idle_timeout;
        let first = tokio::time::timeout(idle_timeout, speaks_http2(&stream));
        // Who has said nothing when the drain begins has asked nothing.
        let is_http2 = tokio::select! {
            biased;
            first = first => match first {
                Ok(Ok(is_http2)) => is_http2,
                Ok(Err(_)) | Err(_) => return,
            },
            () = self.draining.cancelled() => return,
        };
        self.http(stream, is_http2).await;
    }

    #[cfg(feature = "tls")]
    async fn tls(self, stream: TcpStream, configuration: Arc<rustls::ServerConfig>) {
        let acceptor = tokio_rustls::TlsAcceptor::from(configuration);
        let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream));
        let stream = tokio::select! {
            biased;
            done = handshake => match done {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    tracing::debug!(client = %self.peer.ip, %error, "a TLS handshake failed");
                    return;
                }
                Err(_elapsed) => return,
            },
            () = self.draining.cancelled() => return,
        };
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        self.http(stream, is_http2).await;
    }

    async fn http<S>(self, stream: S, is_http2: bool)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let ip = self.peer.ip;
        let idle_timeout = self.gateway.options().idle_timeout;
        let ended = if is_http2 {
            let usage = Usage::new(self.gateway.unread());
            let frames = Unread::new(self.gateway.frames());
            let io = Io::new(frames.clone().reads(stream));
            let mut builder = http2::Builder::new(Streams(usage.clone()));
            builder
                .timer(TokioTimer::new())
                .max_concurrent_streams(MAX_STREAMS)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
                .keep_alive_interval(Some(PING_INTERVAL));
            let leaving = self.draining.child_token();
            let service = Shared {
                client: Arc::new(self),
                usage: usage.clone(),
                frames,
            };
            let connection = builder.serve_connection(io, service);
            let mut served = pin!(until_left(connection, leaving.clone()));
            let over = async {
                usage.idle_or_unread(idle_timeout).await;
                // The client is told that the connection ends: what it asks in this moment is answered, or not begun.
                leaving.cancel();
                // Who doesn't listen, or reads nothing, or hasn't begun to speak, would keep it.
                usage.idle_or_unread(idle_timeout).await;
            };
            tokio::select! {
                biased;
                ended = &mut served => ended,
                () = over => Ok(()),
            }
        } else {
            let mut builder = http1::Builder::new();
            builder
                .timer(ConnectionTimer::default())
                .header_read_timeout(idle_timeout)
                .max_header_size(MAX_HEAD);
            let this = &self;
            let service = service_fn(move |request| async move {
                let mut response = this.answer(Arriving::of(request, None)).await?;
                if this.gateway.is_leaving() && response.status() != StatusCode::SWITCHING_PROTOCOLS
                {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(CONNECTION, close);
                }
                Ok::<_, Infallible>(response)
            });
            let io = Io::new(stream);
            let connection = builder.serve_connection(io, service).with_upgrades();
            until_left(connection, self.draining.clone()).await
        };
        if let Err(error) = ended {
            tracing::debug!(client = %ip, %error, "a client's connection ended");
        }
    }

    async fn answer(&self, request: Request<Arriving>) -> Result<Response<Outgoing>, Infallible> {
        Ok(self.gateway.call(request, &self.peer, &self.tasks).await)
    }
}

/// The service of an HTTP/2 connection, whose requests are tasks of their own.
struct Shared {
    client: Arc<Client>,
    usage: Usage,
    frames: Unread,
}

impl Service<Request<Incoming>> for Shared {
    type Response = Response<Outgoing>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (client, usage) = (Arc::clone(&self.client), self.usage.clone());
        let request = Arriving::of(request, Some(&self.frames));
        Box::pin(async move {
            let mut response = client.answer(request).await?;
            response.body_mut().over_http2(&usage);
            Ok(response)
        })
    }
}

/// Runs the requests of an HTTP/2 connection, each until its response has ended or is overdue.
#[derive(Debug, Clone)]
struct Streams(Usage);

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let in_use = self.0.begin();
        tokio::spawn(async move {
            overdue::minded(stream).await;
            drop(in_use);
        });
    }
}

/// Whether a connection begins with HTTP/2's preface. No HTTP/1.1 method begins with `PRI`.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    const PREFACE: &[u8] = b"PRI";
    const LONGEST_PAUSE: Duration = Duration::from_millis(250);
    let mut start = [0; 3];
    let mut pause = Duration::from_millis(1);
    loop {
        let length = stream.peek(&mut start).await?;
        let begun = start.get(..length).unwrap_or_default();
        if begun.is_empty() || !PREFACE.starts_with(begun) || begun.len() == PREFACE.len() {
            return Ok(begun == PREFACE);
        }
        // Peeking again at once would show the same bytes again and again.
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// A connection that can be told to answer what it was asked and then end.
trait Graceful: Future<Output = hyper::Result<()>> {
    fn shut_down(self: Pin<&mut Self>);
}

impl<I, S> Graceful for http1::UpgradeableConnection<I, S>
where
    S: hyper::service::HttpService<Incoming, ResBody = Outgoing>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    fn shut_down(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I> Graceful for http2::Connection<I, Shared, Streams>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    fn shut_down(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Serves a connection to its end, gracefully from the moment that `leaving` is cancelled, or until a response on it is
/// overdue. That moment wakes the task; all other wake-ups cost one look at the token.
async fn until_left(connection: impl Graceful, leaving: CancellationToken) -> hyper::Result<()> {
    let mut connection = pin!(connection);
    let mut cancelled = pin!(leaving.clone().cancelled_owned());
    let (mut is_registered, mut is_leaving) = (false, false);
    let mut overdue = Overdue::default();
    let ended = std::future::poll_fn(|cx: &mut Context<'_>| {
        if !is_leaving && is_registered && leaving.is_cancelled() {
            is_leaving = true;
            connection.as_mut().shut_down();
        }
        let polled = overdue.poll(cx, |cx| connection.as_mut().poll(cx));
        if polled.is_pending() && !is_registered {
            is_registered = true;
            if cancelled.as_mut().poll(cx).is_ready() {
                is_leaving = true;
                connection.as_mut().shut_down();
                return overdue.poll(cx, |cx| connection.as_mut().poll(cx));
            }
        }
        polled
    });
    ended.await.unwrap_or(Ok(()))
}
