//! What the executor sleeps on: timers of a clock that goes on only when everybody waits.

use std::cell::RefCell;
use std::task::Waker;
use std::time::Duration;

use crate::task::Stalled;

thread_local! {
    static CLOCK: RefCell<Clock> = const { RefCell::new(Clock { now: Duration::ZERO, timers: Vec::new() }) };
}

struct Clock {
    now: Duration,
    timers: Vec<(Duration, Waker)>,
}

/// The thread's time.
pub(crate) fn now() -> Duration {
    CLOCK.with_borrow(|clock| clock.now)
}

/// Wakes `waker` at `time`.
pub(crate) fn wake_at(time: Duration, waker: Waker) {
    CLOCK.with_borrow_mut(|clock| clock.timers.push((time, waker)));
}

/// How many turns futures may have that never wait until the clock goes on: they compute, which takes it no time.
pub(crate) const TURNS: u32 = 10_000;

/// Goes on to the next timer, if there is one.
pub(crate) fn look() {
    advance();
}

/// Goes on to the next timer. Where there is none, another thread may have to say something.
#[expect(
    clippy::unnecessary_wraps,
    reason = "on a host, whoever waits for nothing waits in vain"
)]
pub(crate) fn park() -> Result<(), Stalled> {
    if !advance() {
        std::thread::park();
    }
    Ok(())
}

/// Goes on to the next timer, if there is one.
pub(crate) fn park_if_waiting() -> Result<(), Stalled> {
    if advance() { Ok(()) } else { Err(Stalled) }
}

fn advance() -> bool {
    let due: Vec<Waker> = CLOCK.with_borrow_mut(|clock| {
        let Some(next) = clock.timers.iter().map(|(time, _)| *time).min() else {
            return Vec::new();
        };
        clock.now = clock.now.max(next);
        let (due, later) = clock
            .timers
            .drain(..)
            .partition(|(time, _)| *time <= clock.now);
        clock.timers = later;
        let due: Vec<(Duration, Waker)> = due;
        due.into_iter().map(|(_, waker)| waker).collect()
    });
    let any = !due.is_empty();
    due.into_iter().for_each(Waker::wake);
    any
}
