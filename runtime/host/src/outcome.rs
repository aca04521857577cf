//! How a guest's call went, told to those who wait for it and to the response body that outlives it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Context;

use futures::task::AtomicWaker;
use tokio::sync::SetOnce;

use crate::failure::Failure;

/// Written by the call, read by the response. A failure is set before the guest's instance is dropped: a response body
/// that comes to its end because its writer is gone finds here whether it is complete.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    failure: SetOnce<Failure>,
    /// Responses that began, or are to, and of which nobody has read all.
    unread: AtomicUsize,
    /// Who waits for there to be none.
    waiting: AtomicWaker,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Unread(Outcome);

impl Outcome {
    pub(crate) fn fail(&self, failure: Failure) {
        // The first failure is the cause of all later ones.
        let _ = self.0.failure.set(failure);
    }

    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.0.failure.get()
    }

    /// The failure, as soon as there is one.
    pub(crate) async fn failed(&self) -> &Failure {
        self.0.failure.wait().await
    }

    /// A response is to come, and to be read.
    pub(crate) fn unread(&self) -> Unread {
        self.0.unread.fetch_add(1, Ordering::SeqCst);
        Unread(self.clone())
    }

    /// Whether there is such a response. The last one's end wakes `cx`.
    pub(crate) fn has_unread(&self, cx: &Context<'_>) -> bool {
        self.0.waiting.register(cx.waker());
        self.is_awaited()
    }

    /// Whether there is such a response.
    pub(crate) fn is_awaited(&self) -> bool {
        self.0.unread.load(Ordering::SeqCst) > 0
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        if self.0.0.unread.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.0.waiting.wake();
        }
    }
}
