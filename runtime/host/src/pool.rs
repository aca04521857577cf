//! Instances made fresh, or taken from those that wait for their next request.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::instance::{Blueprint, Instance};
use crate::metrics::Metrics;

/// One function's instances, each with one request at a time.
pub(crate) struct Instances {
    blueprint: Arc<Blueprint>,
    reuse: Option<Reuse>,
    waiting: Mutex<Vec<(Instant, Instance)>>,
    /// Whether one waits that served nobody: fresh to whoever takes it.
    has_unused: AtomicBool,
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
            has_unused: AtomicBool::new(false),
            metrics,
        }
    }

    /// How long an instance waits for its next request; `None` where each serves one.
    pub(crate) fn idle_timeout(&self) -> Option<Duration> {
        self.reuse.map(|reuse| reuse.idle_timeout)
    }

    /// Keeps an instance that served nobody yet, for the first who asks.
    pub(crate) fn keep(&self, instance: Instance, now: Instant) {
        self.waiting().push((now, instance));
        self.has_unused.store(true, Ordering::Release);
    }

    /// Drops those that served nobody, where each serves one request: what they found when they began grows old.
    pub(crate) fn drop_unused(&self) {
        if self.reuse.is_none() {
            let unused = std::mem::take(&mut *self.waiting());
            drop(unused);
        }
    }

    /// An instance for the request `id`: the one that waited shortest, else a fresh one.
    ///
    /// # Errors
    /// As [`Blueprint::instantiate`].
    pub(crate) async fn take(&self, id: &Arc<str>) -> Result<Instance, (Failure, wasmtime::Error)> {
        let may_wait = self.reuse.is_some()
            || (self.has_unused.load(Ordering::Relaxed)
                && self.has_unused.swap(false, Ordering::Acquire));
        if may_wait && let Some((_, mut instance)) = self.waiting().pop() {
            instance.store.data_mut().begin(Some(Arc::clone(id)));
            return Ok(instance);
        }
        let began = Instant::now();
        let instance = self.blueprint.instantiate(Some(Arc::clone(id))).await?;
        self.metrics.instance_started(began.elapsed());
        Ok(instance)
    }

    /// Takes an instance back whose call ended well, and keeps it where instances are reused.
    pub(crate) fn give_back(&self, mut instance: Instance, now: Instant) {
        if self
            .reuse
            .is_some_and(|reuse| instance.served < reuse.max_requests)
        {
            instance.store.data_mut().begin(None);
            self.waiting().push((now, instance));
        }
    }

    /// Drops those that waited too long.
    pub(crate) fn evict(&self, now: Instant) {
        let Some(reuse) = self.reuse else { return };
        let mut waiting = self.waiting();
        // The one that waits longest is at the front.
        let expired = waiting.partition_point(|(since, _)| {
            now.saturating_duration_since(*since) >= reuse.idle_timeout
        });
        let expired: Vec<_> = waiting.drain(..expired).collect();
        drop(waiting);
        drop(expired);
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<(Instant, Instance)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
