//! How many run, how many wait, and who is next.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

#[cfg(test)]
mod tests;

/// What a [`Limiter`] allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How many may run at once. 0: everyone waits until [`Limiter::set_in_flight`] raises it.
    pub in_flight: u32,
    /// How many may wait beyond those.
    pub queue: u32,
    /// How many bytes those who wait may declare together.
    pub queue_bytes: u64,
}

/// Why a place was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// As many wait as may.
    #[error("the queue is full: {allowed} may wait")]
    QueueFull {
        /// How many may wait.
        allowed: u32,
    },
    /// Those who wait hold as many bytes as they may.
    #[error("the queue is full: those who wait may hold {allowed} bytes together")]
    QueueBytesFull {
        /// How many bytes those who wait may hold together.
        allowed: u64,
    },
    /// No place became free before the deadline.
    #[error("no place became free before the deadline")]
    DeadlinePassed,
    /// The limiter was closed.
    #[error("no more work is taken")]
    Closed,
}

impl Refused {
    /// A stable word for metrics and problem bodies.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::QueueFull { .. } => "queue-full",
            Self::QueueBytesFull { .. } => "queue-bytes-full",
            Self::DeadlinePassed => "queue-deadline",
            Self::Closed => "closed",
        }
    }
}

/// How much runs and waits, read at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Permits that are out.
    pub in_flight: u32,
    /// Those who wait for one.
    pub queued: u32,
}

/// Bounds work in flight and work that waits. Clones share one set of places.
///
/// Places go out in the order of arrival, and dropping a future that waits takes it out of the queue. While nobody
/// waits, taking a place and giving it back is one compare-and-swap each.
#[derive(Debug, Clone)]
pub struct Limiter {
    shared: Arc<Shared>,
}

/// A place. It is given back, or passed on to who waits longest, when this is dropped.
#[derive(Debug)]
pub struct Permit {
    shared: Arc<Shared>,
    waited: Duration,
}

#[derive(Debug)]
struct Shared {
    /// How many wait (upper half) and how many run (lower half): one word, so that neither changes unseen between
    /// looking at one and at the other. Only who holds `queue` changes the upper half.
    counts: AtomicU64,
    in_flight: AtomicU32,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    closed: bool,
    allowed: u32,
    allowed_bytes: u64,
    next: u64,
    bytes: u64,
    waiting: BTreeMap<u64, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    bytes: u64,
    grant: oneshot::Sender<Permit>,
}

const ONE_QUEUED: u64 = 1 << 32;

fn load(counts: u64) -> Load {
    Load {
        in_flight: u32::try_from(counts & u64::from(u32::MAX)).unwrap_or(u32::MAX),
        queued: u32::try_from(counts >> 32).unwrap_or(u32::MAX),
    }
}

impl Limiter {
    /// A limiter with every place free.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let shared = Shared {
            counts: AtomicU64::new(0),
            in_flight: AtomicU32::new(limits.in_flight),
            queue: Mutex::new(Queue {
                allowed: limits.queue,
                allowed_bytes: limits.queue_bytes,
                ..Queue::default()
            }),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Takes a place if one is free and nobody waits for it.
    #[must_use]
    pub fn try_acquire(&self) -> Option<Permit> {
        self.shared
            .count(|counts| (load(counts).queued == 0).then_some(counts + 1))
            .then(|| self.shared.permit())
    }

    /// Takes a place, waiting for it until `deadline` where none is free. `bytes` is what the work occupies while it
    /// waits: the declared length of a request's body.
    ///
    /// # Errors
    /// [`Refused`] at once where the queue has no room or the limiter is closed, and when `deadline` passes.
    pub async fn acquire(&self, bytes: u64, deadline: Instant) -> Result<Permit, Refused> {
        if let Some(permit) = self.try_acquire() {
            return Ok(permit);
        }
        let since = Instant::now();
        let (id, granted) = match self.shared.enter(bytes)? {
            Entered::Place(permit) => return Ok(permit),
            Entered::Queue(id, granted) => (id, granted),
        };
        // Leaves the queue whichever way this future ends.
        let _leave = Leave {
            shared: &self.shared,
            id,
        };
        match tokio::time::timeout_at(deadline, granted).await {
            Ok(Ok(mut permit)) => {
                permit.waited = since.elapsed();
                Ok(permit)
            }
            Ok(Err(_closed)) => Err(Refused::Closed),
            Err(_elapsed) => Err(Refused::DeadlinePassed),
        }
    }

    /// Changes how many may run at once. Places that are out stay out; who waits moves up.
    pub fn set_in_flight(&self, in_flight: u32) {
        let queue = self.shared.queue();
        if !queue.closed {
            self.shared.in_flight.store(in_flight, Ordering::SeqCst);
        }
        drop(queue);
        self.shared.grant();
    }

    /// Changes how many may wait, and how many bytes they may declare together. Who waits already stays.
    pub fn set_queue(&self, queue: u32, queue_bytes: u64) {
        let mut waiting = self.shared.queue();
        waiting.allowed = queue;
        waiting.allowed_bytes = queue_bytes;
    }

    /// Refuses everyone who waits and whoever comes. Permits that are out stay valid.
    pub fn close(&self) {
        let mut queue = self.shared.queue();
        // With no places at all, who comes looks into the queue and finds it closed.
        self.shared.in_flight.store(0, Ordering::SeqCst);
        queue.closed = true;
        queue.bytes = 0;
        let waiting = std::mem::take(&mut queue.waiting);
        self.shared
            .counts
            .fetch_sub(ONE_QUEUED * waiting.len() as u64, Ordering::SeqCst);
        drop(queue);
        drop(waiting);
    }

    /// How much runs and waits now.
    #[must_use]
    pub fn load(&self) -> Load {
        load(self.shared.counts.load(Ordering::Relaxed))
    }
}

enum Entered {
    Place(Permit),
    Queue(u64, oneshot::Receiver<Permit>),
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn permit(self: &Arc<Self>) -> Permit {
        Permit {
            shared: Arc::clone(self),
            waited: Duration::ZERO,
        }
    }

    /// Counts one more in flight as `next` has it, if there is a place for it.
    fn count(&self, next: impl Fn(u64) -> Option<u64>) -> bool {
        let next = |counts| {
            let free = load(counts).in_flight < self.in_flight.load(Ordering::SeqCst);
            if free { next(counts) } else { None }
        };
        self.counts
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, next)
            .is_ok()
    }

    fn enter(self: &Arc<Self>, bytes: u64) -> Result<Entered, Refused> {
        let mut queue = self.queue();
        if queue.closed {
            return Err(Refused::Closed);
        }
        let has_room = || {
            if queue.waiting.len() >= queue.allowed as usize {
                Err(Refused::QueueFull {
                    allowed: queue.allowed,
                })
            } else if queue
                .bytes
                .checked_add(bytes)
                .is_none_or(|sum| sum > queue.allowed_bytes)
            {
                Err(Refused::QueueBytesFull {
                    allowed: queue.allowed_bytes,
                })
            } else {
                Ok(())
            }
        };
        // In one step: take a place that became free meanwhile, or be counted as waiting, so that who gives one back
        // sees this one wait.
        loop {
            let counts = self.counts.load(Ordering::SeqCst);
            let now = load(counts);
            let free = now.queued == 0 && now.in_flight < self.in_flight.load(Ordering::SeqCst);
            let next = if free {
                counts + 1
            } else {
                has_room()?;
                counts + ONE_QUEUED
            };
            if self
                .counts
                .compare_exchange(counts, next, Ordering::SeqCst, Ordering::SeqCst)
                .is_err()
            {
                continue;
            }
            if free {
                return Ok(Entered::Place(self.permit()));
            }
            let (grant, granted) = oneshot::channel();
            let id = queue.next;
            queue.next += 1;
            queue.bytes += bytes;
            queue.waiting.insert(id, Waiting { bytes, grant });
            return Ok(Entered::Queue(id, granted));
        }
    }

    /// Gives free places to those who wait, the longest first.
    fn grant(self: &Arc<Self>) {
        loop {
            let mut queue = self.queue();
            if queue.waiting.is_empty() || !self.count(|counts| Some(counts - ONE_QUEUED + 1)) {
                return;
            }
            let Some((_, waiting)) = queue.waiting.pop_first() else {
                return;
            };
            queue.bytes -= waiting.bytes;
            drop(queue);
            // Who left in this moment drops the permit, which passes it on: outside the lock.
            let _ = waiting.grant.send(self.permit());
        }
    }
}

struct Leave<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        if let Some(waiting) = queue.waiting.remove(&self.id) {
            queue.bytes -= waiting.bytes;
            self.shared.counts.fetch_sub(ONE_QUEUED, Ordering::SeqCst);
        }
    }
}

impl Permit {
    /// How long its holder waited for it.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let before = load(self.shared.counts.fetch_sub(1, Ordering::SeqCst));
        if before.queued > 0 {
            self.shared.grant();
        }
    }
}
