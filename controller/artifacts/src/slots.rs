//! How much is fetched at once? So much that memory and connections suffice, and of each namespace so little that its servers,
//! which may be slow, or pretend to be, don't keep all others waiting. Those of four namespaces together can take all slots: then
//! others wait, first come, first served, and who is slow gives way to them ([`crate::turn`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// Fetches at once.
const ALL: usize = 16;
/// Of those, on behalf of one.
const EACH: usize = 4;

/// Slots for fetches.
#[derive(Debug)]
pub(crate) struct Slots {
    all: Arc<Semaphore>,
    each: Mutex<HashMap<String, Weak<Semaphore>>>,
    queue: Mutex<Queue>,
}

/// Who waits because all slots are taken.
#[derive(Debug, Default)]
struct Queue {
    waiting: usize,
    /// For how many of them somebody gives way already.
    promised: usize,
}

/// One who waits, until it is dropped.
struct Waiting<'a>(&'a Mutex<Queue>);

/// A slot, until it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    _all: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
}

impl Default for Slots {
    fn default() -> Self {
        Self {
            all: Arc::new(Semaphore::new(ALL)),
            each: Mutex::default(),
            queue: Mutex::default(),
        }
    }
}

impl Slots {
    /// Waits for a slot on behalf of `whom`: first come, first served. Whoever has one waits for nobody who has
    /// none.
    ///
    /// # Errors
    /// Never: nothing closes these semaphores.
    pub(crate) async fn take(&self, whom: &str) -> Result<Slot, AcquireError> {
        // In this order: who waits for their own keeps none that others could have.
        let own = self.of(whom).acquire_owned().await?;
        let waiting = Waiting::of(&self.queue);
        let all = Arc::clone(&self.all).acquire_owned().await?;
        drop(waiting);
        Ok(Slot {
            _all: all,
            _own: own,
        })
    }

    /// Whether whoever has a slot and could do without it is to give it back: somebody waits, to whom nobody else gives way.
    pub(crate) fn give_way(&self) -> bool {
        let mut queue = lock(&self.queue);
        let is_needed = queue.promised < queue.waiting;
        queue.promised += usize::from(is_needed);
        is_needed
    }

    fn of(&self, whom: &str) -> Arc<Semaphore> {
        let mut each = lock(&self.each);
        // Whoever has a slot, or waits for one, has it by this.
        each.retain(|_, own| own.strong_count() > 0);
        if let Some(own) = each.get(whom).and_then(Weak::upgrade) {
            return own;
        }
        let own = Arc::new(Semaphore::new(EACH));
        each.insert(whom.to_owned(), Arc::downgrade(&own));
        own
    }
}

impl<'a> Waiting<'a> {
    fn of(queue: &'a Mutex<Queue>) -> Self {
        lock(queue).waiting += 1;
        Self(queue)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut queue = lock(self.0);
        queue.waiting = queue.waiting.saturating_sub(1);
        queue.promised = queue.promised.saturating_sub(1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    /// Would fail if one could take all, if all could take more than there are, or if what is given back weren't there again.
    #[test]
    fn nobody_takes_all() {
        let slots = Slots::default();
        let take = |whom: &str| slots.take(whom).now_or_never().and_then(Result::ok);
        let mut taken: Vec<Slot> = (0..9).filter_map(|_| take("a")).collect();
        assert_eq!(taken.len(), EACH);
        for whom in ["b", "c", "d", "e"] {
            taken.extend((0..9).filter_map(|_| take(whom)));
        }
        assert_eq!(taken.len(), ALL);
        let mut waiting = Box::pin(slots.take("e"));
        assert!((&mut waiting).now_or_never().is_none());
        drop(taken.remove(0));
        assert!(take("a").is_none(), "who waits comes first");
        assert!(waiting.now_or_never().is_some());
        taken.clear();
        assert!(take("a").is_some());
        assert!(slots.each.lock().unwrap().len() <= 6);
        take("f");
        assert_eq!(slots.each.lock().unwrap().len(), 1);
    }

    /// Would fail if somebody gave way to nobody, two to one who waits, or nobody to the next.
    #[test]
    fn one_gives_way_to_each_who_waits() {
        let slots = Slots::default();
        let take = |whom: &str| slots.take(whom).now_or_never().and_then(Result::ok);
        let mut taken: Vec<Slot> = ["a", "b", "c", "d"]
            .iter()
            .flat_map(|whom| (0..EACH).filter_map(|_| take(whom)))
            .collect();
        // It waits for its own.
        assert!(take("a").is_none());
        assert!(!slots.give_way());
        let mut first = Box::pin(slots.take("e"));
        let mut second = Box::pin(slots.take("f"));
        assert!((&mut first).now_or_never().is_none());
        assert!(slots.give_way() && !slots.give_way());
        assert!((&mut second).now_or_never().is_none());
        assert!(slots.give_way() && !slots.give_way());
        taken.truncate(ALL - 1);
        let slot = first.now_or_never();
        assert!(slot.is_some());
        drop(second);
        assert!(!slots.give_way());
    }
}
