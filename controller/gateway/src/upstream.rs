//! One connection to a replica, of one exchange at a time. Whoever waits for the response reads and writes: a task between
//! them would be woken at every step, and wake the other.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, response};
use http_body::{Body as _, Frame, SizeHint};
use rustix::io::Errno;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::Instant;
use tokio_util::io::poll_read_buf;
use wisp_deadline::Deadline;

use self::upload::Upload;
use crate::body::{BodyError, RequestBody};
use crate::wire::{self, Decoder, Framing, WireError};

mod upload;

/// The longest that connecting to a replica may take; it is near.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a replica may be silent before it is asked whether it is still there, how often then, and how often in vain: one
/// whose node lost its power says nothing any more. What it is sent may wait for as long as it likes, if it works on what came
/// before, so unacknowledged bytes alone are no sign.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(5), Duration::from_secs(2), 3);
/// The fewest and the most bytes that are read at once: as many as came the last time, where that was all there was room for.
const ROOM: (usize, usize) = (8 << 10, 128 << 10);
/// The fewest that a read is worth.
const LEAST: usize = 1 << 10;

/// Why there is no response, or no more of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// Nothing of the request reached the replica.
    #[error("nothing could be sent")]
    Unsent(#[source] io::Error),
    #[error("no response in time")]
    TooSlow,
    #[error("the connection was closed in the middle of an exchange")]
    Closed,
    #[error("the connection broke")]
    Broke(#[source] io::Error),
    #[error("the response is no HTTP/1.1")]
    Wire(#[from] WireError),
    #[error("the request's body ended before its time")]
    Body(#[source] BodyError),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("no connection within {CONNECT_TIMEOUT:?}")]
    TooSlow,
    #[error("no connection")]
    Connect(#[from] io::Error),
}

impl ConnectError {
    /// Whether this process or its machine lacks something.
    pub(crate) fn is_own(&self) -> bool {
        let Self::Connect(error) = self else {
            return false;
        };
        matches!(
            Errno::from_io_error(error),
            Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::ADDRNOTAVAIL)
        )
    }
}

/// A connection to a replica.
pub(crate) struct Connection {
    read: OwnedReadHalf,
    /// `None` while an upload has it, and after one that failed.
    write: Option<OwnedWriteHalf>,
    upload: Option<Upload>,
    /// What was read and not taken yet, and how much is to be read at once.
    input: BytesMut,
    room: usize,
    /// How much of `input` holds no end of a head.
    seen: usize,
    /// What is to be written first, and how much of it was.
    output: Vec<u8>,
    written: usize,
    /// Whether the replica was told of a body that it hasn't got yet.
    owes_body: bool,
    asked: Method,
    body: Decoder,
    is_kept: bool,
    /// Until when the response must have ended.
    deadline: Deadline,
}

/// Both directions of a connection that speaks another protocol now.
pub(crate) struct Switched {
    pub(crate) read: tokio::io::Chain<io::Cursor<Bytes>, OwnedReadHalf>,
    pub(crate) write: OwnedWriteHalf,
}

impl Connection {
    /// Opens a connection.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, ConnectError> {
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
        let (read, write) = stream.into_split();
        Ok(Self {
            read,
            write: Some(write),
            upload: None,
            input: BytesMut::new(),
            room: ROOM.0,
            seen: 0,
            output: Vec::new(),
            written: 0,
            owes_body: false,
            asked: Method::GET,
            body: Decoder::Done,
            is_kept: true,
            // There is no request yet.
            deadline: Deadline::new(Instant::now() + CONNECT_TIMEOUT),
        })
    }

    /// Asks the replica, and returns the head of its response, which should end before the deadline. The body is taken once
    /// the head was written.
    pub(crate) async fn ask(
        &mut self,
        parts: &Parts,
        body: &mut RequestBody,
        key: Option<&HeaderValue>,
        deadline: Instant,
    ) -> Result<response::Parts, UpstreamError> {
        self.begin(parts, body, key, deadline);
        std::future::poll_fn(|cx| {
            // First: a replica that sends without end leaves none of tokio's budget to it.
            if self.deadline.poll(cx).is_ready() {
                return Poll::Ready(Err(UpstreamError::TooSlow));
            }
            match self.poll_write(cx) {
                Poll::Ready(Ok(())) => self.upload(body),
                Poll::Ready(Err(error)) if self.written == 0 => {
                    return Poll::Ready(Err(UpstreamError::Unsent(error)));
                }
                // It may have answered what it read.
                Poll::Ready(Err(_)) => self.write = None,
                Poll::Pending => {}
            }
            self.poll_head(cx)
        })
        .await
    }

    fn begin(
        &mut self,
        parts: &Parts,
        body: &RequestBody,
        key: Option<&HeaderValue>,
        deadline: Instant,
    ) {
        self.deadline.set(deadline);
        self.asked.clone_from(&parts.method);
        self.output.clear();
        self.written = 0;
        self.owes_body = matches!(body, RequestBody::Limited { .. });
        let framing = match body {
            RequestBody::Empty => Framing::None,
            RequestBody::Whole(whole) => Framing::Length(whole.len() as u64),
            RequestBody::Limited { .. } => body
                .size_hint()
                .exact()
                .map_or(Framing::Chunked, Framing::Length),
        };
        wire::write_head(&mut self.output, parts, framing, key);
        if let RequestBody::Whole(whole) = body {
            self.output.extend_from_slice(whole);
        }
    }

    fn upload(&mut self, body: &mut RequestBody) {
        if let RequestBody::Limited { .. } = body
            && let Some(write) = self.write.take()
        {
            let body = std::mem::replace(body, RequestBody::Empty);
            self.upload = Some(Upload::begin(write, body, self.deadline.at()));
        }
    }

    /// Whether the replica has all of the request.
    fn is_sent(&self) -> bool {
        self.write.is_some() && self.written == self.output.len() && !self.owes_body
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(write) = &mut self.write else {
            return Poll::Ready(Ok(()));
        };
        while let Some(rest) = self.output.get(self.written..)
            && !rest.is_empty()
        {
            match ready!(Pin::new(&mut *write).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                length => self.written = self.written.saturating_add(length),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Notices the end of an upload; an error where its body was none.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), UpstreamError> {
        if let Some(upload) = &mut self.upload
            && let Poll::Ready(ended) = upload.poll(cx)
        {
            self.upload = None;
            self.write = ended.map_err(UpstreamError::Body)?;
            self.owes_body = self.write.is_none();
        }
        Ok(())
    }

    /// Reads more; false where the connection has ended.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, UpstreamError>> {
        // Small pieces, each of which keeps all of its block, share one.
        if self.input.capacity().saturating_sub(self.input.len()) < LEAST {
            self.input.reserve(self.room);
        }
        let room = self.input.capacity().saturating_sub(self.input.len());
        let read = poll_read_buf(Pin::new(&mut self.read), cx, &mut self.input);
        let length = ready!(read).map_err(UpstreamError::Broke)?;
        if length == room {
            self.room = self.room.saturating_mul(2).min(ROOM.1);
        } else if length < self.room / 4 {
            self.room = (self.room / 2).max(ROOM.0);
        }
        Poll::Ready(Ok(length > 0))
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<response::Parts, UpstreamError>> {
        self.poll_upload(cx)?;
        loop {
            if let Some(head) = wire::read_head(&mut self.input, &mut self.seen, &self.asked)? {
                // Others announce the one that is meant.
                let status = head.parts.status;
                if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
                    continue;
                }
                (self.body, self.is_kept) = (head.body, head.is_kept);
                return Poll::Ready(Ok(head.parts));
            }
            if !ready!(self.poll_fill(cx))? {
                return Poll::Ready(Err(UpstreamError::Closed));
            }
        }
    }

    /// The next piece of the response's body.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        if let Err(error) = self.poll_upload(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        if let Poll::Ready(Err(_)) = self.poll_write(cx) {
            self.write = None;
        }
        loop {
            if let Some(frame) = self
                .body
                .decode(&mut self.input)
                .map_err(UpstreamError::Wire)?
            {
                return Poll::Ready(Some(Ok(frame)));
            }
            if self.is_over() {
                return Poll::Ready(None);
            }
            if self.deadline.poll(cx).is_ready() {
                return Poll::Ready(Some(Err(UpstreamError::TooSlow)));
            }
            if !ready!(self.poll_fill(cx))? && !self.body.ends() {
                return Poll::Ready(Some(Err(UpstreamError::Closed)));
            }
        }
    }

    /// Whether the response has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.body == Decoder::Done
    }

    /// How much of the response's body is left.
    pub(crate) fn size_hint(&self) -> SizeHint {
        match self.body {
            Decoder::Done => SizeHint::with_exact(0),
            Decoder::Length(left) => SizeHint::with_exact(left),
            Decoder::Chunked(_) | Decoder::UntilClosed => SizeHint::default(),
        }
    }

    /// Until when the response must have ended.
    pub(crate) fn until(&self) -> Instant {
        self.deadline.at()
    }

    /// What the connection has become, after a 101; `None` where the request isn't all sent.
    pub(crate) fn switch(mut self) -> Option<Switched> {
        let _ = self.poll_upload(&mut Context::from_waker(Waker::noop()));
        if !self.is_sent() {
            return None;
        }
        let write = self.write.take()?;
        let read = io::Cursor::new(self.input.freeze()).chain(self.read);
        Some(Switched { read, write })
    }

    /// Leaves an exchange that is over. `None` where there is none to follow: an upload that nobody waits for any more goes
    /// on all the same, so that its client gets to read the response.
    pub(crate) fn leave(mut self) -> Option<Self> {
        let _ = self.poll_upload(&mut Context::from_waker(Waker::noop()));
        if let Some(upload) = self.upload.take() {
            upload.go_on();
            return None;
        }
        // Of what comes unasked, nobody can say what it answers.
        if !self.is_kept || !self.is_over() || !self.is_sent() || !self.input.is_empty() {
            return None;
        }
        if self.input.capacity() > ROOM.0 {
            self.input = BytesMut::new();
        }
        self.room = ROOM.0;
        if self.output.capacity() > ROOM.0 {
            self.output = Vec::new();
        }
        Some(self)
    }

    /// Whether nothing came while it was idle, nor its end.
    pub(crate) fn is_idle(&self) -> bool {
        // This asks the kernel only where something has come.
        let came = self.read.try_read(&mut [0]);
        came.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}
