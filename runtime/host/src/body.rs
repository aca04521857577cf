//! What is sent to the client: whole, or as the guest writes it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::task::AbortHandle;
use tokio::time::Sleep;
use wasmtime_wasi_http::WasiBody;
use wisp_admit::Permit;

use crate::outcome::Outcome;
use crate::record::Record;

/// A response's body. Dropping it before its end means that the client is gone: the guest is cancelled.
pub(crate) struct Body {
    source: Source,
    record: Record,
    complete: bool,
}

enum Source {
    Whole(Option<Bytes>),
    Guest(GuestBody),
}

/// The body that a guest writes.
pub(crate) struct GuestBody {
    pub(crate) frames: WasiBody,
    /// The rest of the guest's call, where it goes on beside the body.
    pub(crate) rest: Option<Rest>,
    pub(crate) outcome: Outcome,
    /// Bytes left to send, where the guest declared a length.
    pub(crate) left: Option<u64>,
    /// What the body itself has to hold and watch, where no call does.
    pub(crate) hold: Option<Hold>,
}

/// A guest that goes on beside its response. Dropping this cancels it, [`Rest::let_go`] doesn't.
pub(crate) struct Rest(Option<AbortHandle>);

/// The place and the deadline of a body whose instance serves others, too.
pub(crate) struct Hold {
    pub(crate) deadline: Pin<Box<Sleep>>,
    pub(crate) _permit: Arc<Permit>,
}

impl Rest {
    pub(crate) fn new(task: AbortHandle) -> Self {
        Self(Some(task))
    }

    /// The guest may do what it has left to do after its response.
    fn let_go(mut self) {
        self.0 = None;
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// The response broke off: the connection is closed so that the client sees it.
#[derive(Debug, thiserror::Error)]
#[error("the function's response broke off: {0}")]
pub(crate) struct BrokenOff(String);

impl Body {
    /// A body that is there already.
    pub(crate) fn full(bytes: Bytes, record: Record) -> Self {
        Self {
            source: Source::Whole(Some(bytes)),
            record,
            complete: true,
        }
    }

    /// A body that a guest writes. `empty`: nothing of it is sent, as in an answer to HEAD.
    pub(crate) fn guest(body: GuestBody, empty: bool, record: Record) -> Self {
        Self {
            complete: empty || body.left == Some(0),
            source: Source::Guest(body),
            record,
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let this = self.get_mut();
        let body = match &mut this.source {
            Source::Whole(bytes) => {
                return Poll::Ready(
                    bytes
                        .take()
                        .filter(|bytes| !bytes.is_empty())
                        .map(|bytes| Ok(Frame::data(bytes))),
                );
            }
            Source::Guest(body) => body,
        };
        let polled = Pin::new(&mut body.frames).poll_frame(cx);
        // Whatever ended it: where the guest failed, its body isn't what it meant to send.
        if !matches!(polled, Poll::Ready(Some(Ok(_))))
            && let Some(failure) = body.outcome.failure()
        {
            this.record.broke_off(failure.reason());
            this.complete = true;
            return Poll::Ready(Some(Err(BrokenOff(failure.to_string()))));
        }
        match polled {
            Poll::Pending => {
                let Some(hold) = &mut body.hold else {
                    return Poll::Pending;
                };
                std::task::ready!(hold.deadline.as_mut().poll(cx));
                this.record.broke_off("timeout");
                this.complete = true;
                Poll::Ready(Some(Err(BrokenOff(
                    "the function's time is up (limits.timeout)".to_owned(),
                ))))
            }
            Poll::Ready(None) => {
                this.complete = true;
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                this.record.broke_off("invalid-body");
                Poll::Ready(Some(Err(BrokenOff(error.to_string()))))
            }
            Poll::Ready(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                this.record.sent(length);
                if let Some(left) = &mut body.left {
                    *left = left.saturating_sub(length);
                    // With the declared length sent, nobody polls this again.
                    this.complete |= *left == 0;
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Source::Guest(body) => body.frames.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Source::Guest(body) => body
                .left
                .map_or_else(|| body.frames.size_hint(), SizeHint::with_exact),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let Source::Guest(body) = &mut self.source else {
            return;
        };
        if self.complete {
            if let Some(rest) = body.rest.take() {
                rest.let_go();
            }
        } else {
            // Dropping the guest's rest cancels it.
            self.record.client_gone();
        }
    }
}
