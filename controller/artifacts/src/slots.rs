//! How much is fetched at once? So much that memory and connections suffice, and of each namespace so little that its servers,
//! which may be slow, or pretend to be, don't keep all others waiting. Those of four namespaces together can take all slots, each
//! until the deadline of a fetch: then others wait, first come, first served.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

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
}

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
        let all = Arc::clone(&self.all).acquire_owned().await?;
        Ok(Slot {
            _all: all,
            _own: own,
        })
    }

    fn of(&self, whom: &str) -> Arc<Semaphore> {
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
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
}
