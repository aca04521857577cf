//! What was seen of a function in the last minute.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::decide::Decision;

/// The most that one tick counts for, and ticks that are kept as one: a gap isn't known to have been like its end.
const SLOT: Duration = Duration::from_secs(1);

/// What decisions look back on.
pub const STABLE_WINDOW: Duration = Duration::from_secs(60);
/// What sudden growth is seen in.
pub const PANIC_WINDOW: Duration = Duration::from_secs(6);

/// What all gateways together saw of a function in one tick.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// Requests in flight in replicas, averaged over the tick.
    pub in_flight: f64,
    /// Requests that wait, averaged over the tick, or at this moment where that is more.
    pub queued: f64,
    /// Requests that came.
    pub requests: u64,
}

impl Load {
    /// All requests there are at once. What is no number counts as nothing.
    #[must_use]
    pub fn total(&self) -> f64 {
        let sane = |value: f64| {
            if value.is_finite() {
                value.max(0.0)
            } else {
                0.0
            }
        };
        sane(self.in_flight) + sane(self.queued)
    }

    fn is_active(&self) -> bool {
        self.requests > 0 || self.total() > 0.0
    }
}

/// A time of sudden growth, in which replicas are only added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Panic {
    /// When growth was last seen.
    pub since: Instant,
    /// The most replicas that were wanted in it.
    pub most: u32,
}

/// Ticks that followed each other within a second. There are more than one a second where a queue grows, which must not
/// make that second count for more than any other.
#[derive(Debug, Clone, Copy)]
struct Slot {
    /// The last tick, its end and how long it was.
    load: Load,
    at: Instant,
    lasted: Duration,
    /// How long the ticks before it were together, and their load times the seconds of each.
    before: Duration,
    before_sum: f64,
}

impl Slot {
    fn lasted(&self) -> Duration {
        self.before + self.lasted
    }

    /// The load of all its ticks, each times its seconds.
    fn sum(&self) -> f64 {
        self.load.total() * self.lasted.as_secs_f64() + self.before_sum
    }
}

/// What was seen of a function in the last minute, and whether it is a time of sudden growth.
#[derive(Debug, Clone, Default)]
pub struct History {
    slots: VecDeque<Slot>,
    last_active: Option<Instant>,
    panic: Option<Panic>,
}

impl History {
    /// Takes note of a tick that ended at `now`. Ticks come in the order of time; one that comes again at the same
    /// moment replaces the first.
    pub fn record(&mut self, now: Instant, load: Load) {
        if load.is_active() {
            self.last_active = Some(now);
        }
        // Of the first tick it isn't known how long it was.
        let lasted = self.slots.back().map_or(SLOT, |last| {
            now.saturating_duration_since(last.at).min(SLOT)
        });
        match self.slots.back_mut() {
            Some(last) if last.at >= now => last.load = load,
            Some(last) if last.lasted() + lasted <= SLOT => {
                *last = Slot {
                    load,
                    at: now,
                    lasted,
                    before: last.lasted(),
                    before_sum: last.sum(),
                };
            }
            _ => self.slots.push_back(Slot {
                load,
                at: now,
                lasted,
                before: Duration::ZERO,
                before_sum: 0.0,
            }),
        }
        while self
            .slots
            .front()
            .is_some_and(|slot| now.saturating_duration_since(slot.at) >= STABLE_WINDOW)
        {
            self.slots.pop_front();
        }
    }

    /// A replica was made for who waits, before any tick told of them: the function isn't idle from before that on.
    pub fn touch(&mut self, now: Instant) {
        self.last_active = self.last_active.max(Some(now));
    }

    /// Remembers what a decision found.
    pub fn follow(&mut self, decision: &Decision) {
        self.panic = decision.panic;
    }

    /// Whether it is a time of sudden growth, as of the last decision.
    #[must_use]
    pub fn panic(&self) -> Option<Panic> {
        self.panic
    }

    /// How long there was no request, as of `now`; `None` where there never was one.
    #[must_use]
    pub fn quiet(&self, now: Instant) -> Option<Duration> {
        self.last_active
            .map(|last| now.saturating_duration_since(last))
    }

    /// The load of the ticks in the last `window`, averaged by time. They may fill less than the window: a function that
    /// just woke isn't measured by its sleep.
    pub(crate) fn average(&self, now: Instant, window: Duration) -> f64 {
        let recent = self
            .slots
            .iter()
            .rev()
            .take_while(|slot| now.saturating_duration_since(slot.at) < window);
        let (sum, seconds) = recent.fold((0.0, 0.0), |(sum, seconds), slot| {
            (sum + slot.sum(), seconds + slot.lasted().as_secs_f64())
        });
        if seconds > 0.0 { sum / seconds } else { 0.0 }
    }

    /// The load of the last tick, where somebody waits; that isn't averaged away.
    pub(crate) fn waiting(&self, now: Instant) -> Option<f64> {
        let Slot { at, load, .. } = self.slots.back()?;
        (load.queued > 0.0 && now.saturating_duration_since(*at) < PANIC_WINDOW)
            .then(|| load.total())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_secs(1);
    const URGENT: Duration = Duration::from_millis(20);

    fn load(in_flight: f64) -> Load {
        Load {
            in_flight,
            ..Load::default()
        }
    }

    /// Records so many ticks, one after the other.
    fn record(history: &mut History, now: &mut Instant, ticks: u32, each: Duration, load: Load) {
        for _ in 0..ticks {
            *now += each;
            history.record(*now, load);
        }
    }

    /// Would fail if every tick weighed the same: the burst would be 100 of 158 ticks.
    #[test]
    fn a_burst_weighs_as_long_as_it_lasts_however_often_it_is_looked_at() {
        let (mut history, mut now) = (History::default(), Instant::now());
        record(&mut history, &mut now, 58, TICK, load(0.0));
        record(&mut history, &mut now, 100, URGENT, load(60.0));
        let average = history.average(now, STABLE_WINDOW);
        assert!((average - 2.0).abs() < 1e-9, "{average}");
        let sudden = history.average(now, PANIC_WINDOW);
        assert!((sudden - 20.0).abs() < 1e-9, "{sudden}");
        assert!(history.slots.len() <= 61, "{}", history.slots.len());
    }

    /// Would fail if a tick that comes again counted twice, or took with it those that it was put together with.
    #[test]
    fn a_tick_that_comes_again_replaces_the_first_alone() {
        let (mut history, mut now) = (History::default(), Instant::now());
        record(&mut history, &mut now, 1, TICK, load(0.0));
        let half = TICK / 2;
        record(&mut history, &mut now, 1, half, load(8.0));
        record(&mut history, &mut now, 1, half, load(100.0));
        history.record(now, load(4.0));
        assert_eq!(history.slots.len(), 2);
        let average = history.average(now, STABLE_WINDOW);
        assert!((average - 3.0).abs() < 1e-9, "{average}");
    }

    /// Would fail if who waits were averaged with the ticks of the same second.
    #[test]
    fn who_waits_now_is_told_by_the_last_tick_alone() {
        let (mut history, mut now) = (History::default(), Instant::now());
        record(&mut history, &mut now, 3, URGENT, load(1.0));
        let queue = Load {
            queued: 50.0,
            ..load(4.0)
        };
        record(&mut history, &mut now, 1, URGENT, queue);
        assert_eq!(history.waiting(now), Some(54.0));
        record(&mut history, &mut now, 1, URGENT, load(4.0));
        assert_eq!(history.waiting(now), None);
    }

    /// Would fail if a gap of which nothing is known were taken for more of what came after it.
    #[test]
    fn a_gap_weighs_no_more_than_a_tick() {
        let (mut history, mut now) = (History::default(), Instant::now());
        record(&mut history, &mut now, 2, TICK, load(0.0));
        record(&mut history, &mut now, 1, TICK * 30, load(9.0));
        let average = history.average(now, STABLE_WINDOW);
        assert!((average - 3.0).abs() < 1e-9, "{average}");
    }
}
