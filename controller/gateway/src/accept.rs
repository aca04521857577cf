//! Sockets: one per core, each with a thread and a runtime of its own.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::forward::Peer;
use crate::gateway::Gateway;
use crate::pool;

/// Connections that wait to be accepted, per socket.
const BACKLOG: i32 = 1024;
/// The longest that a client may take for a request's head, or between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// The largest head of a request.
const MAX_HEAD: usize = 64 << 10;
/// The most requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 256;
/// How long to pause where accepting failed: out of file descriptors, usually.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often idle connections to replicas are looked through.
const SWEEP: Duration = Duration::from_secs(5);

/// Sockets that are bound; [`Server::run`] serves them.
#[derive(Debug)]
pub struct Server {
    gateway: Arc<Gateway>,
    sockets: Vec<StdListener>,
    address: SocketAddr,
}

impl Gateway {
    /// Binds `address`, with one socket for each of `workers`. Port 0 chooses one.
    ///
    /// # Errors
    /// When the address isn't to be had: someone else listens there, for example.
    pub fn bind(
        self: &Arc<Self>,
        address: SocketAddr,
        workers: NonZeroUsize,
    ) -> io::Result<Server> {
        // Sockets that share their port share it with strangers, too, of the same user: the first try asks for it alone.
        drop(socket(address, false)?);
        let first = socket(address, true)?;
        let address = first.local_addr()?;
        let mut sockets = vec![first];
        for _ in 1..workers.get() {
            sockets.push(socket(address, true)?);
        }
        Ok(Server {
            gateway: Arc::clone(self),
            sockets,
            address,
        })
    }
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<StdListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // Connections of a process that just ended don't keep the port.
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

impl Server {
    /// The address that is bound.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is cancelled, then drains: takes no new connection, answers what was asked, and returns
    /// when the last response has ended, at the latest after [`crate::Options::drain_timeout`].
    ///
    /// # Errors
    /// When a thread or its runtime cannot be made; the others then drain.
    pub async fn run(self, shutdown: CancellationToken) -> io::Result<()> {
        let mut workers = Vec::new();
        for (index, socket) in self.sockets.into_iter().enumerate() {
            let (done, result) = tokio::sync::oneshot::channel();
            let (gateway, token) = (Arc::clone(&self.gateway), shutdown.clone());
            let spawned = std::thread::Builder::new()
                .name(format!("gateway-{index}"))
                .spawn(move || {
                    let _ = done.send(work(&gateway, socket, &token));
                });
            match spawned {
                Ok(_) => workers.push(result),
                Err(error) => {
                    shutdown.cancel();
                    workers.push({
                        let (failed, result) = tokio::sync::oneshot::channel();
                        let _ = failed.send(Err(error));
                        result
                    });
                }
            }
        }
        let mut outcome = Ok(());
        for worker in workers {
            let ended = worker
                .await
                .unwrap_or_else(|_| Err(io::Error::other("a gateway thread panicked")));
            if ended.is_err() {
                shutdown.cancel();
            }
            outcome = outcome.and(ended);
        }
        outcome
    }
}

fn work(
    gateway: &Arc<Gateway>,
    socket: StdListener,
    shutdown: &CancellationToken,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let served = runtime.block_on(async {
        // A socket registers with the runtime that it is made in.
        let listener = TcpListener::from_std(socket)?;
        serve(gateway, listener, shutdown).await;
        Ok(())
    });
    // What outlived the drain ends here.
    runtime.shutdown_background();
    served
}

async fn serve(gateway: &Arc<Gateway>, listener: TcpListener, shutdown: &CancellationToken) {
    let graceful = GracefulShutdown::new();
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => start(gateway, &graceful, stream, from, shutdown),
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    if !is_of_one_connection(&error) {
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            },
            _ = sweep.tick() => pool::sweep(),
        }
    }
    // Who connected before the drain began is answered.
    while let Some(Ok((stream, from))) = listener.accept().now_or_never() {
        start(gateway, &graceful, stream, from, shutdown);
    }
    drop(listener);
    if tokio::time::timeout(gateway.options().drain_timeout, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("the drain took too long: connections are cut");
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

fn start(
    gateway: &Arc<Gateway>,
    graceful: &GracefulShutdown,
    stream: TcpStream,
    from: SocketAddr,
    shutdown: &CancellationToken,
) {
    let (gateway, watcher, shutdown) = (Arc::clone(gateway), graceful.watcher(), shutdown.clone());
    tokio::spawn(async move {
        let first = tokio::time::timeout(HEAD_TIMEOUT, speaks_http2(&stream));
        // Who has said nothing when the drain begins has asked nothing.
        let http2 = tokio::select! {
            biased;
            first = first => match first {
                Ok(Ok(http2)) => http2,
                Ok(Err(_)) | Err(_) => return,
            },
            () = shutdown.cancelled() => return,
        };
        let _ = stream.set_nodelay(true);
        let peer = Peer::new(from.ip());
        connection(&gateway, stream, &peer, http2, watcher).await;
    });
}

/// Whether a connection begins with HTTP/2's preface. No HTTP/1.1 method begins with `PRI`.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    const PREFACE: &[u8] = b"PRI";
    let mut start = [0; 3];
    loop {
        let length = stream.peek(&mut start).await?;
        let begun = start.get(..length).unwrap_or_default();
        if begun.is_empty() || !PREFACE.starts_with(begun) || begun.len() == PREFACE.len() {
            return Ok(begun == PREFACE);
        }
        // Peeking again at once would show the same bytes again and again.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn connection(
    gateway: &Arc<Gateway>,
    stream: TcpStream,
    peer: &Peer,
    is_http2: bool,
    watcher: Watcher,
) {
    let service = service_fn(|request| answer(gateway, request, peer));
    let io = TokioIo::new(stream);
    let ended = if is_http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
            .keep_alive_interval(Some(HEAD_TIMEOUT));
        watcher
            .watch(builder.serve_connection(
                io,
                OwnedService {
                    gateway: Arc::clone(gateway),
                    peer: peer.clone(),
                },
            ))
            .await
    } else {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_header_size(MAX_HEAD);
        watcher.watch(builder.serve_connection(io, service)).await
    };
    if let Err(error) = ended {
        tracing::debug!(client = %peer.ip, %error, "a client's connection ended");
    }
}

async fn answer(
    gateway: &Gateway,
    request: http::Request<hyper::body::Incoming>,
    peer: &Peer,
) -> Result<http::Response<crate::body::Outgoing>, Infallible> {
    Ok(gateway.call(request, peer).await)
}

/// The service of an HTTP/2 connection, whose requests are tasks of their own.
struct OwnedService {
    gateway: Arc<Gateway>,
    peer: Peer,
}

impl hyper::service::Service<http::Request<hyper::body::Incoming>> for OwnedService {
    type Response = http::Response<crate::body::Outgoing>;
    type Error = Infallible;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: http::Request<hyper::body::Incoming>) -> Self::Future {
        let (gateway, peer) = (Arc::clone(&self.gateway), self.peer.clone());
        Box::pin(async move { Ok(gateway.call(request, &peer).await) })
    }
}
