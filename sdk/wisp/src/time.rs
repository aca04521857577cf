//! Waiting.
//!
//! In tests nobody waits in vain: when all that is left is to wait, the time is over at once.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use crate::platform;

/// Waits for `duration`; other futures of the same request go on meanwhile.
///
/// ```
/// use std::time::Duration;
///
/// // In a test this takes no time.
/// wisp::test::block_on(wisp::time::sleep(Duration::from_secs(3600)));
/// ```
pub fn sleep(duration: Duration) -> impl Future<Output = ()> + 'static {
    platform::time::sleep(duration)
}

/// A future wasn't done in its time.
///
/// ```
/// use std::time::Duration;
/// use wisp::time::{sleep, timeout};
///
/// let late = timeout(Duration::from_millis(10), sleep(Duration::from_secs(1)));
/// let error = wisp::test::block_on(late).unwrap_err();
/// assert_eq!(error.to_string(), "not done within 10ms");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not done within {0:?}")]
pub struct Elapsed(Duration);

/// Waits for `future`, at most for `limit`. What isn't done by then is dropped.
///
/// It looks at the time only where `future` waits. What computes without waiting isn't interrupted, and what it made is given
/// however late it is: [`Model::run`](crate::nn::Model::run), which suspends all futures of the request, and the like. Their
/// limit is the function's own, `limits.timeout`.
///
/// ```
/// use std::time::Duration;
///
/// let done = wisp::time::timeout(Duration::from_secs(1), async { 7 });
/// assert_eq!(wisp::test::block_on(done), Ok(7));
/// ```
///
/// # Errors
/// [`Elapsed`] where the time was over first.
pub async fn timeout<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let mut timer = pin!(sleep(limit));
    poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Ok(output));
        }
        timer.as_mut().poll(context).map(|()| Err(Elapsed(limit)))
    })
    .await
}
