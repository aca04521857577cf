//! A body that is written rather than made of a stream: the writing future runs inside the stream's poll.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use futures_core::Stream;

use crate::{Bytes, Result};

/// The end of a body that its handler writes to. See [`Body::writer`](crate::Body::writer).
///
/// ```
/// let mut body = wisp::Body::writer(async |mut out: wisp::body::Writer| {
///     out.write("hello").await;
///     Ok(())
/// });
/// assert_eq!(wisp::test::block_on(body.bytes()).unwrap(), "hello");
/// ```
///
/// A [task](crate::spawn) may have it. Where the receiver goes away, what [`Body::writer`](crate::Body::writer) runs is dropped,
/// and the task is not: its next [`write`](Self::write) would wait for good. So it ends with what waits for it:
///
/// ```
/// use std::pin::pin;
/// use futures::channel::oneshot;
/// use futures::future::select;
///
/// let mut body = wisp::Body::writer(async |mut out| {
///     let (mut end, ended) = oneshot::channel::<()>();
///     wisp::spawn(async move {
///         let writing = pin!(async { out.write("hello").await });
///         select(writing, end.cancellation()).await;
///     });
///     // Over when the task is, which drops `end`.
///     let _ = ended.await;
///     Ok(())
/// });
/// assert_eq!(wisp::test::block_on(body.bytes()).unwrap(), "hello");
/// ```
#[derive(Debug)]
pub struct Writer {
    slot: Rc<RefCell<Slot>>,
}

#[derive(Debug, Default)]
struct Slot {
    chunk: Option<Bytes>,
    /// Who waits for the slot to be empty.
    writer: Option<Waker>,
    /// Who waits for a chunk.
    reader: Option<Waker>,
}

impl Slot {
    fn take(&mut self) -> Option<Bytes> {
        let chunk = self.chunk.take()?;
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
        Some(chunk)
    }

    fn put(&mut self, chunk: Bytes) {
        self.chunk = Some(chunk);
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }
}

impl Writer {
    /// Writes `chunk`, and waits until the receiver asks for more. When the receiver goes away, this never returns: the
    /// whole writing is dropped, save where a [task](Writer) has the writer. A write that is given up while it waits, as by
    /// [`timeout`](crate::time::timeout), may have written its chunk.
    ///
    /// ```
    /// let mut body = wisp::Body::writer(async |mut out| {
    ///     out.write("one ").await;
    ///     out.write(vec![b'2']).await;
    ///     Ok(())
    /// });
    /// assert_eq!(wisp::test::block_on(body.bytes()).unwrap(), "one 2");
    /// ```
    pub async fn write(&mut self, chunk: impl Into<Bytes>) {
        let chunk = chunk.into();
        if chunk.is_empty() {
            return;
        }
        // A write that was given up may have left its own.
        self.is_empty().await;
        self.slot.borrow_mut().put(chunk);
        self.is_empty().await;
    }

    /// Waits until what was written is taken.
    async fn is_empty(&self) {
        poll_fn(|context| {
            let mut slot = self.slot.borrow_mut();
            if slot.chunk.is_none() {
                return Poll::Ready(());
            }
            slot.writer = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// The stream of what is written.
pub(crate) struct Written {
    slot: Rc<RefCell<Slot>>,
    writing: Option<Pin<Box<dyn Future<Output = Result<()>>>>>,
}

impl Written {
    pub(crate) fn new<F>(write: F) -> Self
    where
        F: AsyncFnOnce(Writer) -> Result<()> + 'static,
    {
        let slot = Rc::<RefCell<Slot>>::default();
        let writer = Writer {
            slot: Rc::clone(&slot),
        };
        Self {
            slot,
            writing: Some(Box::pin(async move { write(writer).await })),
        }
    }
}

impl Stream for Written {
    type Item = Result<Bytes>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes>>> {
        // What is written from here on is seen below.
        self.slot.borrow_mut().reader = None;
        if let Some(writing) = &mut self.writing
            && let Poll::Ready(outcome) = writing.as_mut().poll(context)
        {
            self.writing = None;
            if let Err(error) = outcome {
                return Poll::Ready(Some(Err(error)));
            }
        }
        let mut slot = self.slot.borrow_mut();
        if let Some(chunk) = slot.take() {
            return Poll::Ready(Some(Ok(chunk)));
        }
        if self.writing.is_none() {
            return Poll::Ready(None);
        }
        // A task that the writing left its end to may write, too.
        slot.reader = Some(context.waker().clone());
        Poll::Pending
    }
}
