//! Which connections are asked something: they aren't closed for others.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use wisp_places::Place;

use super::respond::Body;

/// A request, from its head to its answer's last byte.
pub(super) struct Asking(Arc<Place<AtomicUsize>>);

/// An answer's body.
pub(super) struct Sent {
    body: Body,
    _asking: Asking,
}

impl Asking {
    pub(super) fn new(place: &Arc<Place<AtomicUsize>>) -> Self {
        place.state.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(place))
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.state.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Sent {
    pub(super) fn new(body: Body, asking: Asking) -> Self {
        Self {
            body,
            _asking: asking,
        }
    }
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
