//! How long does a row take?
//!
//! Callers choose the sizes of rows where a model leaves them open, and a long text takes a hundred times as long as a
//! short one: what one size takes says little about another.

use std::num::NonZeroU64;
use std::time::Duration;

/// The weight of the newest batch in a moving time: 1/8.
const WEIGHT: u32 = 8;

/// Bytes of all inputs of a row, at least one.
pub(crate) type RowBytes = NonZeroU64;

/// What rows took, by the power of two that their size has reached, and of one that is just as large.
#[derive(Debug)]
pub(crate) struct RowTimes([Option<Duration>; u64::BITS as usize]);

impl RowTimes {
    pub(crate) const fn new() -> Self {
        Self([None; u64::BITS as usize])
    }

    /// What a row of this size is expected to take: as its bytes are to those of the nearest size that is known. `None`
    /// where nothing is.
    pub(crate) fn of(&self, row: RowBytes) -> Option<Duration> {
        let power = row.ilog2();
        let time = self.at(power).map(|time| (power, time));
        let (power, time) = time.or_else(|| {
            let known = (0..).zip(&self.0);
            let known = known.filter_map(|(power, time)| Some((power, (*time)?)));
            known.min_by_key(|(other, _): &(u32, _)| other.abs_diff(power))
        })?;
        Some(scaled(time, row.get(), 1 << power))
    }

    /// Rows of this size took so long each.
    pub(crate) fn took(&mut self, row: RowBytes, each: Duration) {
        let before = self.at(row.ilog2()).and_then(|_| self.of(row));
        // Something is prepared for the first batch, and a row costs less among more: what is shorter counts at once.
        let time = before.map_or(each, |before| moved(before, each).min(each));
        self.set(row, time);
    }

    /// Rows of this size took so long each, and were not done.
    pub(crate) fn took_at_least(&mut self, row: RowBytes, each: Duration) {
        self.set(row, self.of(row).map_or(each, |time| time.max(each)));
    }

    fn at(&self, power: u32) -> Option<Duration> {
        *self.0.get(power as usize)?
    }

    fn set(&mut self, row: RowBytes, time: Duration) {
        let power = row.ilog2();
        if let Some(place) = self.0.get_mut(power as usize) {
            *place = Some(scaled(time, 1 << power, row.get()));
        }
    }
}

/// `time` for `this` where it was for `that`.
fn scaled(time: Duration, this: u64, that: u64) -> Duration {
    let nanos = time.as_nanos().saturating_mul(u128::from(this));
    let nanos = nanos.checked_div(u128::from(that)).unwrap_or(0);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// The moving average after one more.
pub(crate) fn moved(average: Duration, newest: Duration) -> Duration {
    if average.is_zero() {
        newest
    } else {
        average.saturating_mul(WEIGHT - 1).saturating_add(newest) / WEIGHT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn bytes(count: u64) -> RowBytes {
        RowBytes::new(count).unwrap()
    }

    /// Would fail if what one size takes were forgotten, or believed to be less, for what another does.
    #[test]
    fn each_size_has_a_time_and_one_that_has_none_is_guessed_from_the_nearest() {
        let mut times = RowTimes::new();
        assert_eq!(times.of(bytes(1)), None);
        times.took(bytes(64), 4 * MS);
        assert_eq!(times.of(bytes(64)), Some(4 * MS));
        assert_eq!(times.of(bytes(96)), Some(6 * MS));
        assert_eq!(times.of(bytes(16)), Some(MS));
        assert_eq!(times.of(bytes(4096)), Some(256 * MS));
        // Twice as long may take four times as long.
        times.took(bytes(4096), 3000 * MS);
        times.took(bytes(64), 2 * MS);
        assert_eq!(times.of(bytes(4096)), Some(3000 * MS));
        assert_eq!(times.of(bytes(8192)), Some(6000 * MS));
        assert_eq!(times.of(bytes(128)), Some(4 * MS));
        let longest = times.of(bytes(u64::MAX)).unwrap();
        assert!(longest > Duration::from_secs(3600), "{longest:?}");
    }

    /// Would fail if what nobody waited for to its end passed for fast.
    #[test]
    fn what_was_broken_off_only_moves_a_time_up() {
        let mut times = RowTimes::new();
        times.took_at_least(bytes(8), 20 * MS);
        assert_eq!(times.of(bytes(8)), Some(20 * MS));
        times.took_at_least(bytes(8), 10 * MS);
        assert_eq!(times.of(bytes(8)), Some(20 * MS));
        times.took_at_least(bytes(16), 10 * MS);
        assert_eq!(times.of(bytes(16)), Some(40 * MS));
        times.took(bytes(16), 10 * MS);
        assert_eq!(times.of(bytes(16)), Some(10 * MS));
    }

    /// Would fail if rows were too many for long because one was slow, or too few because one was fast.
    #[test]
    fn a_time_moves_down_at_once_and_up_by_an_eighth() {
        let mut times = RowTimes::new();
        for (took, then) in [(80, 80), (40, 40), (120, 50), (0, 0), (7, 7)] {
            times.took(bytes(3), took * MS);
            let time = times.of(bytes(3)).unwrap();
            assert!(
                time.abs_diff(then * MS) <= Duration::from_nanos(8),
                "{time:?}"
            );
        }
    }
}
