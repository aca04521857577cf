//! One request to one replica, and its response back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, response};
use http_body::{Frame, SizeHint};
use wisp_admit::Permit;
use wisp_contract::log::chain;
use wisp_notices::Notices;

use crate::balance::Lease;
use crate::body::{self, RequestBody, UploadState};
use crate::idle::Usage;
use crate::pool;
use crate::unread::Unread;
use crate::upstream::{Connection, Switched, UpstreamError};
use crate::visit::Visit;

/// How often the log tells that this gateway lacks something.
static NOTICES: Notices = Notices::new();

/// The most of a response that an HTTP/2 connection is given at once.
pub(crate) const PIECE: usize = 16 << 10;

/// Why there is no response.
#[derive(Debug)]
pub(crate) enum SendError {
    /// Nothing of the request reached the replica: it may be sent elsewhere.
    Unsent,
    /// The same, for want of what this process or its machine has of ports, descriptors or memory: no fault of the replica's.
    Unconnected,
    /// No head of a response before the deadline.
    TooSlow,
    /// The exchange broke after the request was sent, at least in part.
    Broken(UpstreamError),
}

impl SendError {
    /// Whether the replica went away without an answer, as one that dies does.
    pub(crate) fn is_death(&self) -> bool {
        matches!(
            self,
            Self::Broken(UpstreamError::Closed | UpstreamError::Broke(_))
        )
    }
}

/// Whether a request may be sent twice: its method is safe and it has no body,
/// <https://www.rfc-editor.org/rfc/rfc9110#section-9.2.1>.
pub(crate) fn is_repeatable(parts: &Parts, body: &RequestBody) -> bool {
    matches!(parts.method, Method::GET | Method::HEAD) && matches!(body, RequestBody::Empty)
}

/// The head of a response, and the connection that carries its body.
pub(crate) struct Answer {
    pub(crate) head: response::Parts,
    pub(crate) connection: Connection,
}

/// Sends a request on a connection that was used before, or on a new one.
pub(crate) async fn send(
    lease: &Lease,
    parts: &Parts,
    body: &mut RequestBody,
    now: Instant,
    deadline: tokio::time::Instant,
) -> Result<Answer, SendError> {
    let address = lease.address();
    loop {
        let (mut connection, is_reused) = match pool::take(address, now) {
            Some(connection) => (connection, true),
            // Rare, and large: it would make the future of every request as large.
            None => match Box::pin(Connection::open(address)).await {
                Ok(connection) => (connection, false),
                Err(error) if error.is_own() => {
                    if NOTICES.take(now) {
                        tracing::warn!(%address, error = %chain(&error), "no connection to a replica could be made");
                    }
                    return Err(SendError::Unconnected);
                }
                Err(error) => {
                    tracing::debug!(%address, %error, "a replica could not be reached");
                    return Err(SendError::Unsent);
                }
            },
        };
        match connection.ask(parts, body, lease.key(), deadline).await {
            Ok(head) => {
                lease.reached();
                return Ok(Answer { head, connection });
            }
            // The replica closed an idle connection in this moment.
            Err(UpstreamError::Unsent(_)) if is_reused => {}
            Err(UpstreamError::Unsent(error)) => {
                tracing::debug!(%address, %error, "a replica could not be reached");
                return Err(SendError::Unsent);
            }
            Err(UpstreamError::TooSlow) => return Err(SendError::TooSlow),
            Err(error) => return Err(SendError::Broken(error)),
        }
    }
}

/// What a response holds on to until its last byte.
pub(crate) struct Exchange {
    connection: Option<Connection>,
    address: SocketAddr,
    upload: Option<Arc<UploadState>>,
    is_finished: bool,
    /// What came of the body and is still to be sent, and how much of it at once.
    rest: Bytes,
    at_once: usize,
    visit: Visit,
    // In this order: whoever gets the place finds room in the replica.
    _lease: Lease,
    unread: Arc<Unread>,
}

impl Exchange {
    pub(crate) fn new(
        connection: Connection,
        upload: Option<Arc<UploadState>>,
        visit: Visit,
        lease: Lease,
        permit: Permit,
    ) -> Self {
        let address = lease.address();
        Self {
            connection: Some(connection),
            address,
            upload,
            is_finished: false,
            rest: Bytes::new(),
            at_once: usize::MAX,
            visit,
            _lease: lease,
            unread: Unread::new(Some(permit)),
        }
    }

    /// The task that is polled now begins to send it, and minds its deadline from then on.
    pub(crate) fn begin(&mut self) {
        if let Some(until) = self.until().filter(|_| !self.is_over()) {
            self.unread.begin(until);
        }
    }

    /// What is held until the client has taken all of it.
    pub(crate) fn unread(&mut self) -> &mut Arc<Unread> {
        &mut self.unread
    }

    /// It is sent over HTTP/2, on a connection with this usage. Nothing of it was yet.
    ///
    /// h2 asks for a piece once its client takes a byte, and keeps the rest of it without a deadline: so that isn't much.
    pub(crate) fn over_http2(&mut self, usage: &Usage) {
        self.at_once = PIECE;
        self.unread.over_http2(usage);
    }

    /// The next piece of the response's body.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        if self.rest.is_empty() {
            let Some(connection) = &mut self.connection else {
                return Poll::Ready(None);
            };
            let frame = match ready!(connection.poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other),
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        let length = self.rest.len().min(self.at_once);
        let piece = self.rest.split_to(length);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    /// Whether the response has no more of a body.
    pub(crate) fn is_over(&self) -> bool {
        self.rest.is_empty() && self.connection.as_ref().is_none_or(Connection::is_over)
    }

    /// How much of the body there is left.
    pub(crate) fn size_hint(&self) -> SizeHint {
        let to_come = self
            .connection
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Connection::size_hint);
        body::with_more(&to_come, self.rest.len())
    }

    /// What the connection has become.
    pub(crate) fn switch(&mut self) -> Option<Switched> {
        self.connection.take()?.switch()
    }

    /// The response's last byte was read.
    pub(crate) fn finished(&mut self) {
        self.is_finished = true;
        if let Some(connection) = self.connection.take() {
            let now = Instant::now();
            pool::put(self.address, connection, now);
            self.visit.over(now);
        }
    }

    /// The connection that the exchange became was closed.
    pub(crate) fn closed(&mut self) {
        self.is_finished = true;
        self.connection = None;
    }

    /// The response ended before its last byte.
    pub(crate) fn broke(&mut self) {
        self.connection = None;
        self.is_finished = true;
        let reason = if self
            .upload
            .as_ref()
            .is_some_and(|upload| upload.too_large())
        {
            "body-too-large"
        } else {
            "broke-off"
        };
        self.visit.failed(reason);
    }

    /// Until when the response must have ended, if it hasn't.
    pub(crate) fn until(&self) -> Option<tokio::time::Instant> {
        self.connection.as_ref().map(Connection::until)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.is_finished {
            let is_overdue = self
                .until()
                .is_some_and(|until| until <= tokio::time::Instant::now());
            self.visit.failed(if is_overdue {
                "broke-off"
            } else {
                "client-left"
            });
        }
    }
}
