//! A request's body as its client sends it. Over HTTP/1.1 a connection ends where its body isn't read, with a reset if there is
//! more of it; that takes from a client which still sends what it was answered. So what nobody wants is read on for a while,
//! <https://www.rfc-editor.org/rfc/rfc9112#section-9.6>.

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::EXPECT;
use http::{Request, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::runtime::Handle;
use wisp_body::{BodyError, Whole};

use crate::frames;

/// The longest that a body is read on, and the most of it.
const LINGER: Duration = Duration::from_secs(5);
const MOST: u64 = 16 << 20;

/// Why a request's body has no end.
pub(crate) type ArrivingError = BodyError<hyper::Error>;

/// A request's body, which is read on where it is dropped before its end.
#[derive(Debug)]
pub(crate) struct Arriving {
    /// `None` once it is being read on.
    inner: Option<Whole<Incoming>>,
    lingers: bool,
    /// Whether the client was told to send it, if it waits for that.
    is_asked: bool,
    /// The frames of an HTTP/2 connection, of which these are some.
    frames: Option<frames::Body>,
}

impl Arriving {
    /// The body of a request that came over HTTP/1.1, or as one of the `frames` of an HTTP/2 connection.
    pub(crate) fn of(request: Request<Incoming>, frames: Option<&frames::Unread>) -> Request<Self> {
        let is_empty = request.body().is_end_stream();
        // The client sends it only once it is asked to.
        let expects = !is_empty && request.headers().contains_key(EXPECT);
        let version = request.version();
        request.map(|inner| Self {
            inner: Some(Whole::new(inner, version)),
            // HTTP/2 ends a stream alone.
            lingers: version != Version::HTTP_2,
            is_asked: !expects,
            frames: frames.filter(|_| !is_empty).map(frames::Unread::begin),
        })
    }

    /// Of what came meanwhile nothing is kept.
    fn discard(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        while self.inner.is_some()
            && let Poll::Ready(Some(_)) = Pin::new(&mut *self).poll_frame(&mut cx)
        {}
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = ArrivingError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ArrivingError>>> {
        let this = self.get_mut();
        this.is_asked = true;
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(inner).poll_frame(cx));
        if let (Some(Ok(frame)), Some(frames)) = (&frame, &this.frames) {
            frames.gave(frame.data_ref().map_or(0, Bytes::len));
        }
        if matches!(frame, None | Some(Err(_))) {
            this.inner = None;
            this.frames = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Whole::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Whole::size_hint)
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if self.frames.is_some() {
            self.discard();
        }
        if !self.lingers || !self.is_asked || self.is_end_stream() {
            return;
        }
        // The thread may be ending.
        if let (Some(rest), Ok(runtime)) = (self.inner.take(), Handle::try_current()) {
            runtime.spawn(tokio::time::timeout(LINGER, read_on(rest)));
        }
    }
}

async fn read_on(mut rest: Whole<Incoming>) {
    let mut left = MOST;
    while let Some(Ok(frame)) = rest.frame().await {
        let length = frame.data_ref().map_or(0, Bytes::len) as u64;
        let Some(less) = left.checked_sub(length) else {
            return;
        };
        left = less;
    }
}
