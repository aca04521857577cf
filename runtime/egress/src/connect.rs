//! Connections to addresses that were checked.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tower_service::Service;

use crate::policy::Policy;
use crate::resolve::Resolve;
use crate::target::{Host, Target};

/// How long the first address has before the next one is tried beside it (RFC 8305 recommends 250 ms).
const STAGGER: Duration = Duration::from_millis(250);

/// Names that are being resolved at the same time, at most: each one may hold a thread.
const LOOKUPS: usize = 16;

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
    Resolve(#[source] io::Error),
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
    connections: Arc<Semaphore>,
    max_connections: usize,
    patience: Duration,
}

impl Connector {
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
        let permit = Arc::clone(&self.connections)
            .try_acquire_owned()
            .map_err(|_| ConnectError::TooMany(self.max_connections))?;
        let attempt = async {
            let addresses = self.addresses(&target).await?;
            // From here on only these addresses count: the name is not resolved again.
            first_to_connect(
                addresses
                    .into_iter()
                    .map(|address| SocketAddr::new(address, target.port)),
            )
            .await
        };
        let stream = timeout(self.patience, attempt)
            .await
            .map_err(|_| ConnectError::Timeout(self.patience))??;
        stream.set_nodelay(true).map_err(ConnectError::Connect)?;
        Ok(Stream {
            io: TokioIo::new(stream),
            _permit: permit,
        })
    }

    /// The addresses of `target` that may be connected to.
    async fn addresses(&self, target: &Target) -> Result<Vec<IpAddr>, ConnectError> {
        let found = match &target.host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => {
                let turn = Arc::clone(&self.lookups).acquire_owned().await;
                let turn = turn.map_err(|_| ConnectError::NoAddress)?;
                let (resolver, name) = (Arc::clone(&self.resolver), name.clone());
                // In a task of its own: the thread is taken until the name is resolved, whether or not anybody still waits.
                let resolving = tokio::spawn(async move {
                    let found = resolver.resolve(&name).await;
                    drop(turn);
                    found
                });
                let found = resolving.await.unwrap_or_else(|error| Err(error.into()));
                found.map_err(ConnectError::Resolve)?
            }
        };
        let first = *found.first().ok_or(ConnectError::NoAddress)?;
        let permitted: Vec<_> = found
            .into_iter()
            .filter(|address| self.policy.permits(target, *address))
            .take(ADDRESSES)
            .collect();
        if permitted.is_empty() {
            Err(ConnectError::Prohibited(first))
        } else {
            Ok(permitted)
        }
    }
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
