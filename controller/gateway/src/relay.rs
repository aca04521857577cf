//! Wake-ups of a connection to a replica, on their way to the task that drives it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;

/// Wakes who uses a connection, but for what the user does itself: hyper's halves of a connection wake each other at every
/// step, and a task that is woken while it runs runs once more, in vain.
#[derive(Debug)]
pub(crate) struct Relay {
    shared: Arc<Shared>,
    waker: Waker,
}

#[derive(Debug, Default)]
struct Shared {
    state: AtomicU8,
    user: AtomicWaker,
}

/// Wake-ups go on to the user.
const OPEN: u8 = 0;
/// The user is at work: there was none since it began.
const QUIET: u8 = 1;
/// The user is at work: there was one.
const WOKEN: u8 = 2;

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let noted = self
            .state
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |state| {
                (state != OPEN).then_some(WOKEN)
            });
        if noted.is_err() {
            self.user.wake();
        }
    }
}

impl Default for Relay {
    fn default() -> Self {
        let shared = Arc::<Shared>::default();
        Self {
            waker: Waker::from(Arc::clone(&shared)),
            shared,
        }
    }
}

impl Relay {
    /// Does `work` for the task of `cx`, which is the user from now on. Who got something has to come again for more: it is
    /// woken for what the work itself did only where there is nothing yet.
    pub(crate) fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        work: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.shared.user.register(cx.waker());
        self.shared.state.store(QUIET, Ordering::SeqCst);
        let polled = work(&mut Context::from_waker(&self.waker));
        let is_woken = self.shared.state.swap(OPEN, Ordering::SeqCst) == WOKEN;
        if is_woken && polled.is_pending() {
            cx.waker().wake_by_ref();
        }
        polled
    }

    /// Nobody uses the connection.
    pub(crate) fn leave(&self) {
        drop(self.shared.user.take());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Would fail if a task woke itself for what it had got already, slept on what came while it worked, or were not woken
    /// for what comes later.
    #[test]
    fn a_user_is_woken_for_what_it_has_not_got() {
        let (relay, count) = (Relay::default(), Arc::<Count>::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        let woken = || count.0.swap(0, Ordering::SeqCst);
        let mut kept = None;
        let got = relay.poll(&mut cx, |cx| {
            cx.waker().wake_by_ref();
            kept = Some(cx.waker().clone());
            Poll::Ready(())
        });
        assert_eq!((got, woken()), (Poll::Ready(()), 0));
        let got = relay.poll(&mut cx, |cx| {
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        });
        assert_eq!((got, woken()), (Poll::Pending, 1));
        let got = relay.poll(&mut cx, |_| Poll::<()>::Pending);
        assert_eq!((got, woken()), (Poll::Pending, 0));
        kept.as_ref().unwrap().wake_by_ref();
        assert_eq!(woken(), 1);
        let _ = relay.poll(&mut cx, |_| Poll::<()>::Pending);
        relay.leave();
        kept.unwrap().wake();
        assert_eq!(woken(), 0, "nobody uses it");
    }
}
