//! Observes a Function and writes what is to be said of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource as _, ResourceExt as _};
use serde_json::json;
use wisp_api::{Function, FunctionStatus};
use wisp_contract::FunctionId;
use wisp_contract::log::chain;

use super::revisions::{counts, trouble};
use super::status::{self, Observed};
use super::{Context, ReconcileError, device, hosts};
use crate::autoscale;
use crate::cluster::pods::Trouble;
use crate::live::{Live, lock};
use crate::names::MANAGER;
use crate::resolver::Outcome;

/// So long no status is written that tells of the same failure in other words: each has the function reconciled at once, which
/// fails again, and what an API server says of a webhook may have a number in it that is another each time.
const SAME_FAILURE: Duration = Duration::from_secs(10);

/// Writes the status where it differs.
pub(super) async fn say(
    context: &Context,
    id: &FunctionId,
    function: &Function,
    live: &Arc<Live>,
    outcome: &Outcome,
    failed: Option<&ReconcileError>,
) -> Result<(), ReconcileError> {
    let (alive, ready) = counts(context, id);
    let plan = live.plan();
    let all = context.cluster.functions().state();
    let taken = hosts::taken(function, &all, &context.names);
    let records = context.cluster.revisions.of(id);
    let resolved = match outcome {
        Outcome::Working => None,
        Outcome::Resolved(_) => Some(Ok(())),
        Outcome::Failed(error, _) => Some(Err(error)),
    };
    let observed = Observed {
        function,
        resolved,
        stage: lock(&live.resolution).stage,
        not_applied: failed.map(|error| chain(error)),
        plan: plan.as_ref(),
        desired: lock(&live.load)
            .desired
            .unwrap_or(function.spec.scaling.min_replicas),
        trouble: plan
            .as_ref()
            .and_then(|plan| trouble_of(context, id, live, &plan.latest)),
        records: &records,
        hosts: hosts::held(function, &taken, Timestamp::now()),
        hosts_taken: &taken,
        service: lock(&live.applied)
            .as_ref()
            .map(|applied| applied.service.clone()),
        url: context.options.url(id.namespace(), id.name()),
        device: device::of(context, id, function, live, plan.as_ref()),
        now: autoscale::now(),
        alive,
        ready,
    };
    let next = status::status(&observed);
    context.metrics.ready(id, next.ready_replicas);
    if function.status.as_ref() == Some(&next) {
        return Ok(());
    }
    let is_recent = lock(&live.said).is_some_and(|said| said.elapsed() < SAME_FAILURE);
    let before = function.status.as_ref();
    if failed.is_some() && is_recent && before.is_some_and(|before| differ_in_words(before, &next))
    {
        return Ok(());
    }
    write(context, function, &next).await?;
    *lock(&live.said) = Some(Instant::now());
    context
        .events
        .tell(function, function.status.as_ref(), &next)
        .await;
    Ok(())
}

/// What keeps the latest revision from serving: as is seen of its pods, or was when they were tried.
fn trouble_of(context: &Context, id: &FunctionId, live: &Live, latest: &str) -> Option<Trouble> {
    trouble(context, id, latest)
        .or_else(|| lock(&live.rollout).told(latest).cloned())
        .or_else(|| context.autoscaler.refused(id))
}

async fn write(
    context: &Context,
    function: &Function,
    status: &FunctionStatus,
) -> Result<(), ReconcileError> {
    let api = Api::<Function>::namespaced(
        context.client.clone(),
        &function.namespace().unwrap_or_default(),
    );
    let patch = json!({
        "apiVersion": Function::api_version(&()), "kind": Function::kind(&()),
        "metadata": {"name": function.name_any(), "uid": function.uid()},
        "status": status,
    });
    let parameters = PatchParams::apply(MANAGER).force();
    match api
        .patch_status(&function.name_any(), &parameters, &Patch::Apply(&patch))
        .await
    {
        // It was deleted meanwhile, or made anew: its own reconciliation follows.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        other => other
            .map(drop)
            .map_err(|error| ReconcileError::Status(Box::new(error))),
    }
}

/// Whether nothing but the conditions' messages is another.
fn differ_in_words(before: &FunctionStatus, next: &FunctionStatus) -> bool {
    let [before, next] = [before, next].map(|status| {
        let mut status = status.clone();
        for condition in &mut status.conditions {
            condition.message.clear();
        }
        status
    });
    before == next
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Would fail if what an API server's words alone make another were written again and again, or something else weren't.
    #[test]
    fn other_words_for_the_same_are_told_from_something_else() {
        let status = |reason: &str, message: &str, replicas: u32| -> FunctionStatus {
            let condition = json!({
                "type": "Ready", "status": "False", "reason": reason, "message": message,
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            });
            serde_json::from_value(json!({"replicas": replicas, "conditions": [condition]}))
                .unwrap()
        };
        let before = status("NotApplied", "read tcp 10.0.0.1:4711: reset", 1);
        for (next, are_words) in [
            (
                status("NotApplied", "read tcp 10.0.0.1:4712: reset", 1),
                true,
            ),
            (status("Serving", "read tcp 10.0.0.1:4711: reset", 1), false),
            (
                status("NotApplied", "read tcp 10.0.0.1:4712: reset", 2),
                false,
            ),
        ] {
            assert_eq!(differ_in_words(&before, &next), are_words, "{next:?}");
        }
    }
}
