//! One replica: where it is, what it takes, and what it works on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use http::HeaderValue;
use tokio::sync::Notify;
use wisp_contract::assignment::Key;

/// A replica that serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its data port.
    pub address: SocketAddr,
    /// The most requests that it takes at once.
    pub concurrency: u32,
    /// What it demands of whoever reaches its data port.
    pub key: Option<Key>,
}

#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) address: SocketAddr,
    pub(crate) concurrency: u32,
    pub(crate) key: Option<HeaderValue>,
    pub(crate) outstanding: AtomicU32,
    pub(crate) draining: AtomicBool,
    /// Until when it is passed over, in milliseconds of `Replicas::since`. It stays until the replica answers.
    pub(crate) quarantined_until: AtomicU64,
    pub(crate) idle: Notify,
}

/// Resolves when a removed endpoint has answered all that it was sent.
#[derive(Debug)]
pub struct Drained {
    pub(crate) replica: Option<Arc<Replica>>,
}

impl Drained {
    /// Of no endpoint.
    pub(crate) fn at_once() -> Self {
        Self { replica: None }
    }

    /// Requests that the endpoint still works on.
    #[must_use]
    pub fn outstanding(&self) -> u32 {
        self.replica
            .as_ref()
            .map_or(0, |replica| replica.outstanding.load(Ordering::SeqCst))
    }

    /// Waits until there are none. At once where there was no such endpoint.
    pub async fn wait(self) {
        let Some(replica) = &self.replica else { return };
        loop {
            let mut idle = std::pin::pin!(replica.idle.notified());
            idle.as_mut().enable();
            if replica.outstanding.load(Ordering::SeqCst) == 0 {
                return;
            }
            idle.await;
        }
    }
}

impl Replica {
    pub(crate) fn new(endpoint: &Endpoint) -> Self {
        let key = endpoint.key.as_ref().and_then(|key| {
            let mut value = HeaderValue::from_str(&key.0).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        Self {
            address: endpoint.address,
            concurrency: endpoint.concurrency.max(1),
            key,
            outstanding: AtomicU32::new(0),
            draining: AtomicBool::new(false),
            quarantined_until: AtomicU64::new(0),
            idle: Notify::new(),
        }
    }

    /// Whether it could not be reached just before `now`, in milliseconds of `Replicas::since`.
    pub(crate) fn is_quarantined(&self, now: u64) -> bool {
        self.quarantined_until.load(Ordering::Relaxed) > now
    }

    /// Whether it could not be reached, and hasn't answered since.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.quarantined_until.load(Ordering::SeqCst) != 0
    }

    /// Takes one of its places, if one is free.
    pub(crate) fn reserve(&self) -> bool {
        let next = |outstanding: u32| {
            (outstanding < self.concurrency).then_some(outstanding.saturating_add(1))
        };
        self.outstanding
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, next)
            .is_ok()
    }
}
