//! Which revisions there are: what they hold of the store, which one serves, and which ones go.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::ResourceExt as _;
use wisp_api::Function;
use wisp_contract::FunctionId;
use wisp_contract::log::chain;

use super::{Context, ReconcileError, apply};
use crate::cluster::pods;
use crate::live::{Live, Plan, lock};
use crate::names::{self, Ownership};
use crate::resolve::{Bytes, Resolved};

/// What replicas may fetch stays in the store: also what the revision before needs, as long as it serves.
pub(super) fn hold(context: &Context, id: &FunctionId, live: &Live, resolved: &Resolved) {
    let all =
        std::iter::once(&resolved.component).chain(resolved.models.iter().map(|(_, bytes)| bytes));
    let mut digests: Vec<String> = all.flat_map(Bytes::digests).collect();
    let is_rolling = live.plan().is_some_and(|plan| plan.serving != plan.latest);
    let mut held = lock(&live.held);
    if is_rolling {
        digests.extend(held.iter().cloned());
    }
    digests.sort();
    digests.dedup();
    if *held != digests {
        held.clone_from(&digests);
        context.artifacts.hold(&id.to_string(), digests);
    }
}

/// Pods that are neither ending nor over, and those that are ready, by revision.
pub(super) fn counts(
    context: &Context,
    id: &FunctionId,
) -> (BTreeMap<String, u32>, BTreeMap<String, u32>) {
    let (mut alive, mut ready) = (BTreeMap::new(), BTreeMap::new());
    for pod in context.cluster.pods_of(id) {
        let Some(revision) = pods::revision(&pod).filter(|_| pods::is_alive(&pod)) else {
            continue;
        };
        *alive.entry(revision.to_owned()).or_default() += 1;
        if pods::is_ready(&pod) {
            *ready.entry(revision.to_owned()).or_default() += 1;
        }
    }
    (alive, ready)
}

/// Remembers which revisions there are, and has their replicas follow.
pub(super) async fn settle(
    context: &Context,
    id: &FunctionId,
    live: &Live,
    latest: &str,
    serving: String,
    function: &Function,
) {
    let changed = {
        let mut plan = lock(&live.plan);
        let next = Plan {
            latest: latest.to_owned(),
            serving,
            scaled_at: plan.as_ref().and_then(|plan| plan.scaled_at.clone()),
        };
        let changed = plan.as_ref() != Some(&next);
        if changed && plan.as_ref().map(|plan| &plan.serving) != Some(&next.serving) {
            tracing::info!(function = %id, revision = next.serving, "a revision serves from now on");
        }
        *plan = Some(next);
        changed
    };
    if !changed {
        return;
    }
    context.autoscaler.begin(id, function, live);
    context.cluster.notify(id);
    if let Err(error) = context.autoscaler.push(id).await {
        tracing::warn!(function = %id, error = %chain(&error), "the number of replicas could not be set");
    }
}

/// The records of the function's revisions. One that somebody else made is none, whatever its labels say: what else has its
/// name would go with it.
pub(super) fn records(
    context: &Context,
    id: &FunctionId,
    function: &Function,
) -> Vec<Arc<ControllerRevision>> {
    let mut records = context.cluster.revisions.of(id);
    records.retain(|record| names::ownership(function, &record.metadata) == Ownership::Ours);
    records
}

/// Removes revisions that were replaced long ago.
pub(super) async fn prune(
    context: &Context,
    id: &FunctionId,
    function: &Function,
    live: &Live,
) -> Result<(), ReconcileError> {
    let Some(plan) = live.plan() else {
        return Ok(());
    };
    let (alive, _) = counts(context, id);
    let mut records = records(context, id, function);
    records.retain(|record| {
        let name = record.name_any();
        name != plan.latest && name != plan.serving && record.metadata.deletion_timestamp.is_none()
    });
    records.sort_by_key(|record| std::cmp::Reverse(record.revision));
    for record in records.iter().skip(context.options.revision_history) {
        if !alive.contains_key(&record.name_any()) {
            apply::remove(&context.client, function, &record.name_any()).await?;
        }
    }
    Ok(())
}
