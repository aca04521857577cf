//! Sets the replicas that functions should have: of all their revisions, however many of these are refused.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use wisp_contract::FunctionId;
use wisp_contract::log::chain;
use wisp_contract::problem::Fault;

use super::spread::{Changes, Surplus};
use super::{Autoscaler, ScaleError, now};
use crate::attempts::digest_of;
use crate::cluster::pods::{self, Trouble};
use crate::live::{Live, lock};
use crate::names;

/// So long the API server has to answer: as long as it may wait for an admission webhook.
const PATIENCE: Duration = Duration::from_secs(30);
/// So long a Deployment that shall have no pods may take to be shown without any.
const EMPTIED_WITHIN: Duration = Duration::from_secs(2);
/// How often a revision's pods are asked for anew at the most: a namespace may go on to refuse them, and there is always somebody
/// who waits.
const ASKED_ANEW: Duration = Duration::from_secs(15);

impl Autoscaler {
    /// Sets replicas beside everything else, unless that goes on already, or was refused a moment ago. What is refused is
    /// refused whatever the number is.
    pub(super) fn begin_push(self: &Arc<Self>, now: Instant, id: &FunctionId, changes: &Changes) {
        let was_refused = self.pushes.error(id).is_some();
        let what = if was_refused { 0 } else { digest_of(changes) };
        if !self.pushes.begin(id, what, now) {
            return;
        }
        let (this, id) = (Arc::clone(self), id.clone());
        tokio::spawn(async move {
            let result = this.push(&id).await.map_err(|error| {
                let error = chain(&error).to_string();
                tracing::warn!(function = %id, error, "the number of replicas could not be set");
                error
            });
            let is_told = result.is_err() != was_refused;
            this.pushes.end(&id, result, Instant::now());
            if is_told {
                this.cluster.reconcile(&id);
            }
        });
    }

    /// All is as it should be, whoever saw to it: what was refused before is told no more.
    pub(super) fn forget_refusal(&self, id: &FunctionId) {
        if self.pushes.error(id).is_some() {
            self.pushes.retain(|known| known != id);
            self.cluster.reconcile(id);
        }
    }

    /// Why the function hasn't the replicas that it should have, where they can't be set.
    #[must_use]
    pub fn refused(&self, id: &FunctionId) -> Option<Trouble> {
        Some(Trouble {
            reason: "ScalingRefused",
            message: self.pushes.error(id)?,
            fault: Fault::Platform,
            is_final: false,
            since: None,
        })
    }

    /// Sets the replicas of all the function's revisions to what they should be. What is refused keeps nothing else from
    /// being set.
    ///
    /// # Errors
    /// When it has no revision, or the API server refuses; with the first that it refused.
    pub async fn push(&self, id: &FunctionId) -> Result<(), ScaleError> {
        let no_revision = || ScaleError::NoRevision(id.clone());
        let live = self.live.get(id).ok_or_else(no_revision)?;
        let _alone = live.scaling.lock().await;
        let changes = self.changes(id, &live);
        let mut is_changed = false;
        let mut result = Ok(());
        for (revision, replicas) in changes.deployments {
            let set = self.set(id, &revision, replicas).await;
            is_changed |= set.is_ok();
            result = result.and(set);
        }
        for pod in changes.surplus {
            let ended = self.end(id, &pod).await;
            if ended.is_ok() {
                is_changed = true;
                lock(&live.claims).remove(&pod.name);
            }
            result = result.and(ended);
        }
        if is_changed && let Some(plan) = lock(&live.plan).as_mut() {
            plan.scaled_at = Some(now());
        }
        result
    }

    /// Sets the replicas of the revision that serves, for who waits for it; all else is set beside that, and what is refused of it is
    /// nobody's who waits.
    ///
    /// # Errors
    /// When it has no revision, or the API server refuses that.
    pub async fn push_serving(self: &Arc<Self>, id: &FunctionId) -> Result<(), ScaleError> {
        let no_revision = || ScaleError::NoRevision(id.clone());
        let live = self.live.get(id).ok_or_else(no_revision)?;
        let serving = live.plan().map(|plan| plan.serving);
        let alone = live.scaling.lock().await;
        let mut rest = self.changes(id, &live);
        let of_serving = serving.and_then(|serving| rest.deployments.remove_entry(&serving));
        let mut result = Ok(());
        if let Some((revision, replicas)) = of_serving {
            result = self.set(id, &revision, replicas).await;
            if result.is_ok()
                && let Some(plan) = lock(&live.plan).as_mut()
            {
                plan.scaled_at = Some(now());
            }
        }
        drop(alone);
        if !rest.is_empty() {
            self.begin_push(Instant::now(), id, &rest);
        }
        result
    }

    /// Has a revision's pods asked for once more that the namespace refused: its Deployment has none but those that were
    /// admitted for a moment. The ReplicaSet then tries at once, and says anew whether it is refused. Where some were admitted,
    /// only if `all` of them are needed.
    ///
    /// # Errors
    /// When the API server refuses that.
    pub async fn ask_anew(
        &self,
        id: &FunctionId,
        live: &Live,
        revision: &str,
        all: bool,
    ) -> Result<(), ScaleError> {
        let _alone = live.scaling.lock().await;
        if was_asked_anew(live) {
            return Ok(());
        }
        *lock(&live.asked_anew) = Some(Instant::now());
        let mut changes = self.cluster.changes(id);
        let replicas = self.replicas(id).get(revision).copied().unwrap_or(0);
        let mut of_revision = self.cluster.pods_of(id);
        of_revision.retain(|pod| pods::revision(pod) == Some(revision) && pods::is_alive(pod));
        let admitted = of_revision.iter().filter(|pod| !pods::is_claimed(pod));
        let admitted = u32::try_from(admitted.count()).unwrap_or(u32::MAX);
        // Those that are there are on their way.
        if replicas <= admitted || !(all || of_revision.is_empty()) {
            return Ok(());
        }
        self.set(id, revision, admitted).await?;
        let emptied = async {
            loop {
                changes.borrow_and_update();
                let deployment = self.cluster.deployments.get(id, revision);
                let is_refused = |deployment: &Deployment| pods::refused(deployment).is_some();
                if !deployment.as_deref().is_some_and(is_refused)
                    || changes.changed().await.is_err()
                {
                    return;
                }
            }
        };
        // Shown or not: who waits needs them.
        let _ = tokio::time::timeout(EMPTIED_WITHIN, emptied).await;
        self.set(id, revision, replicas).await
    }

    async fn end(&self, id: &FunctionId, pod: &Surplus) -> Result<(), ScaleError> {
        let api = Api::<Pod>::namespaced(self.client.clone(), id.namespace());
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(pod.uid.clone()),
                ..Preconditions::default()
            }),
            ..DeleteParams::default()
        };
        match tokio::time::timeout(PATIENCE, api.delete(&pod.name, &parameters)).await {
            Err(_) => Err(ScaleError::Silence(PATIENCE)),
            // It is no more, or another has its name.
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(()),
            Ok(other) => other.map(drop).map_err(|source| ScaleError::End {
                pod: pod.name.clone(),
                source,
            }),
        }
    }

    async fn set(&self, id: &FunctionId, revision: &str, replicas: u32) -> Result<(), ScaleError> {
        let api = Api::<Deployment>::namespaced(self.client.clone(), id.namespace());
        let parameters = PatchParams {
            field_manager: Some(names::SCALER.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        let patched = api.patch_scale(revision, &parameters, &patch);
        let patched = tokio::time::timeout(PATIENCE, patched).await;
        patched
            .map_err(|_| ScaleError::Silence(PATIENCE))?
            .map(drop)
            .map_err(|source| ScaleError::Api {
                revision: revision.to_owned(),
                replicas,
                source,
            })
    }
}

/// Whether pods were asked for anew so lately that they aren't yet again.
pub(super) fn was_asked_anew(live: &Live) -> bool {
    lock(&live.asked_anew).is_some_and(|last| last.elapsed() < ASKED_ANEW)
}
