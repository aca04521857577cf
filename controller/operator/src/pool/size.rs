//! How many pods stand by: as many as were wanted at once of late.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So long it takes to have a pod in the place of one that was taken, on a busy node. Who is woken meanwhile finds only
/// what stood by before.
const REFILL: Duration = Duration::from_secs(5);
/// So long it is remembered that functions were woken.
const HORIZON: Duration = Duration::from_secs(600);
/// The most wake-ups that are remembered.
const MOST: usize = 4096;

/// When functions were woken that could have taken a pod of a pool, whether or not there was one.
#[derive(Debug, Default)]
pub(super) struct Wakes {
    at: VecDeque<Instant>,
    /// How many stood by when nothing else was known.
    assumed: Option<(Instant, u32)>,
}

impl Wakes {
    /// A function was woken.
    pub(super) fn record(&mut self, now: Instant) {
        if self.at.len() == MOST {
            self.at.pop_front();
        }
        self.at.push_back(now);
    }

    /// So many stood by at `now`, and nothing else is known: only the first word counts.
    pub(super) fn assume(&mut self, now: Instant, standing: u32) {
        self.assumed.get_or_insert((now, standing));
    }

    /// The pods that should stand by at `now`: the most wake-ups in any [`REFILL`] of the last [`HORIZON`], or what was
    /// assumed in it, at least `min` and at most `max`.
    pub(super) fn size(&mut self, now: Instant, min: u32, max: u32) -> u32 {
        while self
            .at
            .front()
            .is_some_and(|at| now.saturating_duration_since(*at) > HORIZON)
        {
            self.at.pop_front();
        }
        let mut most = 0_usize;
        let mut first = 0_usize;
        for (index, at) in self.at.iter().enumerate() {
            while self
                .at
                .get(first)
                .is_some_and(|begin| at.saturating_duration_since(*begin) >= REFILL)
            {
                first += 1;
            }
            most = most.max(index - first + 1);
        }
        let assumed = self
            .assumed
            .filter(|(at, _)| now.saturating_duration_since(*at) <= HORIZON)
            .map_or(0, |(_, standing)| standing);
        u32::try_from(most)
            .unwrap_or(u32::MAX)
            .max(assumed)
            .clamp(min, max.max(min))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wakes(start: Instant, millis: &[u64]) -> Wakes {
        let mut wakes = Wakes::default();
        for after in millis {
            wakes.record(start + Duration::from_millis(*after));
        }
        wakes
    }

    #[test]
    fn what_comes_at_once_stands_by_thereafter_and_is_forgotten_in_the_end() {
        let start = Instant::now();
        let mut wakes = wakes(start, &[0, 100, 200, 4999, 5000, 20_000]);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(wakes.size(at(21), 1, 10), 4);
        assert_eq!(wakes.size(at(21), 1, 2), 2);
        assert_eq!(wakes.size(at(21), 7, 10), 7);
        // Only the last one is left.
        assert_eq!(wakes.size(at(610), 0, 10), 1);
        assert_eq!(wakes.size(at(700), 0, 10), 0);
    }

    /// Would fail if a new operator took the pods away that the one before had made for what comes at once.
    #[test]
    fn what_stood_by_is_kept_for_as_long_as_if_it_had_been_seen() {
        let (mut wakes, start) = (Wakes::default(), Instant::now());
        wakes.assume(start, 4);
        // They are no more than were wanted.
        wakes.record(start);
        let at = |seconds| start + Duration::from_secs(seconds);
        // What came later was known.
        wakes.assume(at(1), 9);
        assert_eq!(wakes.size(at(600), 1, 10), 4);
        assert_eq!(wakes.size(at(601), 1, 10), 1);
    }

    proptest! {
        #[test]
        fn it_is_within_its_bounds_and_no_more_than_there_were(gaps in prop::collection::vec(0..20_000_u64, 0..100), min in 0..5_u32, more in 0..20_u32) {
            let start = Instant::now();
            let mut now = start;
            let mut wakes = Wakes::default();
            for gap in &gaps {
                now += Duration::from_millis(*gap);
                wakes.record(now);
            }
            let size = wakes.size(now, min, min + more);
            prop_assert!((min..=min + more).contains(&size));
            prop_assert!(size <= min.max(u32::try_from(gaps.len()).unwrap()));
        }
    }
}
