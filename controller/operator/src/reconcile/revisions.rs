//! Which revisions there are: what they hold of the store, which one serves, and which ones go.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use wisp_api::Function;
use wisp_contract::FunctionId;
use wisp_contract::log::chain;

use super::desired::{BEFORE_ANNOTATION, artifacts_in, before_in, is_of_spec};
use super::{Context, ReconcileError, apply};
use crate::artifacts::Artifacts;
use crate::autoscale::Seen;
use crate::cluster::{Cluster, pods};
use crate::live::{Functions, Live, Plan, lock};
use crate::names::{self, MANAGER, Ownership};
use crate::resolve::Resolved;
use crate::resolver::Outcome;

/// Keeps in the store what the revisions consist of that were there before this process began: the one that serves, the
/// latest, and those that serve again if these can't. They may be asleep, and nobody else needs what they are made of; by what is resolved from now on it would be pushed
/// out.
pub(super) fn recall(cluster: &Cluster, functions: &Functions, artifacts: &dyn Artifacts) {
    for function in cluster.functions().state() {
        let Ok(id) = function.id() else { continue };
        let records = records(cluster, &id, &function);
        let latest = records.iter().max_by_key(|record| record.revision);
        let serves = function.status.iter();
        let mut serves = serves.filter_map(|status| status.revision.as_ref());
        let named = |name: &str| records.iter().find(|record| record.name_any() == name);
        let serving = serves.next().and_then(|serves| named(serves));
        let before = serving.and_then(|record| before_in(record)).and_then(named);
        let digests: Vec<String> = [serving, latest, before]
            .into_iter()
            .flatten()
            .flat_map(|record| artifacts_in(record))
            .collect();
        if digests.is_empty() {
            continue;
        }
        let live = functions.enter(&id, &function.uid().unwrap_or_default());
        lock(&live.recalled).clone_from(&digests);
        artifacts.hold(&id.to_string(), digests);
    }
}

/// What the revision of `resolved` consists of stays in the store, beside all that did before.
pub(super) fn reserve(
    artifacts: &dyn Artifacts,
    id: &FunctionId,
    live: &Live,
    resolved: &Resolved,
) {
    keep(artifacts, id, live, resolved, true);
}

/// What replicas may fetch stays in the store: also what the revision before needs, as long as it serves.
pub(super) fn hold(artifacts: &dyn Artifacts, id: &FunctionId, live: &Live, resolved: &Resolved) {
    // One on trial may give way to the one before.
    let is_rolling = live.plan().is_some_and(|plan| plan.serving != plan.latest)
        || lock(&live.rollout).before().is_some();
    keep(artifacts, id, live, resolved, is_rolling);
}

fn keep(
    artifacts: &dyn Artifacts,
    id: &FunctionId,
    live: &Live,
    resolved: &Resolved,
    also_before: bool,
) {
    let mut digests = resolved.digests();
    let mut recalled = lock(&live.recalled);
    if !also_before {
        recalled.clear();
    }
    live.hold(id, artifacts, |held| {
        if also_before {
            digests.extend(held.iter().chain(recalled.iter()).cloned());
            digests.sort();
            digests.dedup();
        }
        digests
    });
}

/// The revisions of which resolving the function fetches nothing, among the one that serves and the one that does again if that
/// can't: those of another spec, and both where `outcome` is a failure.
pub(super) fn to_keep(
    cluster: &Cluster,
    id: &FunctionId,
    function: &Function,
    live: &Live,
    outcome: &Outcome,
) -> Vec<Arc<ControllerRevision>> {
    let serving = live.plan().map(|plan| plan.serving);
    let before = lock(&live.rollout).before().map(str::to_owned);
    let named = serving.into_iter().chain(before);
    let mut records: Vec<_> = named
        .filter_map(|revision| cluster.revisions.get(id, &revision))
        .collect();
    if !matches!(outcome, Outcome::Failed(..)) {
        records.retain(|record| !is_of_spec(record, function));
    }
    records
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

/// What keeps pods of a revision from serving, or it from having any.
pub(super) fn trouble(context: &Context, id: &FunctionId, revision: &str) -> Option<pods::Trouble> {
    let pods = context.cluster.pods_of(id);
    let mut of_revision = pods
        .iter()
        .filter(|pod| pods::revision(pod) == Some(revision));
    let deployment = context.cluster.deployments.get(id, revision);
    of_revision
        .find_map(|pod| pods::trouble(pod))
        .or_else(|| pods::refused(deployment.as_deref()?))
}

/// Which revision serves from now on: remembers it, and has the replicas follow. `before` is the one that did before this
/// process began.
pub(super) async fn settle(
    context: &Context,
    id: &FunctionId,
    live: &Live,
    latest: &str,
    before: Option<String>,
    function: &Function,
) {
    let target = lock(&live.load).desired;
    let (changed, serving) = {
        let (mut rollout, mut plan) = (lock(&live.rollout), lock(&live.plan));
        // A wake-up may have gone back to the one before a moment ago.
        let serving = plan.as_ref().map(|plan| plan.serving.clone()).or(before);
        let wanted = target.unwrap_or_else(|| asked(context, id, serving.as_deref(), function));
        let (alive, ready) = counts(context, id);
        let troubles = serving.iter().map(String::as_str).chain([latest]);
        let troubles = troubles.filter_map(|revision| {
            let trouble = trouble(context, id, revision)?;
            trouble.is_sure().then(|| (revision.to_owned(), trouble))
        });
        let seen = Seen {
            desired: wanted,
            alive: &alive,
            ready: &ready,
            troubles: &troubles.collect(),
        };
        let next = Plan {
            latest: latest.to_owned(),
            serving: rollout.promote(serving.as_deref(), latest, seen),
            scaled_at: plan.as_ref().and_then(|plan| plan.scaled_at.clone()),
        };
        let changed = plan.as_ref() != Some(&next);
        if changed && plan.as_ref().map(|plan| &plan.serving) != Some(&next.serving) {
            tracing::info!(function = %id, revision = next.serving, "a revision serves from now on");
        }
        let serving = next.serving.clone();
        *plan = Some(next);
        (changed, serving)
    };
    if let Err(error) = note(context, id, live, &serving).await {
        tracing::warn!(function = %id, error = %chain(&error), "it could not be noted which revision serves if the next can't");
    }
    if !changed {
        return;
    }
    context.autoscaler.begin(id, function, live);
    context.cluster.notify(id);
    if let Err(error) = context.autoscaler.push(id).await {
        tracing::warn!(function = %id, error = %chain(&error), "the number of replicas could not be set");
    }
}

/// Remembers what the process before this one noted of `serving`, the revision that served then: that it was on trial.
pub(super) fn resume(context: &Context, id: &FunctionId, function: &Function, serving: &str) {
    let records = records(&context.cluster, id, function);
    let named = |name: &str| records.iter().find(|record| record.name_any() == name);
    let before = named(serving).and_then(|record| before_in(record));
    // What is left of one that is no more can't serve.
    let Some(before) = before.filter(|before| named(before).is_some()) else {
        return;
    };
    if let Some(live) = context.live.get(id) {
        lock(&live.rollout).resume(serving, before);
    }
}

/// Notes which revision serves again if `serving` can't, before anybody is told that this one serves: a process that begins
/// anew knows it by that. Once it has served, that is noted no more.
async fn note(
    context: &Context,
    id: &FunctionId,
    live: &Live,
    serving: &str,
) -> Result<(), kube::Error> {
    let before = lock(&live.rollout).before().map(str::to_owned);
    let record = context.cluster.revisions.get(id, serving);
    if record.as_deref().and_then(before_in) == before.as_deref() {
        return Ok(());
    }
    let api = Api::<ControllerRevision>::namespaced(context.client.clone(), id.namespace());
    let note = json!({"metadata": {"annotations": {BEFORE_ANNOTATION: before}}});
    // It isn't applied, which would take it away with what else is.
    let parameters = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    api.patch_metadata(serving, &parameters, &Patch::Merge(&note))
        .await
        .map(drop)
}

/// The records of the function's revisions. One that somebody else made is none, whatever its labels say: what else has its
/// name would go with it.
pub(super) fn records(
    cluster: &Cluster,
    id: &FunctionId,
    function: &Function,
) -> Vec<Arc<ControllerRevision>> {
    let mut records = cluster.revisions.of(id);
    records.retain(|record| names::ownership(function, &record.metadata) == Ownership::Ours);
    records
}

/// How many replicas a function should have, of which nothing was decided yet: as many as it was given, and those that it
/// should have at least.
fn asked(context: &Context, id: &FunctionId, serving: Option<&str>, function: &Function) -> u32 {
    let deployment = serving.and_then(|serving| context.cluster.deployments.get(id, serving));
    let given = deployment.and_then(|deployment| deployment.spec.replicas);
    let given = u32::try_from(given.unwrap_or(0)).unwrap_or(0);
    given.max(function.spec.scaling.min_replicas)
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
    let before = lock(&live.rollout).before().map(str::to_owned);
    let is_used = |name: &String| {
        *name == plan.latest || *name == plan.serving || Some(name) == before.as_ref()
    };
    lock(&live.kept).retain(is_used);
    let (alive, _) = counts(context, id);
    let mut records = records(&context.cluster, id, function);
    records.retain(|record| {
        !is_used(&record.name_any()) && record.metadata.deletion_timestamp.is_none()
    });
    records.sort_by_key(|record| std::cmp::Reverse(record.revision));
    for record in records.iter().skip(context.options.revision_history) {
        if !alive.contains_key(&record.name_any()) {
            apply::remove(&context.client, function, &record.name_any()).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;
    use serde_json::json;
    use wisp_api::Values;

    use super::*;
    use crate::artifacts::Stored;
    use crate::names::revision_labels;
    use crate::pins::SPEC_ANNOTATION;
    use crate::resolve::tests::Store;
    use crate::resolve::{Bytes, Part, ResolveError, spec_digest};

    fn resolved(component: &str) -> Resolved {
        let stored = Stored {
            source: component.to_owned(),
            size: 1,
            sha256: component.to_owned(),
            pinned: None,
            compiled: Vec::new(),
            memory: 0,
        };
        Resolved {
            component: Bytes::Stored(stored),
            models: Vec::new(),
            values: Values::default(),
        }
    }

    fn function() -> Function {
        serde_json::from_value(json!({
            "apiVersion": "wisp.dev/v1alpha1", "kind": "Function",
            "metadata": {"name": "f", "namespace": "n", "uid": "u"},
            "spec": {"component": {"image": "r/x:1"}},
            "status": {"revision": "f-1"},
        }))
        .unwrap()
    }

    fn record(function: &Function, name: &str, number: i64, artifacts: &str) -> ControllerRevision {
        let mut metadata = names::owned(function, name, revision_labels("f", name));
        let pins = json!({"component": {"sha256": format!("source-{number}")}});
        let noted = [
            ("wisp.dev/artifacts", artifacts),
            ("wisp.dev/pins", &pins.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
        metadata.annotations = Some(noted.into());
        ControllerRevision {
            metadata,
            revision: Some(number),
            ..ControllerRevision::default()
        }
    }

    /// Would fail if an operator that has just begun let go of what sleeping functions are made of, before it has resolved
    /// them; or held what is nobody's any more, or anybody's who made a record.
    #[test]
    fn what_was_there_before_stays_until_it_is_known_what_is_needed() {
        let (store, functions) = (Store::default(), Functions::default());
        let (cluster, mut feed) = Cluster::new();
        let function = function();
        let id = function.id().unwrap();
        let of_store = feed.store();
        of_store.apply_watcher_event(&Event::Apply(function.clone()));
        let mut serving = record(&function, "f-1", 1, "serves,code");
        let before = (BEFORE_ANNOTATION.to_owned(), "f-before".to_owned());
        serving.annotations_mut().extend([before]);
        let mut foreign = record(&function, "foreign", 9, "foreign");
        foreign.metadata.owner_references = None;
        for record in [
            record(&function, "f-0", 0, "old"),
            record(&function, "f-before", 0, "before"),
            serving,
            record(&function, "f-2", 2, "latest"),
            foreign,
        ] {
            cluster.revisions.apply(Event::Apply(record));
        }
        recall(&cluster, &functions, &store);
        let held = || store.held("n/f");
        let recalled = "before code latest serves source-0 source-1 source-2";
        assert_eq!(held().join(" "), recalled);

        // What it resolves to serves only once it can.
        let live = functions.get(&id).unwrap();
        reserve(&store, &id, &live, &resolved("new"));
        let plan = |serving: &str| {
            *lock(&live.plan) = Some(Plan {
                latest: "f-3".to_owned(),
                serving: serving.to_owned(),
                scaled_at: None,
            });
        };
        plan("f-1");
        hold(&store, &id, &live, &resolved("new"));
        let all = "before code latest new serves source-0 source-1 source-2";
        assert_eq!(held().join(" "), all);
        plan("f-3");
        hold(&store, &id, &live, &resolved("new"));
        assert_eq!(held(), ["new"]);
        // The next is fetched while this one serves.
        reserve(&store, &id, &live, &resolved("next"));
        assert_eq!(held(), ["new", "next"]);
    }

    /// Would fail if what serves, or does again if the latest can't, weren't fetched anew after the store was lost once the latest
    /// is resolved; or what resolving fetches were, beside it.
    #[test]
    fn what_resolving_does_not_fetch_is_kept() {
        let (cluster, _feed) = Cluster::new();
        let (function, live) = (function(), Live::default());
        let id = function.id().unwrap();
        let mut latest = record(&function, "f-2", 2, "");
        let spec = (SPEC_ANNOTATION.to_owned(), spec_digest(&function));
        latest.annotations_mut().extend([spec]);
        for record in [record(&function, "f-1", 1, ""), latest] {
            cluster.revisions.apply(Event::Apply(record));
        }
        let error = ResolveError {
            part: Part::Component,
            reason: "NotFound",
            message: "m".to_owned(),
            is_transient: false,
            retry_after: None,
            model: None,
        };
        let outcomes = [
            Outcome::Resolved(Arc::new(resolved("new"))),
            Outcome::Working,
            Outcome::Failed(error, None),
        ];
        let kept = || {
            outcomes.each_ref().map(|outcome| {
                let records = to_keep(&cluster, &id, &function, &live, outcome);
                let names = records.iter().map(|record| record.name_any());
                names.collect::<Vec<_>>().join(" ")
            })
        };
        assert_eq!(kept(), ["", "", ""], "it isn't known what serves");
        let serves = |serving: &str| {
            *lock(&live.plan) = Some(Plan {
                latest: "f-2".to_owned(),
                serving: serving.to_owned(),
                scaled_at: None,
            });
        };
        serves("f-1");
        assert_eq!(kept(), ["f-1", "f-1", "f-1"]);
        serves("f-2");
        assert_eq!(kept(), ["", "", "f-2"]);
        lock(&live.rollout).resume("f-2", "f-1");
        assert_eq!(kept(), ["f-1", "f-1", "f-2 f-1"]);
    }
}
