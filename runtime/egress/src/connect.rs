//! Connections to addresses that were checked.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{self, BoxFuture, FutureExt as _};
use futures::stream::{FuturesUnordered, StreamExt as _};
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tower_service::Service;

use crate::policy::Policy;
use crate::resolve::Resolve;
use crate::target::{Host, Target};

/// How long the first address has before the next one is tried beside it (RFC 8305 recommends 250 ms).
const STAGGER: Duration = Duration::from_millis(250);

/// Names that are being resolved at the same time, at most: each one may hold a thread. Whoever asks for one of them has its
/// result, so that a name that nobody answers for takes one of these places, however many ask.
const LOOKUPS: usize = 16;

/// How long nothing may come before the kernel asks whether the other machine is there, and between its questions.
const SILENCE: Duration = Duration::from_secs(10);

/// How often it is asked in vain: then it is gone.
const RETRIES: u32 = 2;

/// Addresses of one name that are tried, at most.
const ADDRESSES: usize = 8;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("the URL names no destination")]
    NoTarget,
    #[error("outbound.allow does not list it")]
    Denied,
    #[error("its name can't be resolved")]
    Resolve(#[source] Arc<io::Error>),
    #[error("its name has no address")]
    NoAddress,
    #[error(
        "it resolves to {0}, which is no public address: outbound.allow must name that address itself"
    )]
    Prohibited(IpAddr),
    #[error("{0} connections are open, which is the limit")]
    TooMany(usize),
    #[error("no connection within {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error("no connection")]
    Connect(#[source] io::Error),
}

/// Connects to what a policy permits. Clones share everything.
#[derive(Clone)]
pub(crate) struct Connector(Arc<Shared>);

struct Shared {
    policy: Arc<Policy>,
    resolver: Arc<dyn Resolve>,
    lookups: Arc<Semaphore>,
    running: Running,
    connections: Arc<Semaphore>,
    max_connections: usize,
    patience: Duration,
}

/// The lookups that run, by their names.
type Running = Arc<Mutex<HashMap<String, Lookup>>>;

/// One that runs, for all who wait for it.
type Lookup = future::Shared<BoxFuture<'static, Result<Arc<[IpAddr]>, Arc<io::Error>>>>;

impl Connector {
    /// One that waits for half of `patience`, at most, until there is room for a connection: the rest of it is for making one.
    pub(crate) fn new(
        policy: Arc<Policy>,
        resolver: Arc<dyn Resolve>,
        max_connections: usize,
        patience: Duration,
    ) -> Self {
        Self(Arc::new(Shared {
            policy,
            resolver,
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
            running: Running::default(),
            connections: Arc::new(Semaphore::new(max_connections)),
            max_connections,
            patience,
        }))
    }
}

impl Shared {
    async fn connect(&self, uri: &Uri) -> Result<Stream, ConnectError> {
        let target = Target::of(uri).ok_or(ConnectError::NoTarget)?;
        if !self.policy.allows(&target) {
            return Err(ConnectError::Denied);
        }
        let addresses = self.addresses(&target).await?;
        // Only now: names that take long to resolve would take the places of connections that can be made.
        let room = Arc::clone(&self.connections).acquire_owned();
        let permit = match timeout(self.patience / 2, room).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) | Err(_) => return Err(ConnectError::TooMany(self.max_connections)),
        };
        // From here on only these addresses count: the name is not resolved again.
        let stream = first_to_connect(
            addresses
                .into_iter()
                .map(|address| SocketAddr::new(address, target.port)),
        )
        .await?;
        prepare(&stream).map_err(ConnectError::Connect)?;
        Ok(Stream {
            io: TokioIo::new(stream),
            _permit: permit,
        })
    }

    /// The addresses of `target` that may be connected to.
    async fn addresses(&self, target: &Target) -> Result<Vec<IpAddr>, ConnectError> {
        let found = match &target.host {
            Host::Address(address) => Arc::from([*address]),
            Host::Name(name) => {
                let lookup = self.lookup(name).await?;
                lookup.await.map_err(ConnectError::Resolve)?
            }
        };
        let first = *found.first().ok_or(ConnectError::NoAddress)?;
        let permitted: Vec<_> = found
            .iter()
            .copied()
            .filter(|address| self.policy.permits(target, *address))
            .take(ADDRESSES)
            .collect();
        if permitted.is_empty() {
            Err(ConnectError::Prohibited(first))
        } else {
            Ok(permitted)
        }
    }

    /// The lookup of `name` that runs, or one that begins when it is its turn.
    async fn lookup(&self, name: &str) -> Result<Lookup, ConnectError> {
        if let Some(lookup) = lock(&self.running).get(name) {
            return Ok(lookup.clone());
        }
        let turn = Arc::clone(&self.lookups).acquire_owned().await;
        let turn = turn.map_err(|_| ConnectError::NoAddress)?;
        let mut running = lock(&self.running);
        // Another's may have begun meanwhile.
        if let Some(lookup) = running.get(name) {
            return Ok(lookup.clone());
        }
        let (resolver, owned) = (Arc::clone(&self.resolver), name.to_owned());
        let all = Arc::clone(&self.running);
        // In a task of its own: the thread is taken until the name is resolved, whether or not anybody still waits.
        let resolving = tokio::spawn(async move {
            // Dropped however this ends, and after the place among those that run.
            let _turn = turn;
            let _running = Entry { all, name: &owned };
            resolver.resolve(&owned).await
        });
        let lookup = resolving
            .map(|found| match found {
                Ok(Ok(found)) => Ok(found.into()),
                Ok(Err(error)) => Err(Arc::new(error)),
                Err(error) => Err(Arc::new(error.into())),
            })
            .boxed()
            .shared();
        running.insert(name.to_owned(), lookup.clone());
        Ok(lookup)
    }
}

/// A lookup's place among those that run.
struct Entry<'a> {
    all: Running,
    name: &'a str,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        lock(&self.all).remove(self.name);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has small messages sent at once, and the end of the other machine noticed: by themselves, kernels wait for ever for an answer.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // A limit on what isn't acknowledged would end uploads to servers that read slowly, too.
    SockRef::from(stream).set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(SILENCE)
            .with_interval(SILENCE)
            .with_retries(RETRIES),
    )
}

/// Tries one address after the other, the next one when the last one failed or has been at it for [`STAGGER`].
async fn first_to_connect(
    addresses: impl Iterator<Item = SocketAddr>,
) -> Result<TcpStream, ConnectError> {
    let mut waiting = addresses;
    let mut attempts = FuturesUnordered::new();
    let mut failure = ConnectError::NoAddress;
    loop {
        let next = waiting.next();
        let more = next.is_some();
        attempts.extend(next.map(TcpStream::connect));
        let outcome = if more {
            timeout(STAGGER, attempts.next()).await
        } else {
            Ok(attempts.next().await)
        };
        match outcome {
            Ok(Some(Ok(stream))) => return Ok(stream),
            Ok(Some(Err(error))) => failure = ConnectError::Connect(error),
            Ok(None) => return Err(failure),
            Err(_) => {}
        }
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = ConnectError;
    type Future = BoxFuture<'static, Result<Stream, ConnectError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move { shared.connect(&uri).await })
    }
}

/// A connector that gives up after a while, TLS included. The client makes connections for whoever asks, and completes those
/// that were made for nothing, as another became free first: nobody waits for them, and a server that never shakes hands would
/// keep their places for ever.
#[derive(Clone)]
pub(crate) struct Patient<C> {
    pub(crate) connector: C,
    pub(crate) patience: Duration,
}

type BoxError = Box<dyn StdError + Send + Sync>;

impl<C> Service<Uri> for Patient<C>
where
    C: Service<Uri>,
    C::Response: Send,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<C::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.connector.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, patience) = (self.connector.call(uri), self.patience);
        Box::pin(async move {
            match timeout(patience, connecting).await {
                Ok(connected) => connected.map_err(Into::into),
                Err(_) => Err(ConnectError::Timeout(patience).into()),
            }
        })
    }
}

/// A connection that counts as open until it is dropped.
pub(crate) struct Stream {
    io: TokioIo<TcpStream>,
    _permit: OwnedSemaphorePermit,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if an answer were waited for without end from a machine that is gone.
    #[tokio::test]
    async fn the_end_of_the_other_machine_is_noticed() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(server.local_addr().unwrap())
            .await
            .unwrap();
        prepare(&stream).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), SILENCE);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), RETRIES);
    }
}
