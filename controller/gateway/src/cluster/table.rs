//! The directory and the gateway that follows it: one change after the other, whoever brings them.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Instant;

use wisp_contract::FunctionId;
use wisp_contract::operator::Replica;
use wisp_gateway::Gateway;

use crate::directory::{Change, Directory, Event, Known, Pod, PodName};

/// What the watches and the wake-ups write.
#[derive(Debug)]
pub(crate) struct Table {
    directory: Mutex<Directory>,
    gateway: OnceLock<Weak<Gateway>>,
}

impl Table {
    pub(crate) fn new(directory: Directory) -> Self {
        Self {
            directory: Mutex::new(directory),
            gateway: OnceLock::new(),
        }
    }

    /// Says which gateway follows; before any watch begins.
    pub(crate) fn lead(&self, gateway: &Arc<Gateway>) {
        let _ = self.gateway.set(Arc::downgrade(gateway));
    }

    pub(crate) fn function(&self, event: Event<Known, FunctionId>) {
        self.change(|directory| directory.function(event));
    }

    pub(crate) fn pod(&self, event: Event<Pod, PodName>) {
        self.change(|directory| {
            directory.pods_answered(&event, Instant::now());
            directory.pod(event)
        });
    }

    pub(crate) fn pods_failed(&self) {
        self.change(|directory| {
            directory.pods_failed(Instant::now());
            Vec::new()
        });
    }

    pub(crate) fn woken(&self, function: &FunctionId, replicas: &[Replica]) {
        self.change(|directory| directory.woken(function, replicas, Instant::now()));
    }

    pub(crate) fn tick(&self) {
        self.change(|directory| directory.tick(Instant::now()));
    }

    pub(crate) fn is_synced(&self) -> bool {
        self.directory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_synced()
    }

    fn change(&self, decide: impl FnOnce(&mut Directory) -> Vec<Change>) {
        let mut directory = self
            .directory
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let changes = decide(&mut directory);
        // Under the lock: the gateway sees changes in the order in which they were decided.
        if let Some(gateway) = self.gateway.get().and_then(Weak::upgrade) {
            for change in changes {
                apply(&gateway, change);
            }
        }
    }
}

fn apply(gateway: &Gateway, change: Change) {
    match change {
        Change::Route(route) => {
            let id = route.id.clone();
            tracing::debug!(function = %id, "the function is known");
            for host in gateway.insert_route(route) {
                tracing::warn!(function = %id, host, "the host that the function claims is another's");
            }
        }
        Change::Unroute(id) => {
            tracing::debug!(function = %id, "the function is gone");
            gateway.remove_route(&id);
        }
        Change::Insert(id, endpoint) => {
            tracing::debug!(function = %id, address = %endpoint.address, "a replica serves");
            gateway.insert_endpoint(&id, &endpoint);
        }
        Change::Remove(id, address) => {
            tracing::debug!(function = %id, %address, "a replica is gone");
            gateway.remove_endpoint(&id, address);
        }
    }
}
