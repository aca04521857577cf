//! Instances made fresh, or taken from those that wait for their next request.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::failure::Failure;
use crate::instance::{Blueprint, Instance, Left};
use crate::metrics::Metrics;

/// Instances that may exist beside those that have a request: one that is to be dropped, one that is being made, and a
/// fresh one that waits.
pub(crate) const BESIDE: usize = 3;
/// Bytes of an instance's memory beyond which it is dropped at once.
const LARGE: usize = 8 << 20;
/// How long a fresh instance waits for its request: what it found when it began grows old.
const UNUSED: Duration = Duration::from_secs(10);

/// One function's instances, each with one request at a time.
pub(crate) struct Instances {
    blueprint: Arc<Blueprint>,
    reuse: Option<Reuse>,
    /// Those without a request. Where each serves one, it is one at most, and fresh.
    waiting: Mutex<Vec<(Instant, Instance)>>,
    crowd: Crowd,
    /// One that served its request.
    used: Mutex<Option<Instance>>,
    was_used: Notify,
    is_making: AtomicBool,
    metrics: Arc<Metrics>,
}

/// How often an instance that serves one request after another is used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reuse {
    pub(crate) max_requests: u32,
    pub(crate) idle_timeout: Duration,
}

impl Instances {
    pub(crate) fn new(
        blueprint: Arc<Blueprint>,
        reuse: Option<Reuse>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            blueprint,
            reuse,
            waiting: Mutex::default(),
            crowd: Crowd::default(),
            used: Mutex::default(),
            was_used: Notify::new(),
            is_making: AtomicBool::new(false),
            metrics,
        }
    }

    /// How long an instance waits for its next request.
    pub(crate) fn idle_timeout(&self) -> Duration {
        self.reuse.map_or(UNUSED, |reuse| reuse.idle_timeout)
    }

    /// Keeps an instance that nobody needs now, for the first who asks.
    pub(crate) fn keep(&self, mut instance: Instance, now: Instant) {
        instance.store.data_mut().ticking = None;
        lock(&self.waiting).push((now, instance));
    }

    /// An instance for the request `id`: the one that waited shortest, else a fresh one.
    ///
    /// # Errors
    /// As [`Blueprint::instantiate`].
    pub(crate) async fn take(&self, id: &Arc<str>) -> Result<Instance, (Failure, wasmtime::Error)> {
        let waiting = lock(&self.waiting).pop();
        if let Some((_, mut instance)) = waiting {
            let guest = instance.store.data_mut();
            guest.begin(Some(Arc::clone(id)));
            guest.ticking = Some(self.blueprint.seed.ticks.tick());
            return Ok(instance);
        }
        let began = Instant::now();
        let instance = self.blueprint.instantiate(Some(Arc::clone(id))).await?;
        self.metrics.instance_started(began.elapsed());
        Ok(instance)
    }

    /// Takes an instance back whose call ended well, but for what is `left`: to be kept where instances are reused, else to be
    /// dropped. `had_company` says whether other requests are being served, or were just before it.
    pub(crate) fn give_back(&self, mut instance: Instance, left: Left, had_company: bool) {
        if let Some(reuse) = self.reuse {
            // A body that is left could be written to by another request's call, and held open for ever.
            if left == Left::Nothing && instance.served < reuse.max_requests {
                instance.store.data_mut().begin(None);
                self.keep(instance, Instant::now());
            }
            return;
        }
        self.crowd.note(had_company);
        // An instance that one core made and another uses costs more than it saves. So where there are many requests,
        // each makes and drops its own. What is large doesn't wait beside the next one either, nor behind one that takes
        // long to make.
        let is_large = instance.store.data().meter.memory() > LARGE;
        if self.crowd.is_there() || is_large || self.is_making.load(Ordering::Relaxed) {
            return;
        }
        // Lines without an end are logged now.
        instance.store.data_mut().begin(None);
        let mut used = lock(&self.used);
        if used.is_none() {
            *used = Some(instance);
            drop(used);
            self.was_used.notify_one();
        }
    }

    /// Waits until an instance is given back that isn't used again, drops it and makes a fresh one, so that neither is
    /// waited for: not by the client, whose answer is being sent, nor by the next one.
    pub(crate) async fn renew(&self) {
        self.was_used.notified().await;
        if wisp_burst::answers_wait() {
            // They are written once the thread has nothing else to do, and this comes after that.
            tokio::task::yield_now().await;
        }
        let used = lock(&self.used).take();
        drop(used);
        if !lock(&self.waiting).is_empty() {
            return;
        }
        let began = Instant::now();
        self.is_making.store(true, Ordering::Relaxed);
        let made = self.blueprint.instantiate_in_time().await;
        self.is_making.store(false, Ordering::Relaxed);
        // Where none can be made, whoever needs it is told why.
        if let Ok(instance) = made {
            self.metrics.instance_started(began.elapsed());
            self.keep(instance, Instant::now());
        }
    }

    /// Drops those that waited too long.
    pub(crate) fn evict(&self, now: Instant) {
        let idle_timeout = self.idle_timeout();
        let mut waiting = lock(&self.waiting);
        // The one that waits longest is at the front.
        let expired = waiting
            .partition_point(|(since, _)| now.saturating_duration_since(*since) >= idle_timeout);
        let expired: Vec<_> = waiting.drain(..expired).collect();
        drop(waiting);
        drop(expired);
    }
}

/// Whether at least a quarter of the requests had company of late.
#[derive(Debug, Default)]
struct Crowd(AtomicU32);

impl Crowd {
    /// Each request moves the average by a part of this.
    const MEMORY: u32 = 16;
    const ALL: u32 = 1 << 16;

    fn note(&self, had_company: bool) {
        let average = self.0.load(Ordering::Relaxed);
        let now = if had_company { Self::ALL } else { 0 };
        let moved = average - average / Self::MEMORY + now / Self::MEMORY;
        // Two at once: one of them isn't counted.
        self.0.store(moved, Ordering::Relaxed);
    }

    fn is_there(&self) -> bool {
        self.0.load(Ordering::Relaxed) > Self::ALL / 4
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_there_after_a_few_requests_and_gone_after_some() {
        let crowd = Crowd::default();
        crowd.note(true);
        crowd.note(false);
        assert!(!crowd.is_there(), "two at once are none");
        (0..1000).for_each(|_| crowd.note(true));
        assert!(crowd.is_there());
        (0..10).for_each(|_| crowd.note(false));
        assert!(crowd.is_there(), "it was for long");
        (0..30).for_each(|_| crowd.note(false));
        assert!(!crowd.is_there());
        // Two cores serve whoever comes: half of them alone.
        (0..1000).for_each(|number| crowd.note(number % 2 == 0));
        assert!(crowd.is_there());
    }
}
