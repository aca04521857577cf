//! Sockets: one per core, each with a thread and a runtime of its own.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::connection::{Connections, Transport};
use crate::gateway::Gateway;
use crate::pool;
use crate::route::recall;

/// Connections that wait to be accepted, per socket.
const BACKLOG: u16 = 1024;
/// How long to pause where accepting failed: out of file descriptors, usually.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a client may be silent before it is asked whether it is still there, and how often then.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(10));
/// How long a client may leave what it was sent unacknowledged, or take none of it.
const UNACKNOWLEDGED: Duration = Duration::from_secs(60);
/// How often idle connections to replicas are looked through.
const SWEEP: Duration = Duration::from_secs(5);

/// Sockets that are bound; [`Server::run`] serves them.
#[derive(Debug)]
pub struct Server {
    gateway: Arc<Gateway>,
    sockets: Vec<StdListener>,
    address: SocketAddr,
    transport: Transport,
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
        self.listen(address, workers, Transport::Plain)
    }

    /// The same, and speaks TLS: every handshake with what `configuration` holds at that moment, so that a new
    /// certificate takes effect without touching the connections there are. HTTP/2 needs `h2` among its
    /// `alpn_protocols`.
    ///
    /// # Errors
    /// As [`Gateway::bind`].
    #[cfg(feature = "tls")]
    pub fn bind_tls(
        self: &Arc<Self>,
        address: SocketAddr,
        workers: NonZeroUsize,
        configuration: Arc<arc_swap::ArcSwap<rustls::ServerConfig>>,
    ) -> io::Result<Server> {
        self.listen(address, workers, Transport::Tls(configuration))
    }

    fn listen(
        self: &Arc<Self>,
        address: SocketAddr,
        workers: NonZeroUsize,
        transport: Transport,
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
            transport,
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
    // What is accepted has it from here, which spares each connection the calls.
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE.0)
            .with_interval(KEEPALIVE.1),
    )?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG.into())?;
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
            let transport = self.transport.clone();
            let spawned = std::thread::Builder::new()
                .name(format!("gateway-{index}"))
                .spawn(move || {
                    let _ = done.send(work(&gateway, socket, transport, &token));
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
    transport: Transport,
    shutdown: &CancellationToken,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let served = runtime.block_on(async {
        // A socket registers with the runtime that it is made in.
        let listener = TcpListener::from_std(socket)?;
        serve(gateway, listener, transport, shutdown).await;
        Ok(())
    });
    // What outlived the drain ends here.
    runtime.shutdown_background();
    served
}

async fn serve(
    gateway: &Arc<Gateway>,
    listener: TcpListener,
    transport: Transport,
    shutdown: &CancellationToken,
) {
    let connections = Connections::new(Arc::clone(gateway), transport);
    let mut sweep = tokio::time::interval(SWEEP);
    let mut told = Told::default();
    let mut last = None;
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => {
                    last = Some(Instant::now());
                    match gateway.connection() {
                        Some(place) => connections.start(stream, from, place),
                        None => told.full(gateway),
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    if !is_of_one_connection(&error) {
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            },
            _ = sweep.tick() => {
                pool::sweep();
                recall::sweep();
            }
        }
    }
    // Who connected before the drain began is answered, if the request is on its way.
    for (stream, from) in wisp_places::close(listener, BACKLOG.into()) {
        last = Some(Instant::now());
        if let Some(place) = gateway.connection() {
            connections.start(stream, from, place);
        }
    }
    wisp_places::hear_out(last).await;
    if tokio::time::timeout(gateway.options().drain_timeout, connections.drain())
        .await
        .is_err()
    {
        tracing::warn!("the drain took too long: connections are cut");
    }
}

/// When it was said last that there are too many connections.
#[derive(Default)]
struct Told(Option<Instant>);

impl Told {
    fn full(&mut self, gateway: &Gateway) {
        let now = Instant::now();
        if self.0.is_none_or(|last| now.duration_since(last) >= SWEEP) {
            self.0 = Some(now);
            let most = gateway.options().max_connections;
            tracing::warn!(
                most,
                "connections are closed at once: there are as many as there may be"
            );
        }
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

#[cfg(test)]
mod tests {
    use socket2::SockRef;

    use super::*;

    /// Would fail if clients that are gone without a word, or take nothing, were kept for as long as TCP tries.
    #[test]
    fn what_is_accepted_is_minded_as_the_listener_is() {
        let listener = socket("127.0.0.1:0".parse().unwrap(), true).unwrap();
        listener.set_nonblocking(false).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let accepted = SockRef::from(&accepted);
        assert!(accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), KEEPALIVE.0);
        assert_eq!(accepted.tcp_keepalive_interval().unwrap(), KEEPALIVE.1);
        assert_eq!(accepted.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED));
    }
}
