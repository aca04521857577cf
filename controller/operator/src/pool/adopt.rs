//! A pod that serves a function is marked as its own in the cluster: labels and owner, then what it may use.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt as _};
use serde_json::{Map, Value, json};
use wisp_api::Function;
use wisp_contract::FunctionId;
use wisp_contract::log::chain;
use wisp_contract::operator::pod::{CLAIMED_FROM, CLAIMED_RESTARTS, POOL};

use super::refusals::is_refusal;
use super::{Claimable, Pools, RESIZED_AGAIN};
use crate::attempts::digest_of;
use crate::cluster::pods;
use crate::live::{Live, lock};
use crate::names::{self, MANAGER};
use crate::reconcile::resources;

/// The label by which a Deployment's pods are told apart by their template.
const TEMPLATE_HASH: &str = "pod-template-hash";
/// What the cluster autoscaler asks of a pod before it takes its node away. Of its own accord it ends only pods whose
/// controllers it knows, and a Function is none of them: one such pod would keep its node for ever.
const SAFE_TO_EVICT: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict";
/// So long nothing is written: the request that woke the function has the processors first, and the pod that takes the
/// place of this one is made thereafter.
const ADOPTED_AFTER: Duration = Duration::from_millis(100);
/// The longest that a pod keeps what the pool gave it because others are waited for.
const RESIZED_WITHIN: Duration = Duration::from_secs(2);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// So long it may be refused that a pod is marked as a function's before the pod is given up: until it is marked, nobody in the
/// cluster knows whose it is, and the pool makes no other.
const REFUSED_WITHIN: Duration = Duration::from_secs(60);
/// How long the watch may take to show what was written.
const SEEN_WITHIN: Duration = Duration::from_secs(60);

/// What makes `pod` a replica of `function`, in one write: the pool's ReplicaSet lets go of it and makes another.
pub(super) fn patch(function: &Function, pod: &Pod, pool: &str, claimable: &Claimable) -> Value {
    let mut labels: Map<String, Value> = claimable
        .labels
        .iter()
        .map(|(key, value)| (key.clone(), value.clone().into()))
        .collect();
    labels.insert(CLAIMED_FROM.to_owned(), pool.into());
    labels.insert(POOL.to_owned(), Value::Null);
    labels.insert(TEMPLATE_HASH.to_owned(), Value::Null);
    let mut annotations = claimable.annotations.clone();
    let restarts = pods::restarts(pod).to_string();
    annotations.insert(CLAIMED_RESTARTS.to_owned(), restarts);
    annotations.insert(SAFE_TO_EVICT.to_owned(), "true".to_owned());
    json!({"metadata": {
        // Another pod of that name is refused.
        "uid": pod.uid(),
        "labels": labels,
        "annotations": annotations,
        "ownerReferences": [names::owner(function)],
    }})
}

/// Whether the pod asks for what the revision does, where that is known.
fn has(pod: &Pod, claimable: &Claimable) -> bool {
    let asks = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    let asks = asks.map(|container| container.resources.clone().unwrap_or_default());
    let wanted = claimable.resources.as_ref();
    wanted.is_none_or(|wanted| asks.is_some_and(|asks| resources::has(&asks, wanted)))
}

impl Pools {
    /// Has a pod marked as the function's, however long that takes. Until then it is remembered as claimed.
    pub(super) fn begin_adoption(
        self: &Arc<Self>,
        id: &FunctionId,
        live: &Arc<Live>,
        pool: &str,
        pod: &Arc<Pod>,
        claimable: &Arc<Claimable>,
    ) {
        let (this, id, live) = (Arc::clone(self), id.clone(), Arc::clone(live));
        let (pool, pod, claimable) = (pool.to_owned(), Arc::clone(pod), Arc::clone(claimable));
        tokio::spawn(async move {
            this.queue.pressed(ADOPTED_AFTER).await;
            let adopted = this.adopt(&id, &live, &pool, &pod, &claimable, REFUSED_WITHIN);
            if adopted.await {
                // Who waits for another pod needs the processors first.
                this.queue.calm(RESIZED_WITHIN).await;
                // Where it fails, it is tried again once the pod is seen to be the function's.
                let _ = this.resize(&id, &pod, &claimable).await;
                this.await_seen(&id, &pod).await;
            }
            lock(&live.claims).remove(&pod.name_any());
            this.cluster.notify(&id);
            this.cluster.reconcile(&id);
        });
    }

    /// What a pod of the function's namespace is written to by, and its name.
    fn written(&self, id: &FunctionId, pod: &Pod) -> (Api<Pod>, PatchParams, String) {
        let parameters = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let api = Api::namespaced(self.client.clone(), id.namespace());
        (api, parameters, pod.name_any())
    }

    /// Marks the pod as the function's. Returns whether it is. Silence is waited out; what is refused for `patience` ends.
    pub(super) async fn adopt(
        &self,
        id: &FunctionId,
        live: &Live,
        pool: &str,
        pod: &Pod,
        claimable: &Claimable,
        patience: Duration,
    ) -> bool {
        let (api, parameters, name) = self.written(id, pod);
        let mut pause = Duration::from_millis(50);
        let mut refused = None::<Instant>;
        loop {
            // One that was made anew under that name is another, whose requests the pod refuses.
            let function = self.cluster.function(id);
            let Some(function) = function.filter(|function| live.is_of(function)) else {
                self.discard(pod).await;
                return false;
            };
            let patch = Patch::Merge(patch(&function, pod, pool, claimable));
            let error = match api.patch(&name, &parameters, &patch).await {
                Ok(_) => {
                    self.refusals.forget(id.namespace());
                    return true;
                }
                // It is no more.
                Err(kube::Error::Api(status)) if status.code == 404 => return false,
                Err(error) => error,
            };
            let is_conflict = matches!(&error, kube::Error::Api(status) if status.code == 409);
            // Another has its name. Where it stands, somebody else wrote at the same time, or a policy says so.
            if is_conflict && !self.is_shown(id, pool, pod) {
                return false;
            }
            let why = chain(&error);
            if is_conflict || is_refusal(&error) {
                let (namespace, now) = (id.namespace(), Instant::now());
                let is_over = refused.get_or_insert(now).elapsed() >= patience;
                if is_over || !is_conflict {
                    self.refusals.note(namespace, why.clone(), now);
                }
                if is_over {
                    tracing::error!(function = %id, pod = name, error = why, "a pod is not allowed to be marked as the function's: it ends, and no other is taken in that namespace for a while");
                    // Another is made in its place.
                    lock(&live.claims).remove(&name);
                    self.discard(pod).await;
                    return false;
                }
            }
            tracing::warn!(function = %id, pod = name, error = why, "a pod could not be marked as the function's; trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Whether the watches show the pod, as the pool's or already as the function's. One that is gone they may show for a moment.
    fn is_shown(&self, id: &FunctionId, pool: &str, pod: &Pod) -> bool {
        let name = pod.name_any();
        let pool = FunctionId::new(id.namespace(), pool).ok();
        let of_pool = pool.and_then(|pool| self.cluster.warm.get(&pool, &name));
        let shown = [of_pool, self.cluster.pods.get(id, &name)];
        let mut shown = shown.into_iter().flatten();
        shown.any(|shown| shown.uid() == pod.uid())
    }

    /// Gives pods that were taken from pools what their functions ask for, where they were not given it: the operator that took them
    /// ended before, or the API server didn't answer.
    pub(super) fn resize_missed(self: &Arc<Self>, now: Instant) {
        let mut known = BTreeSet::new();
        for function in self.cluster.functions().state() {
            let id = function.id().ok();
            let live = id.as_ref().and_then(|id| self.live.get(id));
            let (Some(id), Some(live)) = (id, live.filter(|live| live.is_of(&function))) else {
                continue;
            };
            for pod in self.cluster.pods_of(&id) {
                let revision = pods::revision(&pod).filter(|_| pods::is_claimed(&pod));
                let claimable = revision.and_then(|revision| live.claimable(revision));
                let (Some(claimable), Some(uid)) = (claimable, pod.uid()) else {
                    continue;
                };
                let key = (id.clone(), uid);
                known.insert(key.clone());
                let is_being_marked = lock(&live.claims).contains_key(&pod.name_any());
                if is_being_marked || !pods::is_alive(&pod) || has(&pod, &claimable) {
                    continue;
                }
                let wanted = serde_json::to_string(&claimable.resources).unwrap_or_default();
                if self.resizes.begin(&key, digest_of(&wanted), now) {
                    let this = Arc::clone(self);
                    tokio::spawn(async move {
                        let turn = this.writing.acquire().await;
                        let result = this.resize(&key.0, &pod, &claimable).await;
                        drop(turn);
                        // Somebody may have it have something else.
                        let least = RESIZED_AGAIN;
                        this.resizes.end_for(&key, result, Instant::now(), least);
                    });
                }
            }
        }
        self.resizes.retain(|key| known.contains(key));
    }

    /// Gives a pod what the function asks for, as far as its node has it.
    ///
    /// # Errors
    /// When it could not be asked for, and may be again.
    async fn resize(
        &self,
        id: &FunctionId,
        pod: &Pod,
        claimable: &Claimable,
    ) -> Result<(), String> {
        let Some(resources) = &claimable.resources else {
            return Ok(());
        };
        let (api, parameters, name) = self.written(id, pod);
        let resources = json!({
            "metadata": {"uid": pod.uid()},
            "spec": {"containers": [{"name": names::CONTAINER, "resources": resources}]},
        });
        let resized = api
            .patch_subresource("resize", &name, &parameters, &Patch::Strategic(resources))
            .await;
        match resized {
            Ok(_) => Ok(()),
            // It is no more.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            // It serves within what the pool gave it.
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(function = %id, pod = name, error, "a pod could not be resized");
                Err(error)
            }
        }
    }

    /// Waits until the watch shows the pod as the function's, or long enough.
    async fn await_seen(&self, id: &FunctionId, pod: &Pod) {
        let mut changes = self.cluster.changes(id);
        let name = pod.name_any();
        let seen = async {
            loop {
                changes.borrow_and_update();
                if self.cluster.pods.get(id, &name).is_some() || changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(SEEN_WITHIN, seen).await;
    }

    /// Ends a pod that nobody can use any more.
    pub(super) async fn discard(&self, pod: &Pod) {
        self.mark(pod);
        let api = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: pod.uid(),
                ..Preconditions::default()
            }),
            ..DeleteParams::default()
        };
        let mut pause = Duration::from_millis(100);
        loop {
            match api.delete(&pod.name_any(), &parameters).await {
                Ok(_) => return,
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return,
                Err(error) => {
                    tracing::warn!(pod = %pod.name_any(), %error, "a pod could not be ended; trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}
