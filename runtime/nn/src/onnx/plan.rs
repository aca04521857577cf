//! How many sessions and threads does a model get on the CPU?

use std::num::NonZeroUsize;
use std::time::Duration;

use super::probe::Pace;
use crate::batch::LONGEST_BATCH;

/// Copies of a model's weights that sessions may hold together, in bytes of its file.
const COPIES: u64 = 512 << 20;
/// The most sessions of one model.
const SESSIONS: usize = 8;

/// Sessions of one model, and threads of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Sessions, each with a thread and a copy of the weights of its own.
    pub sessions: usize,
    /// Threads that each uses for one operator, its own included. They never spin.
    pub threads: usize,
}

/// Splits `cores` between sessions and their threads.
///
/// One thread per session computes most calls per second, because it never waits for another; more threads per
/// session answer a single call sooner. A model whose calls are joined gets its parallelism from within the batch: one
/// session with all cores, up to eight. Calls are only joined where a trial shows that it pays. Another gets a session
/// per core, at most eight, and no more than hold 512 MiB of weights together; the cores are shared out among them. It
/// gets one more, with all cores, for calls that are alone, where those are answered sooner by it and the weights stay
/// within that bound.
#[must_use]
pub fn plan(cores: NonZeroUsize, joined: bool, file_bytes: u64) -> Plan {
    let cores = cores.get();
    let sessions = if joined {
        1
    } else {
        cores.min(SESSIONS).min(affordable(file_bytes).max(1))
    };
    let threads = (cores / sessions).clamp(1, 8);
    Plan { sessions, threads }
}

/// Whether joining calls beats computing them side by side in `sessions`, on the CPU.
///
/// Small models gain much: most of their time goes into being called. Large ones fill the cores with one row already,
/// and a batch of theirs only outgrows the caches: EfficientNet-Lite0 answers 107 calls per second joined and 190
/// in two sessions, on two cores. Of slow ones only as many rows are joined as are computed within a second.
pub(crate) fn pays(pace: Pace, sessions: usize) -> Result<(), String> {
    let Pace {
        one_row,
        eight_rows,
    } = pace;
    let each_more = eight_rows.saturating_sub(one_row) / 7;
    let of_rows = |rows: u32| one_row.saturating_add(each_more.saturating_mul(rows - 1));
    let rows = (1..=8).rev().find(|rows| of_rows(*rows) <= LONGEST_BATCH);
    let rows = rows.unwrap_or(1);
    // Sessions side by side don't double what one with all cores does: it uses them, too.
    let share = if sessions > 1 { 0.6 } else { 0.9 };
    if of_rows(rows).as_secs_f64() <= share * f64::from(rows) * one_row.as_secs_f64() {
        Ok(())
    } else {
        Err(format!(
            "it doesn't pay on this CPU: one row takes {one_row:.1?}, eight together {eight_rows:.1?}"
        ))
    }
}

/// The most rows that a GPU gets at once where each size has buffers of its own.
const MOST_ROWS: u64 = 64;
/// Buffers of one size, in bytes.
const LARGEST_BUFFERS: u64 = 64 << 20;

/// The sizes of batches that a GPU computes, in rows: powers of two, and `max_rows`, unless that is many or a row is large.
/// Others are filled up to the next. A row has so many bytes, inputs and outputs together.
pub(crate) fn sizes(max_rows: u64, row_bytes: u64) -> Vec<u64> {
    let fit = LARGEST_BUFFERS / row_bytes.max(1);
    let most = max_rows.min(MOST_ROWS).min(fit).max(1);
    let mut sizes: Vec<u64> = (0..7).map(|power| 1 << power).collect();
    sizes.retain(|size| *size < most);
    sizes.push(most);
    sizes
}

/// Whether there is room for one more session than these.
pub(crate) fn may_spread(sessions: usize, file_bytes: u64) -> bool {
    sessions < affordable(file_bytes)
}

/// How many sessions may hold a copy of the weights each.
fn affordable(file_bytes: u64) -> usize {
    usize::try_from(COPIES / file_bytes.max(1)).unwrap_or(usize::MAX)
}

/// Whether a session with all cores is worth its memory, for rows that are alone. Small models lose by it: their threads
/// wait for each other longer than they compute.
pub(crate) fn spreads(all_cores: Duration, one_lane: Duration) -> bool {
    all_cores.as_secs_f64() <= 0.8 * one_lane.as_secs_f64()
}

/// Whether a row may be computed on the thread that asks for it, which serves others, too: it is done sooner than that
/// thread would have handed it over and got it back, and a guest may compute for longer without a pause.
pub(crate) fn is_inline(takes: Duration) -> bool {
    takes <= Duration::from_micros(200)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_shared_out() {
        let plan = |cores, joined, mib: u64| {
            let Plan { sessions, threads } =
                super::plan(NonZeroUsize::new(cores).unwrap(), joined, mib << 20);
            (sessions, threads)
        };
        assert_eq!(plan(1, true, 1), (1, 1));
        assert_eq!(plan(4, true, 1), (1, 4));
        assert_eq!(plan(64, true, 1), (1, 8));
        assert_eq!(plan(4, false, 1), (4, 1));
        assert_eq!(plan(16, false, 1), (8, 2));
        assert_eq!(plan(8, false, 256), (2, 4));
        assert_eq!(plan(8, false, 4096), (1, 8));
    }

    #[test]
    fn a_gpu_computes_batches_of_few_sizes() {
        assert_eq!(sizes(1, 4), [1]);
        assert_eq!(sizes(16, 602_112), [1, 2, 4, 8, 16]);
        assert_eq!(sizes(12, 4), [1, 2, 4, 8, 12]);
        assert_eq!(sizes(1000, 4), [1, 2, 4, 8, 16, 32, 64]);
        assert_eq!(sizes(1000, 20 << 20), [1, 2, 3]);
        assert_eq!(sizes(1000, u64::MAX), [1]);
        assert_eq!(sizes(0, 0), [1]);
    }

    #[test]
    fn all_cores_are_for_those_who_gain_and_fit() {
        let ms = Duration::from_millis;
        assert!(spreads(ms(8), ms(14)));
        assert!(!spreads(ms(12), ms(14)));
        assert!(may_spread(2, 128 << 20));
        assert!(!may_spread(2, 256 << 20));
    }

    #[test]
    fn joining_must_beat_sessions_side_by_side() {
        let pace = |one: u64, eight: u64| Pace {
            one_row: Duration::from_micros(one),
            eight_rows: Duration::from_micros(eight),
        };
        assert_eq!(pays(pace(60, 110), 2), Ok(()));
        let why = pays(pace(10_000, 64_000), 2).unwrap_err();
        assert_eq!(
            why,
            "it doesn't pay on this CPU: one row takes 10.0ms, eight together 64.0ms"
        );
        // With one session there is nothing to be side by side with.
        assert_eq!(pays(pace(10_000, 64_000), 1), Ok(()));
        // Five rows are all that a second is enough for, and two.
        assert_eq!(pays(pace(600_000, 1_300_000), 2), Ok(()));
        assert!(pays(pace(600_000, 3_000_000), 2).is_err());
        // Eight rows would gain, but there is time for one.
        assert!(pays(pace(900_000, 2_000_000), 1).is_err());
    }
}
