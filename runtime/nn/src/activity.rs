//! Does anything disturb a trial?

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, TryLockError};

/// What the models of a store do, all together: they share the cores.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    begun: AtomicU64,
    running: AtomicUsize,
    trial: Mutex<()>,
}

/// A call, for as long as it is there.
pub(crate) struct Call<'a>(&'a Activity);

impl Activity {
    /// A call begins.
    pub(crate) fn call(&self) -> Call<'_> {
        self.begun.fetch_add(1, Relaxed);
        self.running.fetch_add(1, Relaxed);
        Call(self)
    }

    /// How many calls have begun.
    pub(crate) fn begun(&self) -> u64 {
        self.begun.load(Relaxed)
    }

    /// Whether no caller waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.load(Relaxed) == 0
    }

    /// The right to try a model, if nobody has it: another's trial would disturb it most.
    pub(crate) fn try_trial(&self) -> Option<MutexGuard<'_, ()>> {
        match self.trial.try_lock() {
            Ok(turn) => Some(turn),
            // There is nothing that a panic could have left half done.
            Err(TryLockError::Poisoned(turn)) => Some(turn.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Relaxed);
    }
}
