//! Which replica a request goes to: the one with the least to do, never above what it takes at once.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::HeaderValue;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use wisp_admit::Limiter;

use crate::replica::{Drained, Endpoint, Replica};

/// How long a replica that could not be reached is passed over, where there is another.
const QUARANTINE: Duration = Duration::from_secs(1);

/// The replicas of one function.
#[derive(Debug)]
pub(crate) struct Replicas {
    since: Instant,
    ready: ArcSwap<Vec<Arc<Replica>>>,
    /// Whether `ready` has more than one.
    are_several: AtomicBool,
    /// Those that finish what they have; also the lock of whoever changes either list.
    draining: Mutex<Vec<Arc<Replica>>>,
    changed: Notify,
    limiter: Limiter,
    queue: ArcSwap<QueueBounds>,
}

/// How many may wait, and with how many bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct QueueBounds {
    /// Beyond those in flight.
    pub(crate) requests: u32,
    /// Of the bodies of all who wait.
    pub(crate) bytes: u64,
    /// How many more while there is no replica: those that the first one will take at once.
    pub(crate) first: u32,
    /// At least so many bytes then: one body.
    pub(crate) body: u64,
}

/// A place in a replica, given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    replicas: Arc<Replicas>,
    replica: Arc<Replica>,
}

thread_local! {
    /// Where the next search begins, so that equals take turns.
    static TURN: Cell<usize> = const { Cell::new(0) };
}

impl Replicas {
    /// None yet; `limiter` is kept at what they take together.
    pub(crate) fn new(limiter: Limiter) -> Self {
        Self {
            since: Instant::now(),
            ready: ArcSwap::default(),
            are_several: AtomicBool::new(false),
            draining: Mutex::default(),
            changed: Notify::new(),
            limiter,
            queue: ArcSwap::default(),
        }
    }

    /// Changes how many may wait.
    pub(crate) fn set_queue(&self, bounds: QueueBounds) {
        let mut draining = self.lock();
        self.queue.store(Arc::new(bounds));
        self.resize(&mut draining);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ready.load().is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.ready.load().len()
    }

    /// Whether there is another replica beside one.
    pub(crate) fn are_several(&self) -> bool {
        self.are_several.load(Ordering::Relaxed)
    }

    /// Whether there is no replica beside those.
    pub(crate) fn are_all_in(&self, tried: &[SocketAddr]) -> bool {
        let ready = self.ready.load();
        ready.iter().all(|replica| tried.contains(&replica.address))
    }

    /// Resolves at the next change of the set after this call.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Adds a replica, in place of one at the same address.
    pub(crate) fn insert(&self, endpoint: &Endpoint) {
        let replica = Arc::new(Replica::new(endpoint));
        let mut draining = self.lock();
        let mut ready = Vec::clone(&self.ready.load());
        if let Some(index) = ready
            .iter()
            .position(|other| other.address == endpoint.address)
        {
            retire(ready.swap_remove(index), &mut draining);
        }
        ready.push(replica);
        self.ready.store(Arc::new(ready));
        self.resize(&mut draining);
        drop(draining);
        self.changed.notify_waiters();
    }

    /// Sends a replica nothing more.
    pub(crate) fn remove(&self, address: SocketAddr) -> Drained {
        let mut draining = self.lock();
        let mut ready = Vec::clone(&self.ready.load());
        let Some(index) = ready.iter().position(|replica| replica.address == address) else {
            let replica = draining
                .iter()
                .find(|replica| replica.address == address)
                .cloned();
            return Drained { replica };
        };
        let replica = ready.swap_remove(index);
        self.ready.store(Arc::new(ready));
        retire(Arc::clone(&replica), &mut draining);
        self.resize(&mut draining);
        drop(draining);
        self.changed.notify_waiters();
        Drained {
            replica: Some(replica),
        }
    }

    /// The addresses that requests go to.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.ready
            .load()
            .iter()
            .map(|replica| replica.address)
            .collect()
    }

    /// A place in the replica with the least to do, of those that aren't in `tried`. Replicas that could not be reached
    /// lately come last.
    pub(crate) fn pick(self: &Arc<Self>, tried: &[SocketAddr]) -> Option<Lease> {
        let ready = self.ready.load();
        // A sole replica, the usual case, needs no search.
        if let ([only], []) = (ready.as_slice(), tried) {
            return only.reserve().then(|| self.lease(only));
        }
        let now = self.now();
        let turn = TURN.get();
        TURN.set(turn.wrapping_add(1));
        loop {
            let free = |replica: &&Arc<Replica>| {
                !tried.contains(&replica.address)
                    && replica.outstanding.load(Ordering::SeqCst) < replica.concurrency
            };
            let start = turn.checked_rem(ready.len())?;
            let (before, from) = ready.split_at_checked(start)?;
            let best = from
                .iter()
                .chain(before)
                .filter(free)
                .min_by_key(|replica| {
                    (
                        replica.is_quarantined(now),
                        replica.outstanding.load(Ordering::SeqCst),
                    )
                })?;
            if best.reserve() {
                return Some(self.lease(best));
            }
        }
    }

    fn lease(self: &Arc<Self>, replica: &Arc<Replica>) -> Lease {
        Lease {
            replicas: Arc::clone(self),
            replica: Arc::clone(replica),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Replica>>> {
        self.draining.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a place of a replica's again once its quarantine is over, however often that was prolonged.
    async fn released(&self, replica: &Replica) {
        loop {
            let until = replica.quarantined_until.load(Ordering::SeqCst);
            let left = until.saturating_sub(self.now());
            if left == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(left)).await;
        }
        self.resize(&mut self.lock());
    }

    /// Keeps the limiter at what the ready replicas take; without those that can't be reached, where others can. One whose
    /// quarantine is over has a place for whoever tries it, and all of them once it answered. What those and the draining ones
    /// still work on holds places, too, and must not keep others from the rest.
    fn resize(&self, draining: &mut Vec<Arc<Replica>>) {
        draining.retain(|replica| replica.outstanding.load(Ordering::SeqCst) > 0);
        let ready = self.ready.load();
        self.are_several.store(ready.len() > 1, Ordering::Relaxed);
        let now = self.now();
        let are_lost = ready.iter().all(|replica| replica.is_in_doubt());
        let places = |replica: &Arc<Replica>| {
            if are_lost || !replica.is_in_doubt() {
                return replica.concurrency;
            }
            let try_it = u32::from(!replica.is_quarantined(now));
            let outstanding = replica.outstanding.load(Ordering::SeqCst);
            outstanding.saturating_add(try_it).min(replica.concurrency)
        };
        let capacity = ready.iter().map(places).fold(0_u32, u32::saturating_add);
        let leaving = draining.iter().fold(0_u32, |sum, replica| {
            sum.saturating_add(replica.outstanding.load(Ordering::SeqCst))
        });
        let bounds = **self.queue.load();
        if ready.is_empty() {
            self.limiter.set_queue(
                bounds.requests.saturating_add(bounds.first),
                bounds.bytes.max(bounds.body),
            );
        } else {
            self.limiter.set_queue(bounds.requests, bounds.bytes);
        }
        self.limiter.set_in_flight(capacity.saturating_add(leaving));
    }
}

fn retire(replica: Arc<Replica>, draining: &mut Vec<Arc<Replica>>) {
    replica.draining.store(true, Ordering::SeqCst);
    if replica.outstanding.load(Ordering::SeqCst) > 0 {
        draining.push(replica);
    }
}

impl Lease {
    pub(crate) fn address(&self) -> SocketAddr {
        self.replica.address
    }

    pub(crate) fn key(&self) -> Option<&HeaderValue> {
        self.replica.key.as_ref()
    }

    /// Gives the place back, and passes the replica over for a while: it could not be reached.
    pub(crate) fn quarantine(self) {
        let (replicas, replica) = (Arc::clone(&self.replicas), Arc::clone(&self.replica));
        let now = replicas.now();
        let until = now.saturating_add(u64::try_from(QUARANTINE.as_millis()).unwrap_or(u64::MAX));
        let before = replica.quarantined_until.swap(until, Ordering::SeqCst);
        // Who waited for the end of the one before, and didn't see this one, looked at the clock before this does.
        let is_first = before <= replicas.now();
        // What the replica still works on counts, which this isn't.
        drop(self);
        if is_first {
            tokio::spawn(async move { replicas.released(&replica).await });
        }
    }

    /// Ends the quarantine: the replica answered.
    pub(crate) fn reached(&self) {
        if self.replica.is_in_doubt() {
            self.replica.quarantined_until.store(0, Ordering::SeqCst);
            self.replicas.resize(&mut self.replicas.lock());
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let before = self.replica.outstanding.fetch_sub(1, Ordering::SeqCst);
        if self.replica.draining.load(Ordering::SeqCst) || self.replica.is_in_doubt() {
            let mut draining = self.replicas.lock();
            self.replicas.resize(&mut draining);
            drop(draining);
            if before == 1 {
                self.replica.idle.notify_waiters();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two replicas with four places each, and what bounds those who get one.
    fn two() -> (Limiter, Arc<Replicas>, [SocketAddr; 2]) {
        let limiter = Limiter::new(wisp_admit::Limits {
            in_flight: 0,
            queue: 0,
            queue_bytes: 0,
        });
        let replicas = Arc::new(Replicas::new(limiter.clone()));
        let addresses = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        for address in addresses {
            replicas.insert(&Endpoint {
                address,
                concurrency: 4,
                key: None,
            });
        }
        (limiter, replicas, addresses)
    }

    fn places(limiter: &Limiter) -> usize {
        let permits: Vec<_> = std::iter::from_fn(|| limiter.try_acquire()).collect();
        permits.len()
    }

    /// Would fail if others were let in, in vain, for what a replica that crashed worked on when that was noticed.
    #[tokio::test]
    async fn what_ends_on_a_replica_that_cannot_be_reached_frees_no_place() {
        let (limiter, replicas, [_, other]) = two();
        let mut held: Vec<_> = (0..4).filter_map(|_| replicas.pick(&[other])).collect();
        held.pop().unwrap().quarantine();
        assert_eq!(places(&limiter), 4 + 3);
        drop(held);
        assert_eq!(places(&limiter), 4);
    }

    /// Would fail if the end of a quarantine let as many in as a replica takes that nobody has reached.
    #[tokio::test]
    async fn after_a_quarantine_one_request_tries_the_replica_and_gives_its_places_back() {
        let (limiter, replicas, [_, other]) = two();
        let held: Vec<_> = (0..3).filter_map(|_| replicas.pick(&[other])).collect();
        let lease = replicas.pick(&[other]).unwrap();
        let replica = Arc::clone(&lease.replica);
        lease.quarantine();
        replica.quarantined_until.store(1, Ordering::SeqCst);
        replicas.released(&replica).await;
        assert_eq!(places(&limiter), 4 + 3 + 1);
        drop(held);
        assert_eq!(places(&limiter), 4 + 1);
        replicas.pick(&[other]).unwrap().reached();
        assert_eq!(places(&limiter), 4 + 4);
    }
}
