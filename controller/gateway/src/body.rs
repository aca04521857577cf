//! Bodies on their way through.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use tokio::time::Instant;

use crate::arriving::{Arriving, ArrivingError};
use crate::idle::Usage;
use crate::proxy::Exchange;
use crate::unread::{Piece, Unread};
use crate::upstream::UpstreamError;

/// Why a body ends before its time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body is larger than allowed")]
    TooLarge,
    #[error("the client's body broke off")]
    BrokeOff(#[source] ArrivingError),
    #[error("the replica's body broke off")]
    Upstream(#[source] Box<UpstreamError>),
}

/// The longest body that is sent as one piece where it came as one.
const WHOLE: u64 = 16 << 10;

/// A request's body on its way to a replica.
#[derive(Debug)]
pub(crate) enum RequestBody {
    Empty,
    /// All of it is here.
    Whole(Bytes),
    Limited {
        /// What was read of `inner` already.
        first: Option<Result<Frame<Bytes>, ArrivingError>>,
        inner: Arriving,
        left: u64,
        state: Arc<UploadState>,
    },
}

/// What became of a request's body.
#[derive(Debug, Default)]
pub(crate) struct UploadState {
    too_large: AtomicBool,
    broke_off: AtomicBool,
    awaited: AtomicBool,
}

impl UploadState {
    pub(crate) fn too_large(&self) -> bool {
        self.too_large.load(Ordering::Relaxed)
    }

    pub(crate) fn broke_off(&self) -> bool {
        self.broke_off.load(Ordering::Relaxed)
    }

    /// Whether the replica takes more of it than the client has sent.
    pub(crate) fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::Relaxed)
    }
}

impl RequestBody {
    /// At most `allowed` bytes of `inner`. A short one that came with the request's head is taken at once: it needs nobody who
    /// waits for the rest of it. Not where the client `expects` to be asked for it first: it may have no place yet.
    pub(crate) async fn new(
        mut inner: Arriving,
        allowed: u64,
        expects: bool,
    ) -> (Self, Option<Arc<UploadState>>) {
        if inner.is_end_stream() {
            return (Self::Empty, None);
        }
        let mut first = None;
        let is_short = inner
            .size_hint()
            .exact()
            .is_some_and(|length| length <= WHOLE);
        if is_short && !expects {
            let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut inner).poll_frame(cx))).await;
            first = match polled {
                Poll::Ready(Some(Ok(frame))) if inner.is_end_stream() => match frame.into_data() {
                    Ok(whole) => return (Self::Whole(whole), None),
                    Err(frame) => Some(Ok(frame)),
                },
                Poll::Ready(frame) => frame,
                Poll::Pending => None,
            };
        }
        let state = Arc::<UploadState>::default();
        (
            Self::Limited {
                first,
                inner,
                left: allowed,
                state: Arc::clone(&state),
            },
            Some(state),
        )
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            body @ Self::Whole(_) => match std::mem::replace(body, Self::Empty) {
                Self::Whole(whole) => Poll::Ready(Some(Ok(Frame::data(whole)))),
                Self::Empty | Self::Limited { .. } => Poll::Ready(None),
            },
            Self::Limited {
                first,
                inner,
                left,
                state,
            } => {
                let frame = match first.take() {
                    Some(first) => Poll::Ready(Some(first)),
                    None => Pin::new(inner).poll_frame(cx),
                };
                state.awaited.store(frame.is_pending(), Ordering::Relaxed);
                Poll::Ready(match ready!(frame) {
                    None => None,
                    Some(Err(error)) => {
                        state.broke_off.store(true, Ordering::Relaxed);
                        Some(Err(BodyError::BrokeOff(error)))
                    }
                    Some(Ok(frame)) => {
                        let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                        match left.checked_sub(length) {
                            Some(rest) => {
                                *left = rest;
                                Some(Ok(frame))
                            }
                            None => {
                                state.too_large.store(true, Ordering::Relaxed);
                                Some(Err(BodyError::TooLarge))
                            }
                        }
                    }
                })
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(_) => false,
            Self::Limited { first, inner, .. } => first.is_none() && inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Whole(whole) => SizeHint::with_exact(whole.len() as u64),
            Self::Limited { first, inner, .. } => {
                let Some(Ok(first)) = first else {
                    return inner.size_hint();
                };
                let first = first.data_ref().map_or(0, Bytes::len);
                with_more(&inner.size_hint(), first)
            }
        }
    }
}

/// The size of a body of which so many bytes are here already.
pub(crate) fn with_more(to_come: &SizeHint, here: usize) -> SizeHint {
    to_come.exact().map_or_else(SizeHint::default, |to_come| {
        SizeHint::with_exact(to_come.saturating_add(here as u64))
    })
}

/// A response's body on its way to the client.
pub(crate) enum Outgoing {
    Full(Full<Bytes>, Arc<Unread>),
    Streamed(Box<Exchange>),
}

impl Outgoing {
    /// Made by the task that sends it, which minds from then on that its client takes it `within` that time.
    pub(crate) fn full(bytes: Bytes, within: Duration) -> Self {
        let mut unread = Unread::new(None);
        if !bytes.is_empty() {
            unread.begin(Instant::now() + within);
        }
        Self::Full(Full::new(bytes), unread)
    }

    /// Made by the task that sends it, which minds its deadline from then on.
    pub(crate) fn streamed(mut exchange: Box<Exchange>) -> Self {
        exchange.begin();
        Self::Streamed(exchange)
    }

    /// It is sent over HTTP/2, on a connection with this usage. Nothing of it was yet.
    pub(crate) fn over_http2(&mut self, usage: &Usage) {
        match self {
            Self::Full(_, unread) => unread.over_http2(usage),
            Self::Streamed(exchange) => exchange.over_http2(usage),
        }
    }
}

impl Body for Outgoing {
    type Data = Piece;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, BodyError>>> {
        match self.get_mut() {
            Self::Full(body, unread) => Pin::new(body).poll_frame(cx).map(|frame| {
                let frame = frame?.unwrap_or_else(|never| match never {});
                Some(Ok(unread.frame(frame)))
            }),
            Self::Streamed(exchange) => match ready!(exchange.poll_frame(cx)) {
                Some(Ok(frame)) => Poll::Ready(Some(Ok(exchange.unread().frame(frame)))),
                Some(Err(error)) => {
                    exchange.broke();
                    Poll::Ready(Some(Err(BodyError::Upstream(Box::new(error)))))
                }
                None => {
                    exchange.finished();
                    Poll::Ready(None)
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(body, _) => body.is_end_stream(),
            Self::Streamed(exchange) => exchange.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(body, _) => body.size_hint(),
            Self::Streamed(exchange) => exchange.size_hint(),
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        match self {
            Self::Full(_, unread) => unread.ended(),
            Self::Streamed(exchange) => {
                exchange.unread().ended();
                // A body of known length isn't polled past its last byte.
                if exchange.is_over() {
                    exchange.finished();
                }
            }
        }
    }
}
