//! Until when is a request answered, and what does that hold? Until its client's connection has taken the last byte.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use wisp_places::Piece;

use super::caller::Unanswered;
use super::downloads::Download;
use super::respond::Body;

/// An answer's body.
pub(super) struct Sent {
    body: Body,
    held: Held,
}

/// What it holds.
type Held = Arc<(Unanswered, Option<Arc<Download>>)>;

impl Sent {
    pub(super) fn new(body: Body, unanswered: Unanswered, download: Option<Arc<Download>>) -> Self {
        Self {
            body,
            held: Arc::new((unanswered, download)),
        }
    }
}

impl http_body::Body for Sent {
    type Data = Piece<Held>;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, std::io::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        let hold = |bytes: Bytes| Piece::new(bytes, Arc::clone(&self.held));
        frame.map(|frame| frame.map(|frame| frame.map(|frame| frame.map_data(hold))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
