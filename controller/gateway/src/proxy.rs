//! One request to one replica, and its response back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{Method, Request, Response};
use hyper::body::Incoming;
use wisp_admit::Permit;

use crate::balance::Lease;
use crate::body::{RequestBody, UploadState};
use crate::forward;
use crate::pool::{self, ConnectError, Connection, Driven};
use crate::visit::Visit;

/// Why there is no response.
#[derive(Debug)]
pub(crate) enum SendError {
    /// Nothing of the request reached the replica: it may be sent elsewhere.
    Unsent(Box<Request<RequestBody>>),
    /// No head of a response before the deadline.
    TooSlow,
    /// The connection broke after the request was sent, at least in part.
    Broken(hyper::Error),
}

impl SendError {
    /// Whether the replica went away without an answer, as one that dies does.
    pub(crate) fn is_death(&self) -> bool {
        let Self::Broken(error) = self else {
            return false;
        };
        let io = std::error::Error::source(error)
            .and_then(|source| source.downcast_ref::<std::io::Error>());
        error.is_incomplete_message() || error.is_canceled() || error.is_closed() || io.is_some()
    }
}

/// The same request once more, where it may be sent twice: its method is safe and it has no body,
/// <https://www.rfc-editor.org/rfc/rfc9110#section-9.2.1>.
pub(crate) fn spare(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let is_safe = matches!(*request.method(), Method::GET | Method::HEAD);
    if !is_safe || !matches!(request.body(), RequestBody::Empty) {
        return None;
    }
    let mut copy = Request::new(RequestBody::Empty);
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    Some(copy)
}

/// The head of a response, and the connection that carries its body.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) connection: Connection,
}

/// Sends a request on a connection that was used before, or on a new one.
pub(crate) async fn send(
    lease: &Lease,
    mut request: Request<RequestBody>,
    now: Instant,
    deadline: tokio::time::Instant,
) -> Result<Answer, SendError> {
    let address = lease.address();
    match lease.key() {
        Some(key) => _ = request.headers_mut().insert(forward::KEY, key.clone()),
        None => _ = request.headers_mut().remove(forward::KEY),
    }
    loop {
        let (mut connection, reused) = match pool::take(address, now) {
            Some(connection) => (connection, true),
            // Rare, and large: it would make the future of every request as large.
            None => match Box::pin(pool::connect(address)).await {
                Ok(connection) => (connection, false),
                Err(error) => return Err(unsent(address, &error, request)),
            },
        };
        let mut answer = std::pin::pin!(connection.send(request, deadline));
        let answered = std::future::poll_fn(|cx| {
            connection.poll(cx, |driven, cx| {
                // First: a replica that sends without end leaves none of tokio's budget to it.
                if driven.poll_deadline(cx).is_ready() {
                    return Poll::Ready(None);
                }
                driven.drive(cx);
                answer.as_mut().poll(cx).map(Some)
            })
        });
        match answered.await {
            Some(Ok(response)) => {
                lease.reached();
                return Ok(Answer {
                    response,
                    connection,
                });
            }
            Some(Err(mut error)) => match error.take_message() {
                // The replica closed an idle connection in this moment.
                Some(back) if reused => request = back,
                Some(back) => {
                    return Err(unsent(
                        address,
                        &ConnectError::Handshake(error.into_error()),
                        back,
                    ));
                }
                None => return Err(SendError::Broken(error.into_error())),
            },
            None => return Err(SendError::TooSlow),
        }
    }
}

fn unsent(address: SocketAddr, error: &ConnectError, request: Request<RequestBody>) -> SendError {
    tracing::debug!(%address, %error, "a replica could not be reached");
    SendError::Unsent(Box::new(request))
}

/// What a response holds on to until its last byte.
pub(crate) struct Exchange {
    connection: Option<Connection>,
    address: SocketAddr,
    upload: Option<Arc<UploadState>>,
    is_finished: bool,
    visit: Visit,
    // In this order: whoever gets the place finds room in the replica.
    _lease: Lease,
    _permit: Permit,
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
            visit,
            _lease: lease,
            _permit: permit,
        }
    }

    /// Does `work`, which polls what the connection to the replica carries, and the connection while there is one.
    pub(crate) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        work: impl FnOnce(Option<&mut Driven>, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        match &mut self.connection {
            Some(connection) => connection.poll(cx, |driven, cx| work(Some(driven), cx)),
            None => work(None, cx),
        }
    }

    /// Leaves that to a task of its own.
    pub(crate) fn detach(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.detach();
        }
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
