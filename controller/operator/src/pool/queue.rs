//! Who waits for a pod that is on its way: the pool makes another for each that was taken, all at once, which is sooner
//! there than a pod of the function's own Deployment would be.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dashmap::DashMap;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use wisp_api::RuntimePool;
use wisp_contract::operator::pod::CONTROL_PORT;

use super::{Claimable, PoolId, Pools, pool_id};
use crate::cluster::pods;
use crate::live::{Claim, Live, lock};
use crate::names;
use crate::wake::probe;

/// So long a wake-up waits for a pod of a pool before it has one made of its own.
const PATIENCE: Duration = Duration::from_secs(20);
/// A pod that doesn't come up within this is left to the kubelet's word.
const PROBED_WITHIN: Duration = Duration::from_secs(30);

/// Those who wait, and what they wait for.
#[derive(Debug)]
pub(super) struct Queue {
    /// One waits for a pod of a pool, the others for their turn, first come, first served.
    turns: DashMap<PoolId, Arc<tokio::sync::Mutex<()>>>,
    /// Counts what happens to pods that stand by.
    changes: watch::Sender<u64>,
    /// Pods, by their lives, that said themselves that they stand by: the kubelet's word comes up to a second later.
    standing: Mutex<HashSet<String>>,
    /// Pods that are being asked.
    asked: Mutex<HashSet<String>>,
    /// How many wait.
    pub(super) waiting: watch::Sender<usize>,
}

/// A pod that a function is about to get: it counts as the function's, or another would be made.
#[derive(Debug)]
pub(super) struct Expected<'a>(&'a Live);

/// In the place of the pod's name: none has it, since the names of pods of Deployments end otherwise.
const EXPECTED: &str = "expected";

impl<'a> Expected<'a> {
    pub(super) fn of(live: &'a Live, revision: &str) -> Self {
        let claim = Claim {
            revision: revision.to_owned(),
            replica: None,
        };
        lock(&live.claims).insert(EXPECTED.to_owned(), claim);
        Self(live)
    }
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        lock(&self.0.claims).remove(EXPECTED);
    }
}

/// One who waits; a wake-up that takes too long is broken off wherever it is.
#[derive(Debug)]
struct Waiting<'a>(&'a Queue);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.send_modify(|waiting| *waiting -= 1);
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            turns: DashMap::new(),
            changes: watch::channel(0).0,
            standing: Mutex::default(),
            asked: Mutex::default(),
            waiting: watch::channel(0).0,
        }
    }
}

impl Queue {
    /// Whether the pod can be taken.
    pub(super) fn is_standing(&self, pod: &Pod) -> bool {
        let said_so = || pods::is_alive(pod) && lock(&self.standing).contains(&pods::life(pod));
        pods::is_ready(pod) || said_so()
    }

    /// Something happened to pods that stand by.
    pub(super) fn changed(&self) {
        self.changes
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// One more waits, for as long as what is returned lives.
    fn join(&self) -> Waiting<'_> {
        self.waiting.send_modify(|waiting| *waiting += 1);
        Waiting(self)
    }

    /// Whether somebody waits for a pod of that pool.
    pub(super) fn is_awaited(&self, pool: &PoolId) -> bool {
        let turn = self.turns.get(pool);
        turn.is_some_and(|turn| turn.try_lock().is_err())
    }

    /// Waits for so long, or until somebody waits for a pod.
    pub(super) async fn pressed(&self, long: Duration) {
        let mut waiting = self.waiting.subscribe();
        let _ = tokio::time::timeout(long, waiting.wait_for(|waiting| *waiting > 0)).await;
    }

    /// Waits until nobody waits for a pod, or for so long.
    pub(super) async fn calm(&self, long: Duration) {
        let mut waiting = self.waiting.subscribe();
        let _ = tokio::time::timeout(long, waiting.wait_for(|waiting| *waiting == 0)).await;
    }

    /// Forgets pods that are no more.
    pub(super) fn retain(&self, known: &HashSet<String>) {
        lock(&self.standing).retain(|life| known.contains(life));
        lock(&self.asked).retain(|life| known.contains(life));
    }
}

impl Pools {
    /// Waits until there is a pod to take in one of `pools`, and takes it. `None` where none is on its way, or it takes
    /// too long.
    pub(super) async fn wait(
        &self,
        pools: &[Arc<RuntimePool>],
        claimable: &Claimable,
    ) -> Option<(PoolId, Arc<Pod>)> {
        let wanted = pool_id(pools.first()?)?;
        let turn = Arc::clone(&self.queue.turns.entry(wanted).or_default());
        // It may have to become larger first.
        self.cluster.pools_changed.notify_one();
        let taken = async {
            let _turn = turn.lock().await;
            let mut changes = self.queue.changes.subscribe();
            loop {
                changes.borrow_and_update();
                if let Some(taken) = self.take(pools, claimable) {
                    return Some(taken);
                }
                if !pools.iter().any(|pool| self.will_have_pods(pool)) {
                    return None;
                }
                changes.changed().await.ok()?;
            }
        };
        let _waiting = self.queue.join();
        let taken = tokio::time::timeout(PATIENCE, taken).await;
        taken.ok().flatten()
    }

    /// Whether more pods of the pool can be expected to come.
    fn will_have_pods(&self, pool: &RuntimePool) -> bool {
        let Some(id) = pool_id(pool) else {
            return false;
        };
        let standing = self.standing(pool);
        let mut troubles = standing.iter().filter_map(|pod| pods::trouble(pod));
        let trouble = troubles.any(|trouble| trouble.is_final || trouble.reason == "Unschedulable");
        let deployment = self
            .cluster
            .warm_deployments
            .get(&id, &names::pool(id.name()));
        let refused = deployment
            .as_deref()
            .is_some_and(|deployment| pods::refused(deployment).is_some());
        pool.spec.max_replicas > 0 && deployment.is_some() && !trouble && !refused
    }

    /// Asks pods that came up whether they stand by.
    pub(super) fn ask_new_pods(self: &Arc<Self>, pools: &[Arc<RuntimePool>]) {
        for pod in pools.iter().flat_map(|pool| self.standing(pool)) {
            let Some(address) = pods::address(&pod) else {
                continue;
            };
            let life = pods::life(&pod);
            let is_new = pods::is_alive(&pod)
                && !pods::is_ready(&pod)
                && lock(&self.queue.asked).insert(life.clone());
            if !is_new {
                continue;
            }
            let this = Arc::clone(self);
            tokio::spawn(async move {
                let stands_by = probe::until_ready(address, CONTROL_PORT, "/warmz");
                if tokio::time::timeout(PROBED_WITHIN, stands_by).await.is_ok() {
                    lock(&this.queue.standing).insert(life);
                    this.queue.changed();
                    this.cluster.pools_changed.notify_one();
                }
            });
        }
    }
}
