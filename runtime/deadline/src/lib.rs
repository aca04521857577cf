//! Deadlines that are nearly never reached, one after the other: of the requests of one connection, say.
//!
//! A timer of tokio's that is made for each of them goes into a wheel and out of it again. A [`Deadline`] keeps one, which is
//! moved to later only when it ends:
//!
//! ```
//! use std::future::poll_fn;
//! use std::time::Duration;
//! use tokio::time::Instant;
//! use wisp_deadline::Deadline;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let now = Instant::now();
//! let mut deadline = Deadline::new(now + Duration::from_millis(5));
//! deadline.set(now + Duration::from_millis(20));
//! poll_fn(|cx| deadline.poll(cx)).await;
//! assert!(now.elapsed() >= Duration::from_millis(20));
//! # });
//! ```

use std::future::poll_fn;
use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use hyper::rt::{Sleep, Timer};
use tokio::task::coop;
use tokio::time::Instant;

type Armed = Pin<Box<tokio::time::Sleep>>;

/// A deadline that can be moved.
#[derive(Debug)]
pub struct Deadline {
    at: Instant,
    /// Ends no later.
    armed: Armed,
    /// Who is woken then, so that it needn't be told again with each poll.
    waker: Option<Waker>,
}

impl Deadline {
    /// It is reached `at` this time.
    ///
    /// # Panics
    /// Outside of a tokio runtime that has timers.
    #[must_use]
    pub fn new(at: Instant) -> Self {
        Self {
            at,
            armed: Box::pin(tokio::time::sleep_until(at)),
            waker: None,
        }
    }

    /// When it is reached.
    #[must_use]
    pub fn at(&self) -> Instant {
        self.at
    }

    /// It is reached `at` this time instead.
    pub fn set(&mut self, at: Instant) {
        self.at = at;
        if at < self.armed.deadline() {
            self.armed.as_mut().reset(at);
        }
    }

    /// Ready once it is reached; else the task is woken then.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let is_known = |waker: &Waker| waker.will_wake(cx.waker());
        if self.waker.as_ref().is_some_and(is_known) && !self.armed.is_elapsed() {
            return Poll::Pending;
        }
        self.waker = Some(cx.waker().clone());
        loop {
            // Without it, a task that has used up its budget would have told nobody that it is to be woken.
            let mut armed = coop::unconstrained(self.armed.as_mut());
            ready!(Pin::new(&mut armed).poll(cx));
            if self.armed.deadline() >= self.at {
                return Poll::Ready(());
            }
            self.armed.as_mut().reset(self.at);
        }
    }
}

/// [hyper's timer](hyper::rt::Timer) for one connection, of which one sleep follows the other: those by which a request's head
/// must have come.
///
/// # Panics
/// Where one sleeps, outside of a tokio runtime that has timers.
#[derive(Debug, Clone, Default)]
pub struct ConnectionTimer {
    /// That of a sleep that was dropped.
    idle: Arc<Mutex<Option<Deadline>>>,
}

impl ConnectionTimer {
    fn idle(&self) -> std::sync::MutexGuard<'_, Option<Deadline>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Timer for ConnectionTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, at: std::time::Instant) -> Pin<Box<dyn Sleep>> {
        let at = Instant::from_std(at);
        let mut deadline = self.idle().take();
        match &mut deadline {
            Some(deadline) => deadline.set(at),
            None => deadline = Some(Deadline::new(at)),
        }
        Box::pin(Sleeping {
            deadline,
            timer: self.clone(),
        })
    }

    fn now(&self) -> std::time::Instant {
        Instant::now().into_std()
    }
}

/// One of its sleeps.
struct Sleeping {
    /// There until this is dropped.
    deadline: Option<Deadline>,
    timer: ConnectionTimer,
}

impl Future for Sleeping {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.deadline {
            Some(deadline) => deadline.poll(cx),
            None => Poll::Ready(()),
        }
    }
}

impl Sleep for Sleeping {}

impl Drop for Sleeping {
    fn drop(&mut self) {
        *self.timer.idle() = self.deadline.take();
    }
}

/// Serves a connection to its end; `None` where `is_used` isn't true before the `end`: nothing was asked on it. hyper itself
/// waits for ever for the first words of a client whose version of HTTP it doesn't know yet, or is 2. `connection` sets
/// `is_used` while it is polled.
pub async fn used_before<T>(
    end: impl Future<Output = ()>,
    is_used: &AtomicBool,
    connection: impl Future<Output = T>,
) -> Option<T> {
    let mut connection = pin!(connection);
    let first = {
        let mut end = pin!(end);
        poll_fn(|cx| match connection.as_mut().poll(cx) {
            Poll::Ready(ended) => Poll::Ready(ControlFlow::Break(Some(ended))),
            Poll::Pending if is_used.load(Ordering::Relaxed) => {
                Poll::Ready(ControlFlow::Continue(()))
            }
            Poll::Pending => end.as_mut().poll(cx).map(|()| ControlFlow::Break(None)),
        })
        .await
    };
    match first {
        ControlFlow::Break(ended) => ended,
        ControlFlow::Continue(()) => Some(connection.await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    fn run(test: impl Future<Output = ()>) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().build().unwrap().block_on(test);
    }

    /// Would fail if the timer were left where it is when the deadline becomes an earlier one: this would take an hour.
    #[test]
    fn an_earlier_one_is_reached() {
        run(async {
            let start = Instant::now();
            let mut deadline = Deadline::new(after(start, 3_600_000));
            assert!(
                poll_fn(|cx| Poll::Ready(deadline.poll(cx)))
                    .await
                    .is_pending()
            );
            deadline.set(after(start, 10));
            poll_fn(|cx| deadline.poll(cx)).await;
            assert!(Instant::now() >= after(start, 10));
        });
    }

    /// Would fail if the end of a timer that was moved, or of one that ended long ago, were taken for the deadline.
    #[test]
    fn a_later_one_is_not_reached_early() {
        run(async {
            let start = Instant::now();
            let mut deadline = Deadline::new(after(start, 5));
            deadline.set(after(start, 20));
            poll_fn(|cx| deadline.poll(cx)).await;
            assert!(Instant::now() >= after(start, 20));
            let again = Instant::now();
            deadline.set(after(again, 15));
            poll_fn(|cx| deadline.poll(cx)).await;
            assert!(Instant::now() >= after(again, 15));
        });
    }

    /// Would fail, by never being reached, if a task that had no budget left when it first asked weren't woken.
    #[test]
    fn one_that_is_first_asked_for_without_budget_is_reached() {
        run(async {
            let mut deadline = Deadline::new(after(Instant::now(), 5));
            poll_fn(|cx| {
                // The first time: it is polled once more after that, at once.
                while deadline.waker.is_none() && coop::has_budget_remaining() {
                    let _ = pin!(coop::consume_budget()).poll(cx);
                }
                deadline.poll(cx)
            })
            .await;
        });
    }

    /// Would fail if a sleep ended at the time of the one before it, or two at once shared a timer.
    #[test]
    fn each_sleep_of_a_connection_ends_in_its_time() {
        run(async {
            let timer = ConnectionTimer::default();
            let start = timer.now();
            let mut first = timer.sleep(Duration::from_millis(5));
            assert!(
                poll_fn(|cx| Poll::Ready(first.as_mut().poll(cx)))
                    .await
                    .is_pending()
            );
            drop(first);
            let second = timer.sleep_until(start + Duration::from_millis(20));
            timer.sleep_until(start + Duration::from_millis(10)).await;
            assert!(timer.now() >= start + Duration::from_millis(10));
            second.await;
            assert!(timer.now() >= start + Duration::from_millis(20));
        });
    }

    /// Would fail if a client that never asks for anything kept its connection for ever, or one that asks lost it.
    #[test]
    fn a_connection_is_kept_for_who_asks() {
        const SOON: Duration = Duration::from_millis(20);
        run(async {
            let is_used = AtomicBool::new(false);
            let soon = || tokio::time::sleep(SOON);
            let silent = used_before(soon(), &is_used, std::future::pending::<()>());
            assert_eq!(silent.await, None);
            let asking = async {
                tokio::time::sleep(SOON / 2).await;
                is_used.store(true, Ordering::Relaxed);
                tokio::time::sleep(SOON * 2).await;
                "answered"
            };
            assert_eq!(
                used_before(soon(), &is_used, asking).await,
                Some("answered")
            );
        });
    }
}
