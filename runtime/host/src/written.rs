//! What a guest writes: the response that its call has for the task that runs it, and as much of the body as is there by then.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::Bytes;
use futures::task::AtomicWaker;
use http::header::CONTENT_LENGTH;
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;
use wasmtime_wasi_http::{Error, WasiBody};

use crate::outcome::Unread;

/// Bytes of a body with which it isn't gathered any further.
const MOST: usize = 64 << 10;
/// So with as many frames.
const MOST_FRAMES: usize = 16;

/// What a guest answers: a response, or the name of the error it chose instead.
pub(crate) type Head = Result<Response<Written>, String>;

/// Where a call leaves what its guest answers. Nobody is woken: whoever takes it polls the call.
#[derive(Clone, Default)]
pub(crate) struct Desk(Arc<Inner>);

#[derive(Default)]
struct Inner {
    head: Mutex<Option<Head>>,
    visitor: Visitor,
}

/// Who polls the call in front of the desk.
#[derive(Default)]
struct Visitor {
    was_called: AtomicBool,
    /// Its task, while it is away.
    away: AtomicWaker,
}

impl Wake for Inner {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.visitor.was_called.store(true, Ordering::Release);
        self.visitor.away.wake();
    }
}

impl Desk {
    /// To poll the call with: while its visitor is here it is only noted that the call goes on, which costs nothing; a task that
    /// wakes itself is put into a queue, for which tokio wakes a thread.
    pub(crate) fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.0))
    }

    /// From now on calls are noted. One that came before is why its visitor is here.
    pub(crate) fn come(&self) {
        self.0.visitor.away.take();
        self.was_called();
    }

    /// Whether the call goes on at once.
    pub(crate) fn was_called(&self) -> bool {
        self.0.visitor.was_called.swap(false, Ordering::AcqRel)
    }

    /// From now on `task` is woken.
    pub(crate) fn leave(&self, task: &Waker) {
        self.0.visitor.away.register(task);
        if self.was_called() {
            task.wake_by_ref();
        }
    }

    pub(crate) fn put(&self, head: Head) {
        *self.lock() = Some(head);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_none()
    }

    pub(crate) fn take(&self) -> Option<Head> {
        self.lock().take()
    }

    /// While nobody has taken it: adds what the guest has written of the body, and has `cx` woken for more.
    pub(crate) fn gather(&self, cx: &mut Context<'_>) {
        if let Some(Ok(response)) = &mut *self.lock() {
            response.body_mut().gather(cx);
        }
    }

    /// Whether the response that is there is all that its client is to get, though the guest may not have ended it: one to HEAD
    /// (`is_head`) or of a kind that has no body, or as much as it declares.
    pub(crate) fn suffices(&self, is_head: bool) -> bool {
        let head = self.lock();
        let Some(Ok(response)) = &*head else {
            return true;
        };
        let declared = response.headers().get(CONTENT_LENGTH);
        let declared = declared.and_then(|value| value.to_str().ok()?.parse().ok());
        is_head
            || has_no_body(response.status())
            || declared.is_some_and(|length: usize| length <= response.body().bytes)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Head>> {
        self.0.head.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether responses of this status have no body.
pub(crate) fn has_no_body(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// A response's body, of which a part may be there before anybody asks for it.
pub(crate) struct Written {
    /// What is there, in its order.
    frames: VecDeque<Result<Frame<Bytes>, Error>>,
    /// Bytes in these frames.
    bytes: usize,
    /// Where more comes from; `None` once it came to its end.
    source: Option<WasiBody>,
    /// Dropped once nobody needs the source.
    tie: Option<Tie>,
}

/// What waits for a body to be read.
pub(crate) enum Tie {
    /// The call that writes it.
    Call(#[expect(dead_code, reason = "it is dropped")] oneshot::Sender<()>),
    /// The instance that wrote it, among others.
    Instance(#[expect(dead_code, reason = "it is dropped")] Unread),
}

impl Written {
    /// The body that `source` is; `tie` is dropped with it, or at its end.
    pub(crate) fn new(source: WasiBody, tie: Option<Tie>) -> Self {
        Self {
            frames: VecDeque::new(),
            bytes: 0,
            source: Some(source),
            tie,
        }
    }

    /// Whether the guest has nothing more to do with it.
    pub(crate) fn is_whole(&self) -> bool {
        self.source.is_none()
    }

    /// Whether its guest gave it up, and that is there already.
    pub(crate) fn is_given_up(&self) -> bool {
        matches!(self.frames.back(), Some(Err(_)))
    }

    /// How many bytes are left of it, where all of it is there.
    pub(crate) fn rest(&self) -> Option<u64> {
        (self.is_whole() && !self.is_given_up()).then_some(self.bytes as u64)
    }

    /// Takes what is there, up to a bound, and has `cx` woken for more.
    pub(crate) fn gather(&mut self, cx: &mut Context<'_>) {
        while self.bytes < MOST && self.frames.len() < MOST_FRAMES {
            match self.poll_source(cx) {
                Poll::Ready(Some(frame)) => {
                    self.bytes += length(&frame);
                    self.frames.push_back(frame);
                }
                Poll::Ready(None) | Poll::Pending => return,
            }
        }
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(source) = &mut self.source else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(source).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.source = None;
            self.tie = None;
        }
        Poll::Ready(frame)
    }
}

fn length(frame: &Result<Frame<Bytes>, Error>) -> usize {
    let data = frame.as_ref().ok().and_then(Frame::data_ref);
    data.map_or(0, Bytes::len)
}

impl Body for Written {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.frames.pop_front() {
            Some(frame) => {
                self.bytes = self.bytes.saturating_sub(length(&frame));
                Poll::Ready(Some(frame))
            }
            None => self.poll_source(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && self.source.as_ref().is_none_or(Body::is_end_stream)
    }

    /// Exact where all of it is there, and nothing but data: a length leaves no place for trailers.
    fn size_hint(&self) -> SizeHint {
        let bytes = self.bytes as u64;
        if let Some(source) = &self.source {
            let more = source.size_hint();
            let mut hint = SizeHint::new();
            if let Some(upper) = more.upper().and_then(|upper| upper.checked_add(bytes)) {
                hint.set_upper(upper);
            }
            hint.set_lower(more.lower().saturating_add(bytes));
            return hint;
        }
        let ends_with_data =
            |frame: &Result<Frame<Bytes>, Error>| frame.as_ref().is_ok_and(|frame| frame.is_data());
        if self.frames.back().is_none_or(ends_with_data) {
            SizeHint::with_exact(bytes)
        } else {
            SizeHint::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::channel::mpsc;
    use http::HeaderMap;
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    type Frames = mpsc::UnboundedSender<Result<Frame<Bytes>, Error>>;

    fn body() -> (Frames, Written, oneshot::Receiver<()>) {
        let (write, frames) = mpsc::unbounded();
        let (tie, gone) = oneshot::channel();
        let source = StreamBody::new(frames).boxed_unsync();
        (write, Written::new(source, Some(Tie::Call(tie))), gone)
    }

    fn send(write: &Frames, text: &'static str) {
        let sent = write.unbounded_send(Ok(Frame::data(Bytes::from_static(text.as_bytes()))));
        sent.unwrap();
    }

    async fn gather(body: &mut Written) {
        poll_fn(|cx| {
            body.gather(cx);
            Poll::Ready(())
        })
        .await;
    }

    #[tokio::test]
    async fn a_body_that_is_there_has_a_length_and_needs_nobody() {
        let (write, mut body, mut gone) = body();
        send(&write, "one ");
        gather(&mut body).await;
        assert_eq!(body.size_hint().exact(), None, "more may come");
        assert!(
            gone.try_recv()
                .is_err_and(|error| matches!(error, oneshot::error::TryRecvError::Empty))
        );
        send(&write, "two");
        drop(write);
        gather(&mut body).await;
        assert_eq!(body.size_hint().exact(), Some(7));
        assert!(!body.is_end_stream());
        assert!(gone.await.is_err(), "nobody waits for it");
        assert_eq!(body.collect().await.unwrap().to_bytes(), "one two");
    }

    #[tokio::test]
    async fn what_is_written_later_comes_after_what_was_gathered() {
        let (write, mut body, gone) = body();
        send(&write, "early ");
        gather(&mut body).await;
        send(&write, "late");
        drop(write);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "early late");
        assert!(gone.await.is_err());
    }

    #[tokio::test]
    async fn trailers_and_errors_leave_the_length_open() {
        let (write, mut body, _gone) = body();
        send(&write, "a");
        let trailers = HeaderMap::from_iter([(http::header::ETAG, "b".parse().unwrap())]);
        write
            .unbounded_send(Ok(Frame::trailers(trailers.clone())))
            .unwrap();
        drop(write);
        gather(&mut body).await;
        assert_eq!(body.size_hint().exact(), None);
        let collected = body.collect().await.unwrap();
        assert_eq!(collected.trailers(), Some(&trailers));

        let (write, mut body, gone) = self::body();
        send(&write, "a");
        write.unbounded_send(Err(Error::HttpProtocolError)).unwrap();
        gather(&mut body).await;
        assert_eq!(body.size_hint().exact(), None);
        assert!(gone.await.is_err());
        assert!(body.collect().await.is_err());
    }

    #[tokio::test]
    async fn a_response_suffices_where_nothing_more_of_it_is_sent() {
        for (status, declared, is_head, suffices) in [
            (200, None, false, false),
            (200, None, true, true),
            (204, None, false, true),
            (304, None, false, true),
            (200, Some(4), false, true),
            (200, Some(5), false, false),
        ] {
            let (write, mut body, _gone) = body();
            send(&write, "four");
            gather(&mut body).await;
            let mut response = Response::new(body);
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            if let Some(length) = declared {
                response.headers_mut().insert(CONTENT_LENGTH, length.into());
            }
            let desk = Desk::default();
            desk.put(Ok(response));
            assert_eq!(
                desk.suffices(is_head),
                suffices,
                "{status} {declared:?} {is_head}"
            );
        }
    }

    #[tokio::test]
    async fn a_large_body_is_not_gathered_to_its_end() {
        let (write, mut body, _gone) = body();
        let part = "x".repeat(MOST / 2 + 1);
        for _ in 0..4 {
            let frame = Frame::data(Bytes::from(part.clone()));
            write.unbounded_send(Ok(frame)).unwrap();
        }
        drop(write);
        gather(&mut body).await;
        assert_eq!(body.bytes, 2 * part.len());
        assert_eq!(
            body.collect().await.unwrap().to_bytes().len(),
            4 * part.len()
        );
    }
}
