//! Bodies that come from the host, and bodies that go to it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use wasip2::http::types::{
    self as wasi, ErrorCode, IncomingRequest, IncomingResponse, OutgoingBody,
};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

use super::reactor::Ready;
use crate::body::announced::{Announced, WrongLength};
use crate::body::{Body, ReadError};

/// The most bytes asked for in one read.
const CHUNK: u64 = 64 * 1024;

/// A body that the host hands over as it arrives. Fields are dropped in their order: children first.
pub(crate) struct Incoming {
    waiting: Option<Ready>,
    stream: Option<InputStream>,
    body: Option<wasi::IncomingBody>,
    source: Source,
    left: u64,
}

enum Source {
    Request(IncomingRequest),
    Response(IncomingResponse),
    /// The stream is open, or was.
    Opened,
}

impl Incoming {
    /// `length` is what the headers say, where they do.
    pub(crate) fn of_request(request: IncomingRequest, length: u64) -> Self {
        Self {
            waiting: None,
            stream: None,
            body: None,
            source: Source::Request(request),
            left: length,
        }
    }

    /// Likewise.
    pub(crate) fn of_response(response: IncomingResponse, length: u64) -> Self {
        Self {
            waiting: None,
            stream: None,
            body: None,
            source: Source::Response(response),
            left: length,
        }
    }

    /// How many bytes are left, by the headers; 0 where they don't say.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// The next bytes, `None` at the end.
    pub(crate) fn poll_chunk(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, ReadError>>> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                ready!(Pin::new(waiting).poll(context));
                self.waiting = None;
            }
            let stream = match self.open() {
                Some(stream) => stream,
                None => return Poll::Ready(None),
            };
            match stream.read(CHUNK) {
                Ok(bytes) if bytes.is_empty() => {
                    self.waiting = Some(Ready::new(stream.subscribe()))
                }
                Ok(bytes) => {
                    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                    let was_announced = self.left > 0;
                    self.left = self.left.saturating_sub(length);
                    if was_announced && self.left == 0 {
                        // Nothing follows (RFC 9110, section 8.6), so the host needn't be asked.
                        self.close();
                    }
                    return Poll::Ready(Some(Ok(Bytes::from(bytes))));
                }
                Err(StreamError::Closed) => {
                    self.close();
                    return Poll::Ready(None);
                }
                Err(StreamError::LastOperationFailed(error)) => {
                    let cause = cause(&error);
                    drop(error);
                    self.close();
                    return Poll::Ready(Some(Err(cause)));
                }
            }
        }
    }

    /// The stream, opened at the first call: a handler that never reads its body pays nothing for it.
    fn open(&mut self) -> Option<&InputStream> {
        let body = match std::mem::replace(&mut self.source, Source::Opened) {
            Source::Request(request) => request.consume().ok(),
            Source::Response(response) => response.consume().ok(),
            Source::Opened => None,
        };
        if let Some(body) = body {
            self.stream = body.stream().ok();
            self.body = Some(body);
        }
        self.stream.as_ref()
    }

    fn close(&mut self) {
        self.waiting = None;
        self.stream = None;
        self.body = None;
    }
}

/// Why the host's stream failed.
fn cause(error: &wasi::IoError) -> ReadError {
    /// What wasmtime 48 says of the time, whose stream tells no code.
    const TIMED_OUT: &str = "connection read timeout";
    let text = error.to_debug_string();
    match wasi::http_error_code(error) {
        Some(ErrorCode::ConnectionReadTimeout | ErrorCode::HttpResponseTimeout) => {
            ReadError::timed_out()
        }
        None if text.starts_with(TIMED_OUT) => ReadError::timed_out(),
        _ => ReadError::new(text),
    }
}

/// Why a body didn't get to its receiver as a whole.
pub(crate) enum WriteError {
    /// The receiver is gone.
    Closed,
    /// The body itself failed.
    Body(crate::Error),
    /// It isn't as long as its message says.
    Length(WrongLength),
    /// The host refuses it, in its words.
    Refused(String),
}

impl WriteError {
    /// What is to be said of `message`, where that isn't to be expected.
    pub(crate) fn told(&self, message: &str) -> Option<String> {
        match self {
            Self::Closed => None,
            Self::Body(error) => Some(format!(
                "{message} is cut short: its body failed: {}",
                error.chain()
            )),
            Self::Length(wrong) => Some(format!("{message} is cut short: its {wrong}")),
            Self::Refused(text) => Some(format!("{message} is cut short by the host: {text}")),
        }
    }
}

impl From<StreamError> for WriteError {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Closed => Self::Closed,
            StreamError::LastOperationFailed(error) => Self::Refused(error.to_debug_string()),
        }
    }
}

/// Sends `body` as fast as the receiver takes it, and ends it. When it fails, the receiver sees that it is cut short.
/// `length` is what the headers say, where they do.
pub(crate) async fn send(
    mut body: Body,
    outgoing: OutgoingBody,
    length: Option<u64>,
) -> Result<(), WriteError> {
    let mut announced = Announced::new(length);
    let stream = outgoing.write().map_err(|()| WriteError::Closed)?;
    match body.take_full() {
        Some(bytes) => {
            announced.more(bytes.len()).map_err(WriteError::Length)?;
            write_all(&stream, &bytes).await?;
        }
        None => {
            while let Some(chunk) = body.chunk().await.map_err(WriteError::Body)? {
                announced.more(chunk.len()).map_err(WriteError::Length)?;
                write_all(&stream, &chunk).await?;
                // What was written now is to be seen now, and not when more of it comes.
                stream.flush()?;
            }
        }
    }
    drop(stream);
    announced.end().map_err(WriteError::Length)?;
    // A receiver that is gone by now took what it wanted.
    OutgoingBody::finish(outgoing, None).map_err(|_| WriteError::Closed)
}

async fn write_all(stream: &OutputStream, mut bytes: &[u8]) -> Result<(), WriteError> {
    while !bytes.is_empty() {
        let room = stream.check_write()?;
        if room == 0 {
            Ready::new(stream.subscribe()).await;
            continue;
        }
        let (now, later) =
            bytes.split_at(bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
        stream.write(now)?;
        bytes = later;
    }
    Ok(())
}
