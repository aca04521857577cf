//! A guest's call while it runs: within its deadline, first inside its connection's task, then beside it.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::coop::unconstrained;
use tokio::time::{Instant, sleep_until};

use crate::failure::Failure;
use crate::written::{Desk, Head};

/// A guest's call. It resolves when the call is over, which may be long after the response began.
pub(crate) type Running = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

/// The deadline passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Elapsed;

/// Polls `future` until `deadline`. The timer is only made once the future waits: most guests never do.
pub(crate) async fn within<F: Future>(
    deadline: Instant,
    mut future: Pin<&mut F>,
) -> Result<F::Output, Elapsed> {
    let mut timer = pin!(None);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        if timer.is_none() {
            // A guest that is always ready for more leaves nothing of tokio's budget to the timer.
            timer.set(Some(unconstrained(sleep_until(deadline))));
        }
        match timer.as_mut().as_pin_mut() {
            Some(timer) => timer.poll(cx).map(|()| Err(Elapsed)),
            None => Poll::Pending,
        }
    })
    .await
}

/// What there is to send, and whether the guest still runs.
pub(crate) enum Begun<T> {
    /// Everything the guest will ever send is there.
    Done(T),
    /// The guest goes on, and may still write the body.
    Running(T),
}

/// How often in a row a call is polled that goes on at once.
const TURNS: usize = 16;
/// And for how long: a guest that computes yields to its neighbours whatever else its call waits for.
const BRIEFLY: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 1 });
/// So often one that has answered, before the rest of it is left to another task. wasmtime's event loop returns between a
/// stream's last write and its end.
const ONCE_MORE: usize = 2;

/// Polls `running` in this task until there is an answer on the `desk`, and nothing more to do at once, or the guest ends.
pub(crate) async fn until_head(running: &mut Running, desk: &Desk) -> Result<Begun<Head>, Failure> {
    let waker = desk.waker();
    poll_fn(|cx| {
        desk.come();
        let mut of_call = Context::from_waker(&waker);
        let began = Instant::now();
        let mut turns = TURNS;
        let mut goes_on = true;
        while goes_on && turns > 0 {
            turns -= 1;
            match running.as_mut().poll(&mut of_call) {
                Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
                Poll::Ready(Ok(())) => {
                    let done = desk.take().map(Begun::Done);
                    return Poll::Ready(done.ok_or(Failure::NoResponse));
                }
                Poll::Pending => goes_on = desk.was_called(),
            }
            if !desk.is_empty() {
                turns = turns.min(ONCE_MORE);
            }
            if goes_on && began.elapsed() > BRIEFLY {
                break;
            }
        }
        if let Some(head) = desk.take() {
            return Poll::Ready(Ok(Begun::Running(head)));
        }
        desk.leave(cx.waker());
        if goes_on {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Would fail if a future that is always woken again kept its deadline from being seen.
    #[tokio::test]
    async fn a_future_that_uses_up_all_of_its_budget_is_cut_off_too() {
        let busy = async {
            loop {
                tokio::task::coop::consume_budget().await;
            }
        };
        let soon = Instant::now() + std::time::Duration::from_millis(5);
        assert_eq!(within(soon, pin!(busy)).await, Err(Elapsed));
    }

    #[tokio::test]
    async fn a_future_that_never_waits_needs_no_time_left_and_one_that_does_is_cut_off() {
        let past = Instant::now();
        assert_eq!(within(past, pin!(async { 1 })).await, Ok(1));
        assert_eq!(
            within(past, pin!(std::future::pending::<()>())).await,
            Err(Elapsed)
        );
    }

    fn running(call: impl Future<Output = Result<(), Failure>> + Send + 'static) -> Running {
        Box::pin(call)
    }

    /// An answer that can be told from others.
    fn answered() -> Head {
        Err("the guest's".to_owned())
    }

    #[tokio::test]
    async fn a_head_counts_only_while_the_guest_has_not_failed() {
        let desk = Desk::default();
        desk.put(answered());
        let mut call = running(async { Ok(()) });
        let begun = until_head(&mut call, &desk).await;
        assert!(matches!(begun, Ok(Begun::Done(Err(code))) if code == "the guest's"));

        desk.put(answered());
        let mut call = running(async { Err(Failure::Trapped) });
        let begun = until_head(&mut call, &desk).await;
        assert!(matches!(begun, Err(Failure::Trapped)));

        desk.put(answered());
        let mut call = running(std::future::pending());
        let begun = until_head(&mut call, &desk).await;
        assert!(matches!(begun, Ok(Begun::Running(Err(code))) if code == "the guest's"));
    }

    /// Would hang if a call that went on while it was polled, or after that, were not polled again.
    #[tokio::test]
    async fn a_call_is_polled_for_as_long_as_it_goes_on() {
        for turns in [1, TURNS - 1, TURNS, 3 * TURNS] {
            for is_later in [false, true] {
                let desk = Desk::default();
                let there = desk.clone();
                let mut left = turns;
                let mut call = running(std::future::poll_fn(move |cx| {
                    left -= 1;
                    if left == 0 {
                        there.put(answered());
                        return Poll::Ready(Ok(()));
                    }
                    let waker = cx.waker().clone();
                    if is_later {
                        std::thread::spawn(move || waker.wake());
                    } else {
                        waker.wake();
                    }
                    Poll::Pending
                }));
                let begun = until_head(&mut call, &desk).await;
                assert!(matches!(begun, Ok(Begun::Done(_))));
            }
        }
    }

    /// Would fail if a call were polled again for having been woken before, or went on and on beside others.
    #[tokio::test]
    async fn a_call_that_computes_leaves_its_thread() {
        for is_woken in [false, true] {
            let polls = Arc::new(AtomicUsize::new(0));
            let polled = Arc::clone(&polls);
            let mut call = running(std::future::poll_fn(move |cx| {
                polled.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(2 * BRIEFLY);
                if is_woken {
                    cx.waker().wake_by_ref();
                } else {
                    let waker = cx.waker().clone();
                    std::thread::spawn(move || {
                        std::thread::sleep(BRIEFLY);
                        waker.wake();
                    });
                }
                Poll::Pending
            }));
            let desk = Desk::default();
            let mut begun = pin!(until_head(&mut call, &desk));
            for polled in 1..4 {
                assert!(futures::poll!(begun.as_mut()).is_pending());
                assert_eq!(polls.load(Ordering::Relaxed), polled);
                tokio::time::sleep(10 * BRIEFLY).await;
            }
        }
    }

    /// Would fail if a guest that always has more to write kept what it wrote from its client.
    #[tokio::test]
    async fn a_call_that_answered_and_goes_on_is_left_to_another_task() {
        let desk = Desk::default();
        desk.put(answered());
        let polls = Arc::new(AtomicUsize::new(0));
        let polled = Arc::clone(&polls);
        let mut call = running(std::future::poll_fn(move |cx| {
            polled.fetch_add(1, Ordering::Relaxed);
            cx.waker().wake_by_ref();
            Poll::Pending
        }));
        let begun = until_head(&mut call, &desk).await;
        assert!(matches!(begun, Ok(Begun::Running(_))));
        assert_eq!(polls.load(Ordering::Relaxed), 1 + ONCE_MORE);
    }

    #[tokio::test]
    async fn a_guest_that_gives_its_answer_up_is_waited_for() {
        let mut call = running(async {
            tokio::task::yield_now().await;
            Ok(())
        });
        let begun = until_head(&mut call, &Desk::default()).await;
        assert!(matches!(begun, Err(Failure::NoResponse)));
    }
}
