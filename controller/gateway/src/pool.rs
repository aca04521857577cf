//! Idle connections to replicas, one set per thread: a request, its client's connection and its replica's stay on one
//! core, and nobody locks anything.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::upstream::Connection;

/// How long a connection is kept without a request: less than any server keeps it.
const IDLE: Duration = Duration::from_secs(20);
/// The most idle connections to one replica on one thread.
const MOST: usize = 256;

struct Idle {
    connection: Connection,
    since: Instant,
}

thread_local! {
    static POOL: RefCell<HashMap<SocketAddr, Vec<Idle>, BuildHasherDefault<Fnv>>> = RefCell::default();
}

/// FNV-1a, <http://www.isthe.com/chongo/tech/comp/fnv/>: replicas' addresses are no stranger's choice.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A connection that was used before and is free, if there is one.
pub(crate) fn take(address: SocketAddr, now: Instant) -> Option<Connection> {
    POOL.with_borrow_mut(|pool| {
        let idle = pool.get_mut(&address)?;
        while let Some(entry) = idle.pop() {
            if entry.is_usable(now) {
                return Some(entry.connection);
            }
        }
        pool.remove(&address);
        None
    })
}

/// Keeps a connection whose response has ended.
pub(crate) fn put(address: SocketAddr, connection: Connection, now: Instant) {
    let Some(connection) = connection.leave() else {
        return;
    };
    // The thread may be ending.
    let _ = POOL.try_with(|pool| {
        if let Ok(mut pool) = pool.try_borrow_mut() {
            let idle = pool.entry(address).or_default();
            if idle.len() < MOST {
                idle.push(Idle {
                    connection,
                    since: now,
                });
            }
        }
    });
}

/// Closes what was idle for long; called now and then on each thread.
pub(crate) fn sweep() {
    let now = Instant::now();
    POOL.with_borrow_mut(|pool| {
        pool.retain(|_, idle| {
            idle.retain(|entry| entry.is_usable(now));
            !idle.is_empty()
        });
    });
}

impl Idle {
    /// Whether its replica has neither closed it nor is about to.
    fn is_usable(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < IDLE && self.connection.is_idle()
    }
}
