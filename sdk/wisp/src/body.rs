//! Bodies of requests and responses: whole, streamed in, or streamed out.

/// Only a host is sent to.
#[cfg(any(test, target_family = "wasm"))]
pub(crate) mod announced;
mod writer;

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

pub use writer::Writer;

use crate::platform::body::Incoming;
use crate::{Bytes, Error, Result};

/// The most memory that is set aside for bytes which are only announced.
const ANNOUNCED: usize = 4 << 20;

/// A body. What comes from outside is read as it arrives, and what goes out is read only as fast as its receiver takes
/// it, so a body of any size passes through a small memory.
///
/// ```
/// use futures::stream;
/// use wisp::Body;
///
/// let mut body = Body::stream(stream::iter(["one ", "two"]));
/// assert_eq!(wisp::test::block_on(body.chunk()).unwrap().unwrap(), "one ");
/// assert_eq!(wisp::test::block_on(body.bytes()).unwrap(), "two");
/// ```
///
/// It is a [`Stream`] itself, so what was received can be sent on:
///
/// ```
/// # use wisp::{Request, Response};
/// async fn echo(request: Request) -> Response {
///     Response::new(request.into_body())
/// }
/// # let res = wisp::test::block_on(echo(wisp::test::request("POST", "/").body("x")));
/// # assert_eq!(wisp::test::block_on(res.into_body().bytes()).unwrap(), "x");
/// ```
#[derive(Default)]
pub struct Body(Inner);

#[derive(Default)]
enum Inner {
    #[default]
    Empty,
    Full(Bytes),
    // Boxed, so that moving a body about is cheap.
    #[cfg_attr(
        not(target_family = "wasm"),
        expect(dead_code, reason = "only a host hands bodies over")
    )]
    Incoming(Box<Incoming>),
    Stream(Pin<Box<dyn Stream<Item = Result<Bytes>>>>),
    /// Not all of it can be had any more.
    Broken(ReadError),
}

impl Body {
    /// No bytes at all.
    ///
    /// ```
    /// assert_eq!(wisp::Body::empty().size(), Some(0));
    /// ```
    #[must_use]
    pub fn empty() -> Self {
        Self(Inner::Empty)
    }

    /// A body whose parts come one by one: bytes, texts, or `Result`s of them. Each is sent when it is there. After an
    /// error the receiver sees that the body is cut short, or a problem where nothing was sent yet, and the log says why.
    ///
    /// ```
    /// let parts = futures::stream::iter([Ok("one"), Err(std::io::Error::other("disk"))]);
    /// let mut body = wisp::Body::stream(parts);
    /// assert_eq!(wisp::test::block_on(body.bytes()).unwrap_err().source().unwrap().to_string(), "disk");
    /// ```
    pub fn stream<S>(stream: S) -> Self
    where
        S: Stream<Item: Chunk> + 'static,
    {
        Self(Inner::Stream(Box::pin(Chunks(Box::pin(stream)))))
    }

    /// A body that is written by `write`, which goes on only as fast as the receiver takes what it wrote. It ends when
    /// `write` is done; after an error the receiver sees that it is cut short, or a problem. When the receiver goes away, `write` is dropped
    /// wherever it waits. A task that it gave the writer to isn't: see [`Writer`].
    ///
    /// ```
    /// let mut body = wisp::Body::writer(async |mut out| {
    ///     for line in 1..=3 {
    ///         out.write(format!("{line}\n")).await;
    ///     }
    ///     Ok(())
    /// });
    /// assert_eq!(wisp::test::block_on(body.bytes()).unwrap(), "1\n2\n3\n");
    /// ```
    pub fn writer<F>(write: F) -> Self
    where
        F: AsyncFnOnce(Writer) -> Result<()> + 'static,
    {
        Self(Inner::Stream(Box::pin(writer::Written::new(write))))
    }

    #[cfg(target_family = "wasm")]
    pub(crate) fn incoming(incoming: Incoming) -> Self {
        Self(Inner::Incoming(Box::new(incoming)))
    }

    /// The number of bytes that are left, where it is known ahead.
    ///
    /// ```
    /// assert_eq!(wisp::Body::from("hello").size(), Some(5));
    /// ```
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        match &self.0 {
            Inner::Empty => Some(0),
            Inner::Full(bytes) => u64::try_from(bytes.len()).ok(),
            Inner::Incoming(_) | Inner::Stream(_) | Inner::Broken(_) => None,
        }
    }

    /// The next bytes, as they come; `None` at the end.
    ///
    /// ```
    /// # use wisp::{Request, Result};
    /// async fn count(mut request: Request) -> Result<String> {
    ///     let mut bytes = 0;
    ///     while let Some(chunk) = request.body_mut().chunk().await? {
    ///         bytes += chunk.len();
    ///     }
    ///     Ok(bytes.to_string())
    /// }
    /// # let request = wisp::test::request("POST", "/").body("abc");
    /// # assert_eq!(wisp::test::block_on(count(request)).unwrap(), "3");
    /// ```
    ///
    /// # Errors
    /// When it broke off, and each time from then on: what came before is no whole body.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context))
            .await
            .transpose()
    }

    /// Takes everything that is left. [`RequestExt`](crate::RequestExt) and [`ResponseExt`](crate::ResponseExt) leave it where
    /// it is.
    ///
    /// ```
    /// let mut body = wisp::Body::from("hello");
    /// assert_eq!(wisp::test::block_on(body.bytes()).unwrap(), "hello");
    /// ```
    ///
    /// # Errors
    /// When it broke off, now or before, or when an earlier reading of it was given up, as by
    /// [`timeout`](crate::time::timeout).
    pub async fn bytes(&mut self) -> Result<Bytes> {
        if let Some(bytes) = self.take_full() {
            return Ok(bytes);
        }
        let Some(first) = self.chunk().await? else {
            return Ok(Bytes::new());
        };
        // Who drops this future drops what was read, and the rest must not pass for the whole.
        let given_up = Inner::Broken(ReadError(Cause::GivenUp));
        let mut rest = Self(std::mem::replace(&mut self.0, given_up));
        let all = rest.after(first).await;
        *self = rest;
        all
    }

    /// `first` and everything that is left.
    async fn after(&mut self, first: Bytes) -> Result<Bytes> {
        // Most bodies are one chunk, which needn't be copied.
        let Some(second) = self.chunk().await? else {
            return Ok(first);
        };
        // The rest is read into one piece of memory where its length was announced, rather than into ever larger ones.
        let known = first.len().saturating_add(second.len());
        let announced = usize::try_from(self.left()).unwrap_or(usize::MAX);
        let mut all = Vec::new();
        // Where there is no room for all of it, there may be for what really comes.
        let _ = all.try_reserve_exact(known.saturating_add(announced.min(ANNOUNCED)));
        all.extend_from_slice(&first);
        drop(first);
        all.extend_from_slice(&second);
        drop(second);
        while let Some(chunk) = self.chunk().await? {
            all.extend_from_slice(&chunk);
        }
        Ok(all.into())
    }

    /// What `read` makes of everything that is left, which stays the body's.
    pub(crate) async fn read<T>(&mut self, read: impl FnOnce(&Bytes) -> T) -> Result<T> {
        let bytes = self.bytes().await?;
        let made = read(&bytes);
        self.0 = Inner::Full(bytes);
        Ok(made)
    }

    /// Whether it is made of parts by the function itself.
    pub(crate) fn is_streamed(&self) -> bool {
        matches!(self.0, Inner::Stream(_))
    }

    /// How many bytes the sender says are left; 0 where it doesn't.
    fn left(&self) -> u64 {
        match &self.0 {
            Inner::Incoming(incoming) => incoming.left(),
            _ => 0,
        }
    }

    /// Everything that is left, where it is in memory.
    pub(crate) fn take_full(&mut self) -> Option<Bytes> {
        match std::mem::take(&mut self.0) {
            Inner::Empty => Some(Bytes::new()),
            Inner::Full(bytes) => Some(bytes),
            other => {
                self.0 = other;
                None
            }
        }
    }
}

impl Stream for Body {
    type Item = Result<Bytes>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes>>> {
        let next = match &mut self.0 {
            Inner::Empty => return Poll::Ready(None),
            Inner::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                Poll::Ready((!bytes.is_empty()).then_some(Ok(bytes)))
            }
            Inner::Incoming(incoming) => incoming
                .poll_chunk(context)
                .map(|next| next.map(|read| read.map_err(Error::from))),
            Inner::Stream(stream) => stream.as_mut().poll_next(context),
            Inner::Broken(cause) => return Poll::Ready(Some(Err(cause.clone().into()))),
        };
        match &next {
            Poll::Ready(None) => self.0 = Inner::Empty,
            Poll::Ready(Some(Err(error))) => self.0 = Inner::Broken(ReadError::again(error)),
            _ => {}
        }
        next
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.size() {
            Some(size) => write!(f, "Body({size} bytes)"),
            None => f.write_str("Body(stream)"),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(Inner::Full(bytes))
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Inner::Full(bytes.into()))
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self(Inner::Full(text.into()))
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Self(Inner::Full(text.into()))
    }
}

impl From<&'static [u8]> for Body {
    fn from(bytes: &'static [u8]) -> Self {
        Self(Inner::Full(bytes.into()))
    }
}

impl<const N: usize> From<&'static [u8; N]> for Body {
    fn from(bytes: &'static [u8; N]) -> Self {
        Self(Inner::Full(Bytes::from_static(bytes)))
    }
}

impl From<()> for Body {
    fn from((): ()) -> Self {
        Self::empty()
    }
}

/// A part of a streamed body: bytes, a text, or a `Result` of them.
///
/// ```
/// use wisp::body::Chunk;
/// assert_eq!("part".into_chunk().unwrap(), "part");
/// ```
pub trait Chunk {
    /// The bytes.
    ///
    /// ```
    /// use wisp::body::Chunk;
    /// assert_eq!(vec![1, 2].into_chunk().unwrap(), [1, 2].as_slice());
    /// ```
    ///
    /// # Errors
    /// The part's own.
    fn into_chunk(self) -> Result<Bytes>;
}

impl Chunk for Bytes {
    fn into_chunk(self) -> Result<Bytes> {
        Ok(self)
    }
}

impl Chunk for Vec<u8> {
    fn into_chunk(self) -> Result<Bytes> {
        Ok(self.into())
    }
}

impl Chunk for String {
    fn into_chunk(self) -> Result<Bytes> {
        Ok(self.into())
    }
}

impl Chunk for &'static str {
    fn into_chunk(self) -> Result<Bytes> {
        Ok(self.into())
    }
}

impl<T: Chunk, E: Into<Error>> Chunk for Result<T, E> {
    fn into_chunk(self) -> Result<Bytes> {
        self.map_err(Into::into)?.into_chunk()
    }
}

struct Chunks<S>(Pin<Box<S>>);

impl<S: Stream<Item: Chunk>> Stream for Chunks<S> {
    type Item = Result<Bytes>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes>>> {
        self.0
            .as_mut()
            .poll_next(context)
            .map(|next| next.map(Chunk::into_chunk))
    }
}

/// A body that broke off, in the host's words where it is from outside, or of which a part was read and is gone.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct ReadError(Cause);

#[derive(Debug, Clone, thiserror::Error)]
enum Cause {
    /// Its sender, or the way from there, in the host's words.
    #[error("{0}")]
    Sender(String),
    #[error("timed out")]
    TimedOut,
    #[error("its reading was given up")]
    GivenUp,
    /// The cause was told then. The function's own aren't for its client.
    #[error("it broke off when it was read before")]
    Before,
}

impl ReadError {
    pub(crate) fn new(text: String) -> Self {
        Self(Cause::Sender(text))
    }

    /// The sender took too long.
    pub(crate) fn timed_out() -> Self {
        Self(Cause::TimedOut)
    }

    /// What broke off the body that `error` is of, where that was its sender's doing.
    pub(crate) fn of_sender(error: &Error) -> Option<&Self> {
        Self::of(error).filter(|cause| matches!(cause.0, Cause::Sender(_) | Cause::TimedOut))
    }

    /// Whether the sender took too long.
    pub(crate) fn is_timeout(&self) -> bool {
        matches!(self.0, Cause::TimedOut)
    }

    fn of(error: &Error) -> Option<&Self> {
        error.source()?.downcast_ref()
    }

    /// What there is to say of a body that `error` broke off before.
    fn again(error: &Error) -> Self {
        Self::of(error).cloned().unwrap_or(Self(Cause::Before))
    }
}

#[cfg(test)]
mod tests;
