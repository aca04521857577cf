//! Idle connections to replicas, one set per thread: a request, its client's connection and its replica's stay on one
//! core, and nobody locks anything.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::body::RequestBody;

/// A connection that takes requests.
pub(crate) type Sender = http1::SendRequest<RequestBody>;

/// How long a connection is kept without a request: less than any server keeps it.
const IDLE: Duration = Duration::from_secs(20);
/// The most idle connections to one replica on one thread.
const MOST: usize = 256;
/// The longest that connecting to a replica may take; it is near.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The largest head of a response.
const MAX_HEAD: usize = 64 << 10;

struct Idle {
    sender: Sender,
    since: Instant,
}

thread_local! {
    static POOL: RefCell<HashMap<SocketAddr, Vec<Idle>>> = RefCell::default();
}

/// A connection that was used before and is free, if there is one.
pub(crate) fn take(address: SocketAddr, now: Instant) -> Option<Sender> {
    POOL.with_borrow_mut(|pool| {
        let idle = pool.get_mut(&address)?;
        let mut later = Vec::new();
        let mut found = None;
        while let Some(entry) = idle.pop() {
            if entry.sender.is_closed() || now.saturating_duration_since(entry.since) >= IDLE {
                continue;
            }
            if entry.sender.is_ready() {
                found = Some(entry.sender);
                break;
            }
            // Its last exchange isn't quite over.
            later.push(entry);
        }
        idle.extend(later.into_iter().rev());
        if idle.is_empty() && found.is_none() {
            pool.remove(&address);
        }
        found
    })
}

/// Keeps a connection whose response has ended.
pub(crate) fn put(address: SocketAddr, sender: Sender, now: Instant) {
    if sender.is_closed() {
        return;
    }
    // The thread may be ending.
    let _ = POOL.try_with(|pool| {
        if let Ok(mut pool) = pool.try_borrow_mut() {
            let idle = pool.entry(address).or_default();
            if idle.len() < MOST {
                idle.push(Idle { sender, since: now });
            }
        }
    });
}

/// Closes what was idle for long; called now and then on each thread.
pub(crate) fn sweep() {
    POOL.with_borrow_mut(|pool| {
        pool.retain(|_, idle| {
            idle.retain(|entry| !entry.sender.is_closed() && entry.since.elapsed() < IDLE);
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
pub(crate) async fn connect(address: SocketAddr) -> Result<Sender, ConnectError> {
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(|_| ConnectError::TooSlow)??;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::Builder::new()
        .max_header_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::spawn(async move {
        // What fails here fails the request that it carries, too.
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%address, %error, "a connection to a replica ended");
        }
    });
    Ok(sender)
}
