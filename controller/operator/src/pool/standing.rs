//! Which pods stand by in a pool. Whoever may make pods in a namespace may label them as they like: a label alone makes none a
//! pool's.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::{Resource as _, ResourceExt as _};
use wisp_api::RuntimePool;
use wisp_contract::operator::pod::POOL_UID;

use super::{Pools, pool_id};
use crate::cluster::pods;
use crate::live::lock;
use crate::names;
use crate::reconcile::pod::{is_made_as, made_as};

impl Pools {
    /// The pods that the Deployment of `pool` made. Those of a pool that had its name and was deleted are not among them: they
    /// have another key, and go with it.
    pub(super) fn standing(&self, pool: &RuntimePool) -> Vec<Arc<Pod>> {
        let Some(id) = pool_id(pool) else {
            return Vec::new();
        };
        let mut pods = self.cluster.warm.of(&id);
        pods.retain(|pod| is_of(pod, pool));
        pods
    }

    /// The pods of a pool that are as it wants them now: while they are replaced after a change of its spec, or of the
    /// runtime, those before are not.
    pub(super) fn current(&self, pool: &RuntimePool) -> Vec<Arc<Pod>> {
        let mut pods = self.standing(pool);
        if !pods.is_empty() {
            let digest = made_as(pool, &self.settings);
            pods.retain(|pod| is_made_as(pod, &digest));
        }
        pods
    }

    /// How many pods of a pool a function could take now, by what their kubelets say. One that a function has already looks
    /// like them until it is marked as that function's.
    pub(super) fn ready(&self, pool: &RuntimePool) -> usize {
        let mut pods = self.current(pool);
        let taken = lock(&self.taken);
        pods.retain(|pod| {
            pods::is_ready(pod) && !taken.contains_key(&pod.uid().unwrap_or_default())
        });
        pods.len()
    }

    /// Whether a pod holds what it requested although it isn't as its pool wants it now, so that nobody takes it.
    pub(super) fn has_outdated(&self, pool: &RuntimePool) -> bool {
        let digest = made_as(pool, &self.settings);
        let mut standing = self.standing(pool).into_iter();
        standing.any(|pod| pods::is_alive(&pod) && !is_made_as(&pod, &digest))
    }
}

/// Whether a pod that has the label of `pool` is one of it: a ReplicaSet of its Deployment made it, of a template for this very
/// RuntimePool object.
fn is_of(pod: &Pod, pool: &RuntimePool) -> bool {
    let uid = pool.metadata.uid.as_ref();
    let mut owners = pod.owner_references().iter();
    let controller = owners.find(|owner| owner.controller == Some(true));
    let is_made_by_it = controller.is_some_and(|owner| {
        // A Deployment's ReplicaSets are called as it is, and by what tells their templates apart.
        let deployment = owner.name.rsplit_once('-').map(|(name, _)| name);
        owner.kind == ReplicaSet::kind(&())
            && deployment == Some(names::pool(&pool.name_any()).as_str())
    });
    is_made_by_it && uid.is_some() && pod.annotations().get(POOL_UID) == uid
}
