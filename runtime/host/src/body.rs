//! What is sent to the client: whole, or as the guest writes it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Version};
use http_body::{Body as _, Frame, SizeHint};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep, sleep_until};
use wisp_admit::Permit;

use crate::outcome::Outcome;
use crate::record::Record;
use crate::written::Written;

/// A response's body. Dropping it before its end means that the client is gone: the guest is cancelled.
pub(crate) struct Body {
    source: Source,
    record: Record,
    complete: bool,
    sent: Sent,
}

/// What of a guest's response is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    Body,
    /// Only the head, as of an answer to HEAD.
    Head,
    /// Only the head, which HTTP/1.1's connection sees to: it tells the body's length there.
    HeadByConnection,
}

impl Sent {
    /// What is sent of an answer to such a request, if answers of its kind have a body.
    pub(crate) fn to(method: &Method, version: Version) -> Self {
        match (method, version) {
            (&Method::HEAD, version) => Self::head(version),
            _ => Self::Body,
        }
    }

    /// Nothing but the head.
    pub(crate) fn head(version: Version) -> Self {
        match version {
            Version::HTTP_2 => Self::Head,
            _ => Self::HeadByConnection,
        }
    }
}

enum Source {
    Whole(Option<Bytes>),
    Guest(GuestBody),
}

/// The body that a guest writes.
pub(crate) struct GuestBody {
    pub(crate) frames: Written,
    /// The rest of the guest's call, where it goes on beside the body.
    pub(crate) rest: Option<Rest>,
    /// How the call goes that writes it; `None` where all of it is there.
    pub(crate) outcome: Option<Outcome>,
    /// Bytes left to send, where the guest declared a length.
    pub(crate) left: Option<u64>,
    /// What the body itself has to hold and watch, where no call does.
    pub(crate) hold: Option<Hold>,
}

impl GuestBody {
    /// Whether bytes are missing that the guest declared.
    fn is_short(&self) -> bool {
        self.left.is_some_and(|left| left > 0)
    }

    /// Whether there is nothing more to send: nobody asks for more then.
    fn is_sent(&self) -> bool {
        match self.left {
            Some(left) => left == 0,
            None => self.frames.is_end_stream(),
        }
    }
}

/// A guest that goes on beside its response. Dropping this cancels it, [`Rest::let_go`] doesn't.
pub(crate) struct Rest(Option<AbortHandle>);

/// The place and the deadline of a body whose instance serves others, too.
pub(crate) struct Hold {
    deadline: Instant,
    watch: Watch,
    frames: usize,
    bytes: u64,
}

/// Who looks at the clock.
enum Watch {
    /// The body, when it is asked for more and there is none.
    Body(Arc<Permit>, Option<Pin<Box<Sleep>>>),
    /// A task of its own, which has the place.
    Task(oneshot::Receiver<()>),
}

impl Hold {
    /// Frames with which a body isn't a small one: hyper takes so many, whether or not the client reads.
    const MANY: usize = 8;
    /// Bytes with which it isn't one either.
    const MUCH: u64 = 64 << 10;

    /// Gives the place back when the body is dropped, and at the `deadline` at the latest. `is_asked`: whether the body is asked
    /// for its first frames even where the client reads nothing, as over HTTP/1.1.
    pub(crate) fn new(permit: Arc<Permit>, deadline: Instant, is_asked: bool) -> Self {
        let mut hold = Self {
            deadline,
            watch: Watch::Body(permit, None),
            frames: 0,
            bytes: 0,
        };
        if !is_asked {
            hold.watch_beside();
        }
        hold
    }

    /// Nobody asks the body for more while its client reads nothing.
    fn watch_beside(&mut self) {
        let (mut until, over) = oneshot::channel();
        let watched = std::mem::replace(&mut self.watch, Watch::Task(over));
        if let Watch::Body(permit, _) = watched {
            let deadline = self.deadline;
            tokio::spawn(async move {
                let _ = tokio::time::timeout_at(deadline, until.closed()).await;
                drop(permit);
            });
        }
    }

    /// The body had a frame of so many bytes.
    fn sent(&mut self, bytes: u64) {
        self.frames = self.frames.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
        let is_small = self.frames < Self::MANY && self.bytes < Self::MUCH;
        if !is_small && matches!(self.watch, Watch::Body(..)) {
            self.watch_beside();
        }
    }

    /// Ready when the time is up.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.watch {
            Watch::Body(_, timer) => {
                let until = self.deadline;
                let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
                timer.as_mut().poll(cx)
            }
            Watch::Task(over) => Pin::new(over).poll(cx).map(drop),
        }
    }
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
    /// A body that is there already, and what of it is sent.
    pub(crate) fn full(bytes: Bytes, sent: Sent, record: Record) -> Self {
        Self {
            source: Source::Whole(Some(bytes)),
            record,
            complete: true,
            sent,
        }
    }

    /// A body that a guest writes, and what of it is sent.
    pub(crate) fn guest(body: GuestBody, sent: Sent, record: Record) -> Self {
        Self {
            complete: sent != Sent::Body || body.is_sent(),
            source: Source::Guest(body),
            record,
            sent,
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
                let bytes = bytes.take().filter(|bytes| !bytes.is_empty());
                let length = bytes.as_ref().map_or(0, Bytes::len);
                this.record.sent(length as u64);
                return Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))));
            }
            Source::Guest(body) => body,
        };
        let polled = Pin::new(&mut body.frames).poll_frame(cx);
        // Whatever ended it: where the guest failed, its body isn't what it meant to send.
        if !matches!(polled, Poll::Ready(Some(Ok(_))))
            && let Some(failure) = body.outcome.as_ref().and_then(Outcome::failure)
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
                std::task::ready!(hold.poll(cx));
                this.record.broke_off("timeout");
                this.complete = true;
                Poll::Ready(Some(Err(BrokenOff(
                    "the function's time is up (limits.timeout)".to_owned(),
                ))))
            }
            Poll::Ready(None) if this.sent == Sent::Body && body.is_short() => {
                this.record.broke_off("invalid-body");
                Poll::Ready(Some(Err(BrokenOff(
                    "its body is shorter than its content-length".to_owned(),
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
                if let Some(left) = &mut body.left {
                    // hyper would send what is declared of it over HTTP/1.1, which is no whole body.
                    let Some(rest) = left.checked_sub(length) else {
                        this.record.broke_off("invalid-body");
                        this.complete = false;
                        return Poll::Ready(Some(Err(BrokenOff(
                            "its body is longer than its content-length".to_owned(),
                        ))));
                    };
                    *left = rest;
                }
                this.record.sent(length);
                if let Some(hold) = &mut body.hold {
                    hold.sent(length);
                }
                this.complete |= body.is_sent();
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        if self.sent == Sent::Head {
            return true;
        }
        match &self.source {
            Source::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            // Where bytes are missing, an end would seem that of a whole body.
            Source::Guest(body) => {
                body.frames.is_end_stream() && !(self.sent == Sent::Body && body.is_short())
            }
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Instant;

    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;
    use crate::metrics::Metrics;

    /// Would fail if a client got as many bytes of a longer body as were declared, which it takes for all of it, or if a body
    /// that ends before that counted as sent.
    #[tokio::test]
    async fn a_body_of_another_length_than_declared_breaks_off() {
        for (pieces, is_whole) in [
            (&["four"][..], true),
            (&["fo", "ur"], true),
            (&[], false),
            (&["two"], false),
            (&["fives"], false),
            (&["fo", "urs"], false),
        ] {
            let frames = pieces.iter().map(|piece| {
                Ok::<_, Infallible>(Frame::data(Bytes::from_static(piece.as_bytes())))
            });
            let frames: Vec<_> = frames.collect();
            let source = StreamBody::new(futures::stream::iter(frames))
                .map_err(|never| match never {})
                .boxed_unsync();
            let body = GuestBody {
                frames: Written::new(source, None),
                rest: None,
                outcome: None,
                left: Some(4),
                hold: None,
            };
            let metrics = Arc::new(Metrics::new());
            let record = Record::begin(Instant::now(), "id".into(), Arc::clone(&metrics), None);
            let body = Body::guest(body, Sent::Body, record);
            assert!(!body.is_end_stream(), "{pieces:?}");
            let sent = body.collect().await;
            assert_eq!(sent.is_ok(), is_whole, "{pieces:?}");
            let is_told = metrics.encode(None).contains("reason=\"invalid-body\"} 1");
            assert_eq!(is_told, !is_whole, "{pieces:?}");
        }
    }
}
