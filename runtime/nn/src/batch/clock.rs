//! How does a lane's thread wait for microseconds?
//!
//! tokio's timers count milliseconds, and a worthwhile wait for company is often a tenth of one. So a lane's thread
//! polls its one future itself and parks with a timeout that the kernel keeps to some 50 µs.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant;

/// What time it is, and waiting until another.
pub(crate) trait Clock {
    fn now(&self) -> Instant;
    fn sleep_until(&self, deadline: Instant) -> impl Future<Output = ()> + Send;
}

/// The machine's clock, for futures that [`block_on`] polls.
pub(crate) struct ThreadClock;

thread_local! {
    static WAKE_AT: Cell<Option<Instant>> = const { Cell::new(None) };
}

impl Clock for ThreadClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep_until(&self, deadline: Instant) -> impl Future<Output = ()> + Send {
        poll_fn(move |_| {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            WAKE_AT.with(|at| at.set(Some(at.get().map_or(deadline, |other| other.min(deadline)))));
            Poll::Pending
        })
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Polls `future` on this thread until it is done.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        WAKE_AT.set(None);
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        match WAKE_AT.get() {
            Some(at) => thread::park_timeout(at.saturating_duration_since(Instant::now())),
            None => thread::park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn it_wakes_at_a_deadline_and_by_a_message_from_another_thread() {
        let deadline = Instant::now() + Duration::from_micros(200);
        block_on(ThreadClock.sleep_until(deadline));
        assert!(Instant::now() >= deadline);

        let (send, receive) = oneshot::channel();
        let sender = thread::spawn(move || send.send(7).unwrap());
        assert_eq!(block_on(receive), Ok(7));
        sender.join().unwrap();
    }
}
