//! What has a model done so far?

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of [`Snapshot::batch_sizes`]' buckets; one more holds what is larger.
pub const BATCH_SIZE_BUCKETS: [u64; 8] = [1, 2, 4, 8, 16, 32, 64, 128];

/// Counters of one model, since it was loaded.
#[derive(Debug, Default)]
pub struct Metrics {
    items: AtomicU64,
    batches: AtomicU64,
    batch_items: AtomicU64,
    batch_sizes: [AtomicU64; BATCH_SIZE_BUCKETS.len() + 1],
    failed: AtomicU64,
    cancelled: AtomicU64,
    rejected: AtomicU64,
    reruns: AtomicU64,
    queue_nanos: AtomicU64,
    compute_nanos: AtomicU64,
    queued: AtomicU64,
}

/// [`Metrics`] at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Items that were computed, failed ones included.
    pub items: u64,
    /// Batches that were computed, or begun, those included that are parts of one that failed.
    pub batches: u64,
    /// Items in these batches: each as often as it was in one.
    pub batch_items: u64,
    /// Batches by number of items, in the buckets of [`BATCH_SIZE_BUCKETS`] and one above. Not cumulative.
    pub batch_sizes: [u64; BATCH_SIZE_BUCKETS.len() + 1],
    /// Items that failed.
    pub failed: u64,
    /// Items whose caller went before they were computed, or while they were.
    pub cancelled: u64,
    /// Items that found the queue full.
    pub rejected: u64,
    /// Items that were computed again, because their batch failed; each as often as it was.
    pub reruns: u64,
    /// Time that items waited, all together.
    pub queue_time: Duration,
    /// Time that batches took, all together.
    pub compute_time: Duration,
    /// Items that wait now.
    pub queued: u64,
}

impl Metrics {
    /// Their values now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut batch_sizes = [0; BATCH_SIZE_BUCKETS.len() + 1];
        for (to, from) in batch_sizes.iter_mut().zip(&self.batch_sizes) {
            *to = from.load(Relaxed);
        }
        Snapshot {
            items: self.items.load(Relaxed),
            batches: self.batches.load(Relaxed),
            batch_items: self.batch_items.load(Relaxed),
            batch_sizes,
            failed: self.failed.load(Relaxed),
            cancelled: self.cancelled.load(Relaxed),
            rejected: self.rejected.load(Relaxed),
            reruns: self.reruns.load(Relaxed),
            queue_time: Duration::from_nanos(self.queue_nanos.load(Relaxed)),
            compute_time: Duration::from_nanos(self.compute_nanos.load(Relaxed)),
            queued: self.queued.load(Relaxed),
        }
    }

    pub(crate) fn batch(&self, items: usize, took: Duration) {
        self.batches.fetch_add(1, Relaxed);
        self.batch_items.fetch_add(items as u64, Relaxed);
        self.compute_nanos.fetch_add(nanos(took), Relaxed);
        let bucket = BATCH_SIZE_BUCKETS.partition_point(|bound| *bound < items as u64);
        if let Some(count) = self.batch_sizes.get(bucket) {
            count.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn waited(&self, time: Duration) {
        self.queue_nanos.fetch_add(nanos(time), Relaxed);
    }

    pub(crate) fn done(&self, ok: bool) {
        self.items.fetch_add(1, Relaxed);
        if !ok {
            self.failed.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn cancelled(&self) {
        self.cancelled.fetch_add(1, Relaxed);
    }

    pub(crate) fn rejected(&self) {
        self.rejected.fetch_add(1, Relaxed);
    }

    pub(crate) fn rerun(&self, items: usize) {
        self.reruns.fetch_add(items as u64, Relaxed);
    }

    pub(crate) fn queued(&self, count: usize) {
        self.queued.store(count as u64, Relaxed);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
