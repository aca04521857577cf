//! How often the log tells of what guests or clients make happen: they decide how often something does.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So many at once.
const BURST: u32 = 16;
/// And one more each time that this is over.
const PERIOD: Duration = Duration::from_secs(1);

/// A token bucket; one token is one line: 16 at once, and one more each second.
#[derive(Debug, Default)]
pub struct Notices(Mutex<Option<Spent>>);

#[derive(Debug)]
struct Spent {
    lines: u32,
    /// Lines that weren't written since that was asked.
    left_out: u64,
    /// Up to when lines were given back.
    since: Instant,
}

impl Notices {
    /// A full one.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Whether a line more may be written.
    #[must_use]
    pub fn take(&self, now: Instant) -> bool {
        let mut spent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let spent = spent.get_or_insert(Spent {
            lines: 0,
            left_out: 0,
            since: now,
        });
        let periods = now.saturating_duration_since(spent.since).as_secs() / PERIOD.as_secs();
        let back = u32::try_from(periods).unwrap_or(u32::MAX);
        spent.lines = spent.lines.saturating_sub(back);
        spent.since += PERIOD.saturating_mul(back);
        let passes = spent.lines < BURST;
        spent.lines += u32::from(passes);
        spent.left_out += u64::from(!passes);
        passes
    }

    /// How many lines were not written since this was last asked.
    #[must_use]
    pub fn take_left_out(&self) -> u64 {
        let mut spent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left_out = spent.as_mut().map(|spent| &mut spent.left_out);
        left_out.map(std::mem::take).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_of_a_few_times_and_then_once_a_second() {
        let notices = Notices::default();
        let start = Instant::now();
        let told = |at: Duration| (0..100).filter(|_| notices.take(start + at)).count();
        assert_eq!(notices.take_left_out(), 0);
        assert_eq!(told(Duration::ZERO), 16);
        assert_eq!(notices.take_left_out(), 84);
        assert_eq!(notices.take_left_out(), 0, "it is said once");
        assert_eq!(told(Duration::from_millis(999)), 0);
        assert_eq!(told(Duration::from_millis(1500)), 1);
        assert_eq!(
            told(Duration::from_millis(2000)),
            1,
            "half a second isn't lost"
        );
        assert_eq!(told(Duration::from_secs(3600)), 16);
    }
}
