//! When nothing is asked on an HTTP/2 connection, which hyper keeps for as long as its client answers pings.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The requests of one connection, counted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Usage(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Usage {
    /// A request begins; it ends when what is returned is dropped.
    pub(crate) fn begin(&self) -> InUse {
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        InUse(Arc::clone(&self.0))
    }

    /// Returns once nothing was asked for `long`, and at the latest after twice that: a look every so often costs a
    /// connection with many requests less than a timer that each of them moves.
    pub(crate) async fn idle(&self, long: Duration) {
        let mut before = self.begun();
        loop {
            tokio::time::sleep(long).await;
            let begun = self.begun();
            if begun == before && self.0.ended.load(Ordering::Relaxed) == begun {
                return;
            }
            before = begun;
        }
    }

    fn begun(&self) -> u64 {
        self.0.begun.load(Ordering::Relaxed)
    }
}

/// A request that hasn't ended.
#[derive(Debug)]
pub(crate) struct InUse(Arc<Counts>);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if a connection ended under a request, or were kept without one.
    #[tokio::test]
    async fn a_connection_is_idle_once_nothing_is_asked_on_it() {
        const LONG: Duration = Duration::from_millis(10);
        let usage = Usage::default();
        usage.idle(LONG).await;
        let asked = usage.begin();
        let idle = usage.idle(LONG);
        assert!(tokio::time::timeout(LONG * 5, idle).await.is_err());
        drop(asked);
        usage.idle(LONG).await;
    }
}
