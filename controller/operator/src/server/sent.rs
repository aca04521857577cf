//! Until when is a request answered? Its connection isn't closed for others until then.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use wisp_places::Asked;

use super::respond::Body;

/// An answer's body: with its last byte the request is answered.
pub(super) struct Sent {
    body: Body,
    _asking: Asked,
}

impl Sent {
    pub(super) fn new(body: Body, asking: Asked) -> Self {
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
