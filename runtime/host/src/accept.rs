//! The data port once there is a function: connections, HTTP/1.1 or HTTP/2 by prior knowledge.

use std::future::poll_fn;
use std::ops::RangeInclusive;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use wisp_burst::Burst;
use wisp_contract::config::Limits;
use wisp_deadline::{ConnectionTimer, used_before};
use wisp_notices::Notices;
use wisp_places::{Claim, Place, Places};

use crate::function::Function;
use crate::key;
use crate::process::{BACKLOG, Host};
use crate::serve::serve as answer;

/// A client that doesn't finish its head in this time is dropped, as is one that doesn't say anything, or not the key, or whose
/// HTTP/2 connection doesn't answer.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes that are read of one at once, and of a request's head: twice what a gateway lets pass, which adds to it.
const BUFFER: usize = 128 << 10;
/// The most connections whose clients haven't shown the key, each of which may hold [`BUFFER`] bytes.
const UNKNOWN: RangeInclusive<usize> = 128..=1024;
/// The most connections where there is no key to be shown.
const CONNECTIONS: usize = 10_000;
/// After an accept that failed, for want of file descriptors most likely.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Accepts connections until `drain`, closes the port and returns the connections that are left.
///
/// Connections are tasks of a work-stealing runtime, and a guest runs inside its connection's task: a core whose
/// guests compute for long is relieved by the others, which per-core runtimes with a listener each would not do.
pub(crate) async fn serve(
    host: Arc<Host>,
    function: Arc<Function>,
    listener: TcpListener,
    drain: CancellationToken,
) -> GracefulShutdown {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(BUFFER);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(HEAD_TIMEOUT))
        .max_concurrent_streams(1024);
    let connections = GracefulShutdown::new();
    let has_key = function.key.is_some();
    let mut places = if has_key {
        let most = unknown(&function.limits);
        Places::new(most, "connections that haven't shown the key")
    } else {
        Places::new(CONNECTIONS, "connections")
    };
    let claim = |is_used: &AtomicBool| match is_used.load(Ordering::Relaxed) {
        false => Claim::Weak,
        true if has_key => Claim::None,
        true => Claim::Strong,
    };
    let failed = Notices::default();
    let mut last = None;
    loop {
        let accepted = tokio::select! {
            biased;
            () = drain.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                last = Some(Instant::now());
                if let Some(place) = places.take(claim) {
                    connect(&builder, &connections, stream, place, &host, &function);
                }
            }
            Err(error) => {
                // Where there are no descriptors for long, each pause ends with another.
                if failed.take(Instant::now()) {
                    tracing::warn!(%error, "a connection could not be accepted");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Who connected before the drain began is answered, if the request is on its way.
    for (stream, _) in wisp_places::close(listener, BACKLOG.into()) {
        last = Some(Instant::now());
        if let Some(place) = places.take(claim) {
            connect(&builder, &connections, stream, place, &host, &function);
        }
    }
    wisp_places::hear_out(last).await;
    connections
}

/// Gateways that send more at once than may run and wait are told to come again, so they needn't all be heard.
fn unknown(limits: &Limits) -> usize {
    let wanted = limits.concurrency.get().saturating_add(limits.queue);
    wanted.clamp(*UNKNOWN.start(), *UNKNOWN.end())
}

/// Tells connections to end as they are.
#[derive(Debug, Default)]
pub(crate) struct Cut {
    is_told: AtomicBool,
    told: Notify,
}

impl Cut {
    /// Has all connections end now, whatever is on them.
    pub(crate) fn tell(&self) {
        self.is_told.store(true, Ordering::Relaxed);
        self.told.notify_waiters();
    }

    /// Runs `connection` to its end; `None` where it is told to end before. That wakes its task; any other time that the task is woken
    /// costs one look.
    async fn before<T>(&self, connection: impl Future<Output = T>) -> Option<T> {
        let mut connection = pin!(connection);
        let mut told = pin!(self.told.notified());
        let mut is_registered = false;
        poll_fn(|cx| {
            if !is_registered {
                is_registered = true;
                let _ = told.as_mut().poll(cx);
            }
            if self.is_told.load(Ordering::Relaxed) {
                return Poll::Ready(None);
            }
            connection.as_mut().poll(cx).map(Some)
        })
        .await
    }
}

fn connect(
    builder: &Builder<TokioExecutor>,
    connections: &GracefulShutdown,
    stream: TcpStream,
    place: Arc<Place<AtomicBool>>,
    host: &Arc<Host>,
    function: &Arc<Function>,
) {
    // Without it, small responses wait for the client's acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let mut builder = builder.clone();
    builder.http1().timer(ConnectionTimer::default());
    let (host, function) = (Arc::clone(host), Arc::clone(function));
    let its = Arc::clone(&host);
    let used = Arc::clone(&place);
    let stream = Burst::new(stream);
    let peer = stream.peer();
    let service = service_fn(move |mut request: Request<Incoming>| {
        // Only gateways know the key. Who doesn't has as much time as who asks nothing.
        let is_known = key::take_and_check(request.headers_mut(), function.key.as_ref());
        if is_known {
            used.state.store(true, Ordering::Relaxed);
        }
        let (host, function) = (Arc::clone(&host), Arc::clone(&function));
        answer(host, function, request, is_known, peer.clone())
    });
    let connection = connections.watch(builder.serve_connection(stream, service).into_owned());
    tokio::spawn(async move {
        let end = async {
            tokio::select! {
                () = tokio::time::sleep(HEAD_TIMEOUT) => {}
                () = place.lost() => {}
            }
        };
        let served = used_before(end, &place.state, connection);
        if let Some(Some(Err(error))) = its.cut.before(served).await {
            tracing::debug!(error, "a connection ended early");
        }
    });
}
