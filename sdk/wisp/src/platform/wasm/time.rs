//! Time: `wasi:clocks/monotonic-clock`.

use std::future::Future;
use std::time::Duration;

use super::reactor::Ready;

pub(crate) fn sleep(duration: Duration) -> impl Future<Output = ()> + 'static {
    let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    Ready::new(wasip2::clocks::monotonic_clock::subscribe_duration(
        nanoseconds,
    ))
}
