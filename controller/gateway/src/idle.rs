//! When nothing is asked on an HTTP/2 connection, or nothing read, which hyper keeps for as long as its client answers pings.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::memory::Memory;
use crate::proxy::PIECE;

/// What h2 keeps of a response that its client doesn't take: the last piece of it, its head, its stream.
const UNREAD: u64 = PIECE as u64 + (4 << 10);

/// The requests of one connection, counted.
#[derive(Debug, Clone)]
pub(crate) struct Usage(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    /// What all connections' responses may hold that have ended, and aren't taken, and what this one's do.
    memory: Arc<Memory>,
    held: AtomicU64,
    begun: AtomicU64,
    ended: AtomicU64,
    /// How often the connection was looked at.
    looks: AtomicU64,
    /// Responses that have ended, and that the client hasn't taken: those that ended since the last look, or before it, by
    /// whether the number of looks was even.
    unread: [AtomicU64; 2],
}

impl Usage {
    pub(crate) fn new(memory: &Arc<Memory>) -> Self {
        Self(Arc::new(Counts {
            memory: Arc::clone(memory),
            held: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            looks: AtomicU64::new(0),
            unread: [const { AtomicU64::new(0) }; 2],
        }))
    }

    /// A request begins; it ends when what is returned is dropped.
    pub(crate) fn begin(&self) -> InUse {
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        InUse(Arc::clone(&self.0))
    }

    /// A response has ended; its client has taken it when what is returned is dropped.
    pub(crate) fn overtime(&self) -> Overtime {
        let look = self.0.looks.load(Ordering::Relaxed);
        self.0.unread(look).fetch_add(1, Ordering::Relaxed);
        Overtime {
            counts: Arc::clone(&self.0),
            look,
            has_room: self.0.memory.take(&self.0.held, UNREAD),
        }
    }

    /// Returns once nothing was asked for `long`, or a response has ended for as long that the client doesn't take, and at the
    /// latest after twice that: a look every so often costs a connection with many requests less than a timer that each of
    /// them moves.
    pub(crate) async fn idle_or_unread(&self, long: Duration) {
        let mut before = self.begun();
        loop {
            tokio::time::sleep(long).await;
            let begun = self.begun();
            let is_idle = begun == before && self.0.ended.load(Ordering::Relaxed) == begun;
            let next = self.0.looks.load(Ordering::Relaxed).wrapping_add(1);
            let is_unread = self.0.unread(next).load(Ordering::Relaxed) > 0;
            self.0.looks.store(next, Ordering::Relaxed);
            if is_idle || is_unread {
                return;
            }
            before = begun;
        }
    }

    fn begun(&self) -> u64 {
        self.0.begun.load(Ordering::Relaxed)
    }
}

impl Counts {
    fn unread(&self, look: u64) -> &AtomicU64 {
        let [even, odd] = &self.unread;
        if look.is_multiple_of(2) { even } else { odd }
    }
}

/// A response that has ended, and that its client hasn't taken.
#[derive(Debug)]
pub(crate) struct Overtime {
    counts: Arc<Counts>,
    /// After which look it ended.
    look: u64,
    has_room: bool,
}

impl Overtime {
    /// Whether it may be kept beside those that have a place.
    pub(crate) fn has_room(&self) -> bool {
        self.has_room
    }
}

impl Drop for Overtime {
    fn drop(&mut self) {
        self.counts
            .unread(self.look)
            .fetch_sub(1, Ordering::Relaxed);
        if self.has_room {
            self.counts.memory.give_back(&self.counts.held, UNREAD);
        }
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
        let usage = Usage::new(&Arc::new(Memory::new(0)));
        usage.idle_or_unread(LONG).await;
        let asked = usage.begin();
        let idle = usage.idle_or_unread(LONG);
        assert!(tokio::time::timeout(LONG * 5, idle).await.is_err());
        drop(asked);
        usage.idle_or_unread(LONG).await;
    }

    /// Would fail if a response that nobody takes were waited for without end on a connection that is used, or those that are
    /// taken at once ended it.
    #[tokio::test]
    async fn a_connection_is_over_once_a_response_is_not_taken() {
        const LONG: Duration = Duration::from_millis(10);
        let usage = Usage::new(&Arc::new(Memory::new(0)));
        let _in_use = usage.begin();
        let taken = async {
            loop {
                drop(usage.overtime());
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = usage.idle_or_unread(LONG) => panic!("all were taken"),
            () = taken => {}
            () = tokio::time::sleep(LONG * 10) => {}
        }
        let _unread = usage.overtime();
        let began = std::time::Instant::now();
        usage.idle_or_unread(LONG).await;
        assert!(began.elapsed() >= LONG);
    }
}
