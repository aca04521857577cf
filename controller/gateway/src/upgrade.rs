//! Connections that leave HTTP behind, such as WebSockets: once the replica agreed, bytes go both ways as they come.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::header::{CONNECTION, HeaderMap, HeaderValue, UPGRADE};
use http::{Method, Request, Version};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_util::task::TaskTracker;
use wisp_admit::Permit;

use crate::proxy::Exchange;
use crate::upstream::Switched;

/// Bytes that are on their way in one direction.
const BUFFER: usize = 16 << 10;

/// What a client asked its connection to become.
pub(crate) struct Wanted {
    protocols: HeaderValue,
    client: OnUpgrade,
}

/// Whether a request asks for another protocol, <https://www.rfc-editor.org/rfc/rfc9110#section-7.8>.
pub(crate) fn wanted<B>(request: &mut Request<B>) -> Option<Wanted> {
    if request.version() != Version::HTTP_11 || request.method() == Method::CONNECT {
        return None;
    }
    let is_meant = request
        .headers()
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|name| name.trim().eq_ignore_ascii_case("upgrade"));
    let protocols = request.headers().get(UPGRADE)?.clone();
    // `h2c` would be spoken to the replica in place of HTTP/1.1, past everything that the gateway does.
    let is_http = protocols
        .to_str()
        .is_ok_and(|text| text.to_ascii_lowercase().contains("h2c"));
    (is_meant && !is_http).then(|| Wanted {
        protocols,
        client: hyper::upgrade::on(request),
    })
}

impl Wanted {
    /// Asks the replica for the same; the headers have lost it as hop-by-hop ones.
    pub(crate) fn ask(&self, headers: &mut HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, self.protocols.clone());
    }

    /// Joins both connections, once the client was told that they switch. It ends when both sides have, or nothing came from
    /// either for `patience`; until then it is in flight, and has its `place` among the connections.
    pub(crate) fn open(
        self,
        mut exchange: Box<Exchange>,
        place: Option<Arc<Permit>>,
        patience: Duration,
        tasks: &TaskTracker,
    ) {
        tasks.spawn(async move {
            let _place = place;
            let Some(replica) = exchange.switch() else {
                tracing::debug!("a replica switched in the middle of a request");
                exchange.broke();
                return;
            };
            let client = match self.client.await {
                Ok(client) => client,
                Err(error) => {
                    tracing::debug!(%error, "an upgrade failed");
                    exchange.broke();
                    return;
                }
            };
            match join(TokioIo::new(client), replica, patience).await {
                Ok(()) => exchange.closed(),
                Err(error) => {
                    tracing::debug!(%error, "an upgraded connection broke");
                    exchange.broke();
                }
            }
        });
    }
}

/// What the client is told of the protocol that the replica chose.
pub(crate) fn agreed(from: &HeaderMap) -> Option<HeaderValue> {
    from.get(UPGRADE).cloned()
}

async fn join(
    client: impl AsyncRead + AsyncWrite,
    replica: Switched,
    patience: Duration,
) -> io::Result<()> {
    let clock = Clock::new();
    let (from_client, to_client) = tokio::io::split(client);
    let (from_replica, to_replica) = (replica.read, replica.write);
    tokio::select! {
        ended = async {
            tokio::try_join!(pump(from_client, to_replica, &clock), pump(from_replica, to_client, &clock))
        } => ended.map(|_| ()),
        () = clock.silence(patience) => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    clock: &Clock,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = from.read(&mut buffer).await?;
        clock.tick();
        match buffer.get(..length) {
            Some(bytes) if length > 0 => to.write_all(bytes).await?,
            _ => return to.shutdown().await,
        }
        to.flush().await?;
    }
}

/// When the last byte came.
struct Clock {
    began: Instant,
    last_millis: AtomicU64,
}

impl Clock {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            last_millis: AtomicU64::new(0),
        }
    }

    fn tick(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_millis.store(millis, Ordering::Relaxed);
    }

    /// Resolves when nothing came for `patience`.
    async fn silence(&self, patience: Duration) {
        loop {
            let last = Duration::from_millis(self.last_millis.load(Ordering::Relaxed));
            let quiet = self.began.elapsed().saturating_sub(last);
            match patience.checked_sub(quiet) {
                Some(left) if !left.is_zero() => tokio::time::sleep(left).await,
                _ => return,
            }
        }
    }
}
