//! What was seen of a function in the last minute.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::decide::Decision;

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

/// What was seen of a function in the last minute, and whether it is a time of sudden growth.
#[derive(Debug, Clone, Default)]
pub struct History {
    samples: VecDeque<(Instant, Load)>,
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
        match self.samples.back_mut() {
            Some((at, last)) if *at >= now => *last = load,
            _ => self.samples.push_back((now, load)),
        }
        while self
            .samples
            .front()
            .is_some_and(|(at, _)| now.saturating_duration_since(*at) >= STABLE_WINDOW)
        {
            self.samples.pop_front();
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

    /// The average load of the ticks in the last `window`, of which there may be fewer than it has room for: a
    /// function that just woke isn't measured by its sleep.
    pub(crate) fn average(&self, now: Instant, window: Duration) -> f64 {
        let recent = self
            .samples
            .iter()
            .rev()
            .take_while(|(at, _)| now.saturating_duration_since(*at) < window);
        let (sum, count) = recent.fold((0.0, 0_u32), |(sum, count), (_, load)| {
            (sum + load.total(), count.saturating_add(1))
        });
        if count == 0 {
            0.0
        } else {
            sum / f64::from(count)
        }
    }

    /// The load of the last tick, where somebody waits; that isn't averaged away.
    pub(crate) fn waiting(&self, now: Instant) -> Option<f64> {
        let (at, load) = self.samples.back()?;
        (load.queued > 0.0 && now.saturating_duration_since(*at) < PANIC_WINDOW)
            .then(|| load.total())
    }
}
