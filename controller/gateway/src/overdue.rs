//! Ends what sends a response for longer than it may. A body can't: it is asked for more only while its client reads,
//! so that of a client which doesn't is never asked again. The task that serves the client is woken all the same.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll};

use tokio::time::Instant;
use wisp_deadline::Deadline;

thread_local! {
    /// Until when the response must have ended that the task which is polled now sends, if it sends one.
    static UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The task that is polled now begins to send a response, which must have ended by then.
pub(crate) fn begin(until: Instant) {
    UNTIL.set(Some(until));
}

/// It has nothing more to send of the response that must have ended by `until`. It may have begun another.
pub(crate) fn end(until: Instant) {
    // The thread may be ending.
    let _ = UNTIL.try_with(|latest| {
        if latest.get() == Some(until) {
            latest.set(None);
        }
    });
}

/// Minds the responses of one task, one after the other. One that is sent at once costs no timer.
#[derive(Debug, Default)]
pub(crate) struct Overdue {
    until: Option<Instant>,
    /// That of the last response which took a while.
    timer: Option<Deadline>,
}

impl Overdue {
    /// Polls the task's work. Ready without its result where its response is overdue: who drops the work then has
    /// dropped everything that the response held.
    pub(crate) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        work: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<Option<T>> {
        let before = self.until;
        // First: work that never ends leaves none of tokio's budget to a timer.
        let is_over = self.poll_timer(cx).is_ready();
        let outer = UNTIL.replace(before);
        let polled = work(cx);
        self.until = UNTIL.replace(outer);
        match polled {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if self.until == before && is_over => Poll::Ready(None),
            Poll::Pending if self.until == before => Poll::Pending,
            Poll::Pending => self.poll_timer(cx).map(|()| None),
        }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(until) = self.until else {
            return Poll::Pending;
        };
        let timer = self.timer.get_or_insert_with(|| Deadline::new(until));
        timer.set(until);
        timer.poll(cx)
    }
}

/// Does the work of a task to its end, or until its response is overdue.
pub(crate) async fn minded(work: impl Future<Output = ()>) {
    let (mut work, mut overdue) = (pin!(work), Overdue::default());
    poll_fn(|cx| overdue.poll(cx, |cx| work.as_mut().poll(cx))).await;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A moment that is over.
    fn past() -> Instant {
        Instant::now().checked_sub(Duration::from_secs(1)).unwrap()
    }

    /// Would fail, by never ending, if a response were minded only where its body is polled.
    #[tokio::test]
    async fn work_that_waits_for_ever_ends_once_its_response_is_overdue() {
        minded(async {
            begin(past());
            std::future::pending().await
        })
        .await;
    }

    /// Would fail if a response that has ended were minded on, or one task's deadline were taken for another's.
    #[tokio::test]
    async fn only_the_work_that_is_overdue_ends() {
        let [mut ended, mut next, mut outer, mut inner] = [(); 4].map(|()| Overdue::default());
        let polls = poll_fn(|cx| {
            let ended = ended.poll(cx, |_| {
                let until = past();
                begin(until);
                end(until);
                Poll::<()>::Pending
            });
            let next = next.poll(cx, |_| {
                let (until, later) = (past(), Instant::now() + Duration::from_secs(60));
                begin(until);
                begin(later);
                end(until);
                assert_eq!(UNTIL.get(), Some(later));
                Poll::<()>::Pending
            });
            let mut within = Poll::Pending;
            let outer = outer.poll(cx, |cx| {
                within = inner.poll(cx, |_| {
                    begin(past());
                    Poll::<()>::Pending
                });
                Poll::<()>::Pending
            });
            Poll::Ready([ended, next, outer, within])
        })
        .await;
        let pending = Poll::Pending;
        assert_eq!(polls, [pending, pending, pending, Poll::Ready(None)]);
    }
}
