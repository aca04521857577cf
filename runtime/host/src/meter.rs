//! How much memory and how many table elements one instance uses.

use wasmtime::ResourceLimiter;
use wisp_contract::config::Limits;

/// Bounds an instance's linear memories and tables together, and remembers what it refused.
#[derive(Debug)]
pub(crate) struct Meter {
    memory: usize,
    memory_allowed: usize,
    elements: usize,
    elements_allowed: usize,
    refused: Option<Refusal>,
}

/// What an instance wanted and didn't get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Memory { wanted: usize, allowed: usize },
    Elements { wanted: usize, allowed: usize },
}

impl Meter {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            memory: 0,
            memory_allowed: usize::try_from(limits.memory.get()).unwrap_or(usize::MAX),
            elements: 0,
            elements_allowed: limits.table_elements.get(),
            refused: None,
        }
    }

    /// Bytes of all its linear memories.
    pub(crate) fn memory(&self) -> usize {
        self.memory
    }

    /// What was refused last, forgotten by asking.
    pub(crate) fn take_refusal(&mut self) -> Option<Refusal> {
        self.refused.take()
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // It will fail: what isn't granted isn't counted.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let wanted = self.memory.saturating_add(desired.saturating_sub(current));
        if wanted > self.memory_allowed {
            self.refused = Some(Refusal::Memory {
                wanted,
                allowed: self.memory_allowed,
            });
            return Ok(false);
        }
        self.memory = wanted;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let wanted = self
            .elements
            .saturating_add(desired.saturating_sub(current));
        if wanted > self.elements_allowed {
            self.refused = Some(Refusal::Elements {
                wanted,
                allowed: self.elements_allowed,
            });
            return Ok(false);
        }
        self.elements = wanted;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::num::{NonZeroU64, NonZeroUsize};

    use super::*;

    #[test]
    fn all_memories_and_all_tables_of_an_instance_share_a_bound_and_a_refusal_is_told_once() {
        let mut meter = Meter::new(&Limits {
            memory: NonZeroU64::new(100).unwrap(),
            table_elements: NonZeroUsize::new(10).unwrap(),
            ..Limits::default()
        });
        assert!(meter.memory_growing(0, 60, None).unwrap());
        assert!(
            meter.memory_growing(0, 30, None).unwrap(),
            "a second memory"
        );
        assert!(!meter.memory_growing(60, 71, None).unwrap());
        assert_eq!(
            meter.take_refusal(),
            Some(Refusal::Memory {
                wanted: 101,
                allowed: 100
            })
        );
        assert_eq!(meter.take_refusal(), None);
        assert!(!meter.memory_growing(60, 70, Some(69)).unwrap());
        assert_eq!(meter.take_refusal(), None, "its own maximum refused it");
        assert!(
            meter.memory_growing(60, 70, None).unwrap(),
            "what was refused isn't counted"
        );
        assert!(!meter.table_growing(0, 2, Some(1)).unwrap());
        assert!(meter.table_growing(0, 10, None).unwrap());
        assert!(!meter.table_growing(0, 1, None).unwrap());
        assert_eq!(
            meter.take_refusal(),
            Some(Refusal::Elements {
                wanted: 11,
                allowed: 10
            })
        );
    }
}
