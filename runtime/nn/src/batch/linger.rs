//! How long does a lane wait for company, and for how much?

use std::time::{Duration, Instant};

use super::row_time::{RowBytes, RowTimes, moved};

/// The part of a batch's time that is worth waiting for more items: 1/32, about 3 %.
const SHARE: u32 = 32;

/// Rows are joined while they are expected to be computed within this: the first of them waits for the last.
pub(crate) const LONGEST_BATCH: Duration = Duration::from_secs(1);

/// What a lane sees when it asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    /// Since when the first item could have been computed: its arrival, or when the lane became free, the later one.
    pub(crate) since: Instant,
    /// Rows that could be joined now.
    pub(crate) rows: u64,
    /// The most rows in one batch.
    pub(crate) max_rows: u64,
    /// Batches that other lanes compute.
    pub(crate) running: usize,
}

/// What it should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Compute what there is.
    Go,
    /// Ask again at this time, or when a batch is full.
    Wait(Instant),
}

/// A batch that was computed, or begun.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Computed {
    pub(crate) items: usize,
    pub(crate) rows: u64,
    /// What each row has; `None` of an item that can't be joined, whose rows may be none.
    pub(crate) row: Option<RowBytes>,
    pub(crate) took: Took,
}

/// How long a batch took.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Took {
    /// From its beginning to its end.
    All(Duration),
    /// So long, and more: it was broken off, because nobody waited any more.
    AtLeast(Duration),
}

/// What the batches so far tell about the next one.
#[derive(Debug)]
pub(crate) struct Linger {
    max_delay: Duration,
    batch_time: Duration,
    last_items: usize,
    row_times: RowTimes,
}

impl Linger {
    pub(crate) fn new(max_delay: Duration) -> Self {
        Self {
            max_delay,
            batch_time: Duration::ZERO,
            last_items: 0,
            row_times: RowTimes::new(),
        }
    }

    /// A batch was computed, or broken off.
    pub(crate) fn computed(&mut self, batch: Computed) {
        let rows = u32::try_from(batch.rows.max(1)).unwrap_or(u32::MAX);
        match (batch.took, batch.row) {
            (Took::All(took), row) => {
                self.last_items = batch.items;
                self.batch_time = moved(self.batch_time, took);
                if let Some(row) = row {
                    self.row_times.took(row, took / rows);
                }
            }
            // Were nothing learnt of it, the next one would be as large.
            (Took::AtLeast(took), Some(row)) => self.row_times.took_at_least(row, took / rows),
            (Took::AtLeast(_), None) => {}
        }
    }

    /// The most rows of this size that are joined, of those that may be.
    pub(crate) fn most_rows(&self, row: RowBytes, max_rows: u64) -> u64 {
        let row_time = self.row_times.of(row).unwrap_or_default();
        let fit = LONGEST_BATCH
            .as_nanos()
            .checked_div(row_time.as_nanos())
            .unwrap_or(u128::MAX);
        max_rows.min(u64::try_from(fit).unwrap_or(u64::MAX).max(1))
    }

    /// Waits only where company is likely: the last batch had several items, or others are being computed.
    /// A caller that is alone never waits.
    pub(crate) fn decide(&self, now: Instant, view: View) -> Decision {
        let company = self.last_items > 1 || view.running > 0;
        if !company || view.rows >= view.max_rows {
            return Decision::Go;
        }
        let until = view.since + (self.batch_time / SHARE).min(self.max_delay);
        if now >= until {
            Decision::Go
        } else {
            Decision::Wait(until)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    const ROW: RowBytes = RowBytes::MIN;

    fn batch(items: usize, rows: u64, took: Duration) -> Computed {
        Computed {
            items,
            rows,
            row: Some(ROW),
            took: Took::All(took),
        }
    }

    fn view(since: Instant) -> View {
        View {
            since,
            rows: 1,
            max_rows: 8,
            running: 0,
        }
    }

    #[test]
    fn a_caller_that_is_alone_never_waits() {
        let now = Instant::now();
        let mut linger = Linger::new(2 * MS);
        assert_eq!(linger.decide(now, view(now)), Decision::Go);
        linger.computed(batch(1, 1, 320 * MS));
        assert_eq!(linger.decide(now, view(now)), Decision::Go);
    }

    #[test]
    fn with_company_it_waits_a_thirty_second_of_the_batch_time() {
        let now = Instant::now();
        let mut linger = Linger::new(2 * MS);
        linger.computed(batch(4, 4, 32 * MS));
        assert_eq!(linger.decide(now, view(now)), Decision::Wait(now + MS));
        assert_eq!(linger.decide(now + MS, view(now)), Decision::Go);
    }

    #[test]
    fn never_longer_than_the_limit_and_not_at_all_when_full() {
        let now = Instant::now();
        let mut linger = Linger::new(2 * MS);
        linger.computed(batch(4, 4, 3200 * MS));
        assert_eq!(linger.decide(now, view(now)), Decision::Wait(now + 2 * MS));
        assert_eq!(
            linger.decide(
                now,
                View {
                    rows: 8,
                    ..view(now)
                }
            ),
            Decision::Go
        );
    }

    #[test]
    fn batches_in_flight_count_as_company() {
        let now = Instant::now();
        let mut linger = Linger::new(2 * MS);
        linger.computed(batch(1, 1, 32 * MS));
        assert_eq!(
            linger.decide(
                now,
                View {
                    running: 1,
                    ..view(now)
                }
            ),
            Decision::Wait(now + MS)
        );
    }

    #[test]
    fn the_batch_time_moves_by_an_eighth() {
        let now = Instant::now();
        let mut linger = Linger::new(1000 * MS);
        linger.computed(batch(2, 2, 320 * MS));
        linger.computed(batch(2, 2, 640 * MS));
        assert_eq!(
            linger.decide(now, view(now)),
            Decision::Wait(now + 360 * MS / 32)
        );
    }

    #[test]
    fn a_limit_of_zero_turns_waiting_off() {
        let now = Instant::now();
        let mut linger = Linger::new(Duration::ZERO);
        linger.computed(batch(8, 8, 320 * MS));
        assert_eq!(linger.decide(now, view(now)), Decision::Go);
    }

    /// Would fail if slow rows were joined until the first waits for seconds, or fast ones weren't because once, to begin
    /// with, they were slow.
    #[test]
    fn slow_rows_are_joined_while_a_second_is_enough() {
        let mut linger = Linger::new(2 * MS);
        assert_eq!(linger.most_rows(ROW, 32), 32);
        linger.computed(batch(1, 1, 3000 * MS));
        assert_eq!(linger.most_rows(ROW, 32), 1, "never none");
        linger.computed(batch(1, 1, 200 * MS));
        assert_eq!(linger.most_rows(ROW, 32), 5);
        linger.computed(batch(1, 5, 250 * MS));
        assert_eq!(linger.most_rows(ROW, 32), 20);
        assert_eq!(linger.most_rows(ROW, 8), 8);
        linger.computed(batch(1, 1, 450 * MS));
        assert_eq!(linger.most_rows(ROW, 32), 10, "an eighth of the way up");
        linger.computed(batch(1, 1, Duration::ZERO));
        assert_eq!(linger.most_rows(ROW, 32), 32);
    }

    /// Would fail if a call that is none of a batch, such as `[4294967295, 0]`, said what rows take.
    #[test]
    fn what_cant_be_joined_says_nothing_about_rows() {
        let mut linger = Linger::new(2 * MS);
        linger.computed(batch(1, 1, 500 * MS));
        linger.computed(Computed {
            row: None,
            ..batch(1, u64::MAX, MS)
        });
        assert_eq!(linger.most_rows(ROW, 32), 2);
    }
}
