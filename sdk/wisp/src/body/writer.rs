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
#[derive(Debug)]
pub struct Writer {
    slot: Rc<RefCell<Slot>>,
}

#[derive(Debug, Default)]
struct Slot {
    chunk: Option<Bytes>,
    /// Whoever waits for the slot to be empty.
    waker: Option<Waker>,
}

impl Writer {
    /// Writes `chunk`, and waits until the receiver asks for more. When the receiver goes away, this never returns: the
    /// whole writing is dropped.
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
        self.slot.borrow_mut().chunk = Some(chunk);
        poll_fn(|context| {
            let mut slot = self.slot.borrow_mut();
            if slot.chunk.is_none() {
                return Poll::Ready(());
            }
            slot.waker = Some(context.waker().clone());
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

    fn take(&self) -> Option<Bytes> {
        let mut slot = self.slot.borrow_mut();
        let chunk = slot.chunk.take()?;
        if let Some(waker) = slot.waker.take() {
            waker.wake();
        }
        Some(chunk)
    }
}

impl Stream for Written {
    type Item = Result<Bytes>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes>>> {
        if let Some(writing) = &mut self.writing
            && let Poll::Ready(outcome) = writing.as_mut().poll(context)
        {
            self.writing = None;
            if let Err(error) = outcome {
                return Poll::Ready(Some(Err(error)));
            }
        }
        match self.take() {
            Some(chunk) => Poll::Ready(Some(Ok(chunk))),
            None if self.writing.is_none() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}
