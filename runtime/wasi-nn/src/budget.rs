//! How many bytes of tensors may one instance hold?

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts bytes up to a limit.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicU64,
    limit: u64,
}

/// Bytes that are counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<Budget>,
    bytes: u64,
}

/// There is not enough left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exceeded {
    pub(crate) asked: u64,
    pub(crate) used: u64,
    pub(crate) limit: u64,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicU64::new(0),
            limit,
        })
    }

    pub(crate) fn charge(self: &Arc<Self>, bytes: u64) -> Result<Charge, Exceeded> {
        let add = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        match self.used.fetch_update(Relaxed, Relaxed, add) {
            Ok(_) => Ok(Charge {
                budget: Arc::clone(self),
                bytes,
            }),
            Err(used) => Err(Exceeded {
                asked: bytes,
                used,
                limit: self.limit,
            }),
        }
    }
}

impl Budget {
    /// Whether so many bytes will fit once `freed` of those in use are given back, and `before` of others have come.
    pub(crate) fn will_fit(&self, bytes: u64, freed: u64, before: u64) -> Result<(), Exceeded> {
        let used = self.used.load(Relaxed).saturating_sub(freed);
        let used = used.saturating_add(before);
        if used.saturating_add(bytes) <= self.limit {
            return Ok(());
        }
        Err(Exceeded {
            asked: bytes,
            used,
            limit: self.limit,
        })
    }
}

#[cfg(test)]
impl Budget {
    /// Bytes that are in use.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Relaxed);
    }
}

impl std::fmt::Display for Exceeded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { asked, used, limit } = self;
        write!(
            f,
            "{asked} bytes of tensors are too many: {used} of {limit} are in use (limits.tensors)"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_can_be_used_again() {
        let budget = Budget::new(10);
        let first = budget.charge(6).unwrap();
        let error = budget.charge(5).unwrap_err();
        assert_eq!(
            error.to_string(),
            "5 bytes of tensors are too many: 6 of 10 are in use (limits.tensors)"
        );
        drop(first);
        budget.charge(10).unwrap();
    }

    #[test]
    fn no_sum_overflows() {
        let budget = Budget::new(u64::MAX);
        let _all_but_one = budget.charge(u64::MAX - 1).unwrap();
        assert!(budget.charge(2).is_err());
    }
}
