//! Finishes what another operator began: a pod that was assigned, and not yet marked as its function's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use wisp_api::Function;
use wisp_contract::FunctionId;
use wisp_contract::operator::Replica;
use wisp_contract::operator::pod::{DATA_PORT, POOL};
use wisp_contract::status::{HostStatus, Phase};

use super::{Claimable, Pools};
use crate::cluster::pods;
use crate::control;
use crate::live::{Claim, Live, lock};

/// How many pods are asked at once.
const CONCURRENCY: usize = 32;
/// How long one may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long one may go on loading.
pub(super) const LOADED_WITHIN: Duration = Duration::from_secs(3);
/// How long wake-ups wait for that.
const RECOVERED_WITHIN: Duration = Duration::from_secs(4);
/// How long to pause before it is asked again.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a function may take to have its revisions known.
const KNOWN_WITHIN: Duration = Duration::from_secs(60);

impl Pools {
    /// Asks every pod that stands by what it is.
    pub(super) async fn recover_all(self: &Arc<Self>) {
        let pools = self.cluster.pools().state();
        let pods: Vec<Arc<Pod>> = pools
            .iter()
            .flat_map(|pool| self.standing(pool))
            .filter(|pod| pods::is_alive(pod) && pods::address(pod).is_some())
            .collect();
        futures::stream::iter(pods)
            .for_each_concurrent(CONCURRENCY, |pod| async move {
                self.recover(&pod, LOADED_WITHIN).await;
            })
            .await;
        self.recovered.send_replace(true);
    }

    /// Waits until every pod was asked, or long enough: who wakes a function before that may take a second pod for it.
    pub async fn recovered(&self) {
        let mut recovered = self.recovered.subscribe();
        let asked = recovered.wait_for(|recovered| *recovered);
        let _ = tokio::time::timeout(RECOVERED_WITHIN, asked).await;
    }

    /// Asks one pod what it is. One that is a function's is made so in the cluster, too; or ended, where that function
    /// or its revision is no more, or where it is still loading after `patience`.
    pub(super) async fn recover(self: &Arc<Self>, pod: &Arc<Pod>, patience: Duration) {
        let Some(status) = self.settled(pod, patience).await else {
            // Who wants to take it learns what it is.
            return;
        };
        let (Some(id), Some(revision)) = (status.function.clone(), status.revision.clone()) else {
            return;
        };
        self.mark(pod);
        let is_known = self
            .live
            .get(&id)
            .is_some_and(|live| lock(&live.claims).contains_key(&pod.name_any()));
        if is_known {
            return;
        }
        tracing::info!(function = %id, pod = %pod.name_any(), "a pod of a pool is a function's already");
        if status.phase != Phase::Ready {
            return self.discard(pod).await;
        }
        let Some((function, live)) = self.remember(&id, &revision, &status, pod) else {
            return self.discard(pod).await;
        };
        // It counts from now on; what its function's revision is may take longer to be known.
        let (this, pod) = (Arc::clone(self), Arc::clone(pod));
        tokio::spawn(async move {
            let restored = this.restore(&id, &revision, &function, &live, &pod).await;
            if restored.is_none() {
                this.discard(&pod).await;
            }
        });
    }

    /// What a pod says of itself, once it doesn't load any more, or did for `patience`: one whose operator died may wait for
    /// artifacts that nobody gives it.
    async fn settled(&self, pod: &Pod, patience: Duration) -> Option<HostStatus> {
        let address = pods::address(pod)?;
        let key = control::pool_key(&self.settings.root, pod)?;
        let began = Instant::now();
        loop {
            let asked = tokio::time::timeout(PATIENCE, control::status(address, &key)).await;
            let status = asked.ok()?.ok()?;
            if status.phase != Phase::Loading || began.elapsed() > patience {
                return Some(status);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Counts the pod as the function's, where that is the one that it says it is. It is believed of functions of its own
    /// namespace alone: it is one of a pool there, and who can make pods there that answer anything can make the function's.
    fn remember(
        &self,
        id: &FunctionId,
        revision: &str,
        status: &HostStatus,
        pod: &Pod,
    ) -> Option<(Arc<Function>, Arc<Live>)> {
        let function = self.cluster.function(id)?;
        let is_same = function.uid() == status.uid;
        if !is_same || Some(id.namespace()) != pod.namespace().as_deref() {
            return None;
        }
        let live = self.live.enter(id, &function.uid().unwrap_or_default());
        let claim = Claim {
            revision: revision.to_owned(),
            replica: pods::address(pod).map(|address| Replica {
                address: (address, DATA_PORT).into(),
                concurrency: function.spec.limits.concurrency,
            }),
        };
        lock(&live.claims).insert(pod.name_any(), claim);
        Some((function, live))
    }

    async fn restore(
        self: &Arc<Self>,
        id: &FunctionId,
        revision: &str,
        function: &Function,
        live: &Arc<Live>,
        pod: &Arc<Pod>,
    ) -> Option<()> {
        let known = tokio::time::timeout(KNOWN_WITHIN, self.known(id, live, revision)).await;
        let claimable = match known {
            Ok(Some(claimable)) => claimable,
            Ok(None) => {
                lock(&live.claims).remove(&pod.name_any());
                return None;
            }
            // Its registry may be down; the pod serves nevertheless.
            Err(_) => Arc::new(Claimable::bare(function, revision)),
        };
        // It serves somebody, or did a moment ago.
        self.autoscaler.wake(Instant::now(), function, live);
        let pool = pod.labels().get(POOL).cloned().unwrap_or_default();
        self.begin_adoption(id, live, &pool, pod, &claimable);
        Some(())
    }

    /// What the revision's replicas are, as soon as that is known; `None` where it is no revision that serves.
    async fn known(&self, id: &FunctionId, live: &Live, revision: &str) -> Option<Arc<Claimable>> {
        let mut changes = self.cluster.changes(id);
        loop {
            changes.borrow_and_update();
            if let Some(plan) = live.plan() {
                if plan.serving != revision && plan.latest != revision {
                    return None;
                }
                if let Some(claimable) = live.claimable(revision) {
                    return Some(claimable);
                }
            }
            changes.changed().await.ok()?;
        }
    }
}
