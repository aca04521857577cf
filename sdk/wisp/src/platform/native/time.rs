//! Time: the clock of the test's thread.

use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use super::reactor;

pub(crate) fn sleep(duration: Duration) -> impl Future<Output = ()> + 'static {
    let until = reactor::now().saturating_add(duration);
    poll_fn(move |context| {
        if reactor::now() >= until {
            return Poll::Ready(());
        }
        reactor::wake_at(until, context.waker().clone());
        Poll::Pending
    })
}
