//! A guest's call while it runs: within its deadline, first inside its connection's task, then beside it.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::failure::Failure;

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
    let first = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
    match first {
        Poll::Ready(output) => Ok(output),
        Poll::Pending => tokio::time::timeout_at(deadline, future)
            .await
            .map_err(|_| Elapsed),
    }
}

/// What there is to send, and whether the guest still runs.
pub(crate) enum Begun<T> {
    /// Everything the guest will ever send is there.
    Done(T),
    /// The guest goes on, and may still write the body.
    Running(T),
}

/// Polls `running` in this task until the guest sends its response's head or ends.
pub(crate) async fn until_head<T>(
    running: &mut Running,
    head: oneshot::Receiver<T>,
) -> Result<Begun<T>, Failure> {
    let mut head = Some(head);
    poll_fn(|cx| match running.as_mut().poll(cx) {
        Poll::Ready(Err(failure)) => Poll::Ready(Err(failure)),
        Poll::Ready(Ok(())) => {
            let sent = head.take().and_then(|mut head| head.try_recv().ok());
            Poll::Ready(sent.map(Begun::Done).ok_or(Failure::NoResponse))
        }
        Poll::Pending => {
            let Some(receiver) = head.as_mut() else {
                return Poll::Pending;
            };
            match Pin::new(receiver).poll(cx) {
                Poll::Ready(Ok(sent)) => Poll::Ready(Ok(Begun::Running(sent))),
                // It will never answer: only its end is to be waited for.
                Poll::Ready(Err(_)) => {
                    head = None;
                    Poll::Pending
                }
                Poll::Pending => Poll::Pending,
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[tokio::test]
    async fn a_future_that_never_waits_needs_no_time_left_and_one_that_does_is_cut_off() {
        let past = Instant::now();
        assert_eq!(within(past, pin!(async { 1 })).await, Ok(1));
        assert_eq!(
            within(past, pin!(std::future::pending::<()>())).await,
            Err(Elapsed)
        );
    }

    #[tokio::test]
    async fn a_head_that_is_sent_counts_only_while_the_guest_has_not_failed() {
        let (send, head) = oneshot::channel();
        let mut running: Running = Box::pin(async move {
            let _ = send.send(1);
            Ok(())
        });
        assert!(matches!(
            until_head(&mut running, head).await,
            Ok(Begun::Done(1))
        ));

        let (send, head) = oneshot::channel();
        let mut running: Running = Box::pin(async move {
            let _ = send.send(1);
            Err(Failure::Trapped)
        });
        assert!(matches!(
            until_head(&mut running, head).await,
            Err(Failure::Trapped)
        ));

        let (send, head) = oneshot::channel();
        let mut running: Running = Box::pin(async move {
            let _ = send.send(1);
            std::future::pending().await
        });
        assert!(matches!(
            until_head(&mut running, head).await,
            Ok(Begun::Running(1))
        ));
    }

    #[tokio::test]
    async fn a_guest_that_gives_its_answer_up_is_waited_for() {
        let (send, head) = oneshot::channel::<()>();
        let mut running: Running = Box::pin(async move {
            drop(send);
            tokio::task::yield_now().await;
            Ok(())
        });
        assert!(matches!(
            until_head(&mut running, head).await,
            Err(Failure::NoResponse)
        ));
    }
}
