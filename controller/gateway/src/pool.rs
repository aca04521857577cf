//! Idle connections to replicas, one set per thread: a request, its client's connection and its replica's stay on one
//! core, and nobody locks anything.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use http::Request;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use wisp_deadline::Deadline;

use crate::body::RequestBody;
use crate::io::Io;
use crate::relay::Relay;

/// A connection to a replica.
///
/// Whoever uses it does its reading and writing ([`Driven::drive`]): two tasks would wake each other at every step.
pub(crate) struct Connection {
    sender: http1::SendRequest<RequestBody>,
    driven: Driven,
    relay: Relay,
}

/// What of a connection is to be polled for its exchange to go on.
pub(crate) struct Driven {
    /// `None` where a task of its own does it, or where it ended.
    driver: Option<Driver>,
    /// Until when its response must have ended.
    deadline: Deadline,
}

type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

impl Connection {
    /// Sends a request; the answer comes while the connection is driven, and should end before the deadline.
    pub(crate) fn send(
        &mut self,
        request: Request<RequestBody>,
        deadline: tokio::time::Instant,
    ) -> impl Future<
        Output = Result<http::Response<hyper::body::Incoming>, TrySendError<Request<RequestBody>>>,
    > + use<> {
        // A response may wait for a client that reads nothing before it has sent everything: an upload goes on without
        // anyone who asks for the response.
        if matches!(request.body(), RequestBody::Limited { .. }) {
            self.detach();
        }
        self.driven.deadline.set(deadline);
        self.sender.try_send_request(request)
    }

    /// When the last request's deadline is over.
    pub(crate) fn until(&self) -> tokio::time::Instant {
        self.driven.deadline.at()
    }

    /// Does `work`, which polls what this connection carries, for the task of `cx`.
    pub(crate) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        work: impl FnOnce(&mut Driven, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let Self { driven, relay, .. } = self;
        if driven.driver.is_none() {
            return work(driven, cx);
        }
        relay.poll(cx, |cx| work(driven, cx))
    }

    /// Leaves reading and writing to a task of its own.
    pub(crate) fn detach(&mut self) {
        if let Some(driver) = self.driven.driver.take() {
            tokio::spawn(async move {
                if let Err(error) = driver.await {
                    tracing::debug!(%error, "a connection to a replica ended");
                }
            });
        }
    }

    /// Whether it can be sent a request; closed ones can't, nor can those whose last exchange isn't quite over.
    fn is_ready(&mut self) -> bool {
        if !self.sender.is_ready() {
            self.look();
        }
        self.sender.is_ready()
    }

    /// Notices what happened while nobody drove it.
    fn look(&mut self) {
        self.driven.drive(&mut Context::from_waker(Waker::noop()));
    }
}

impl Driven {
    /// Ready when the last request's deadline is over.
    pub(crate) fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.deadline.poll(cx)
    }

    /// Reads and writes what can be.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && let Poll::Ready(ended) = driver.as_mut().poll(cx)
        {
            // What fails here fails the request that it carries, too.
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection to a replica ended");
            }
            self.driver = None;
        }
    }
}

/// How long a connection is kept without a request: less than any server keeps it.
const IDLE: Duration = Duration::from_secs(20);
/// The most idle connections to one replica on one thread.
const MOST: usize = 256;
/// The longest that connecting to a replica may take; it is near.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a replica may be silent before it is asked whether it is still there, how often then, and how often in vain: one
/// whose node lost its power says nothing any more. What it is sent may wait for as long as it likes, if it works on what came
/// before, so unacknowledged bytes alone are no sign.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(5), Duration::from_secs(2), 3);
/// The largest head of a response.
const MAX_HEAD: usize = 64 << 10;

struct Idle {
    connection: Connection,
    since: Instant,
}

thread_local! {
    static POOL: RefCell<HashMap<SocketAddr, Vec<Idle>, BuildHasherDefault<Fnv>>> = RefCell::default();
}

/// FNV-1a, <http://www.isthe.com/chongo/tech/comp/fnv/>: replicas' addresses are no stranger's choice.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A connection that was used before and is free, if there is one.
pub(crate) fn take(address: SocketAddr, now: Instant) -> Option<Connection> {
    POOL.with_borrow_mut(|pool| {
        let idle = pool.get_mut(&address)?;
        let mut later = Vec::new();
        let mut found = None;
        while let Some(mut entry) = idle.pop() {
            if now.saturating_duration_since(entry.since) >= IDLE {
                continue;
            }
            // One that its replica closed in the meantime gives back what it is sent.
            if entry.connection.is_ready() {
                found = Some(entry.connection);
                break;
            }
            // Its last exchange isn't quite over.
            if !entry.connection.sender.is_closed() {
                later.push(entry);
            }
        }
        idle.extend(later.into_iter().rev());
        if idle.is_empty() && found.is_none() {
            pool.remove(&address);
        }
        found
    })
}

/// Keeps a connection whose response has ended.
pub(crate) fn put(address: SocketAddr, mut connection: Connection, now: Instant) {
    if !connection.is_ready() && connection.sender.is_closed() {
        return;
    }
    connection.relay.leave();
    // The thread may be ending.
    let _ = POOL.try_with(|pool| {
        if let Ok(mut pool) = pool.try_borrow_mut() {
            let idle = pool.entry(address).or_default();
            if idle.len() < MOST {
                idle.push(Idle {
                    connection,
                    since: now,
                });
            }
        }
    });
}

/// Closes what was idle for long; called now and then on each thread.
pub(crate) fn sweep() {
    POOL.with_borrow_mut(|pool| {
        pool.retain(|_, idle| {
            for entry in idle.iter_mut() {
                entry.connection.look();
            }
            idle.retain(|entry| {
                !entry.connection.sender.is_closed() && entry.since.elapsed() < IDLE
            });
            !idle.is_empty()
        });
    });
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("no connection within {CONNECT_TIMEOUT:?}")]
    TooSlow,
    #[error("no connection")]
    Connect(#[from] std::io::Error),
    #[error("no HTTP on the connection")]
    Handshake(#[from] hyper::Error),
}

/// Opens a connection.
pub(crate) async fn connect(address: SocketAddr) -> Result<Connection, ConnectError> {
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(|_| ConnectError::TooSlow)??;
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE.0)
            .with_interval(KEEPALIVE.1)
            .with_retries(KEEPALIVE.2),
    )?;
    let (sender, connection) = http1::Builder::new()
        .max_header_size(MAX_HEAD)
        .handshake(Io::new(stream))
        .await?;
    Ok(Connection {
        sender,
        driven: Driven {
            driver: Some(Box::pin(connection.with_upgrades())),
            // There is no request yet.
            deadline: Deadline::new(tokio::time::Instant::now() + IDLE),
        },
        relay: Relay::default(),
    })
}
