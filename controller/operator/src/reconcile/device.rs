//! Where a function's models compute: its replicas are asked, once per revision.

use std::sync::Arc;
use std::time::Duration;

use wisp_api::Function;
use wisp_contract::FunctionId;
use wisp_contract::status::HostStatus;

use super::Context;
use crate::cluster::pods;
use crate::control;
use crate::live::{Live, Plan, lock};

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the models of the revision that serves compute; unknown until a replica was asked, which this begins.
pub fn of(
    context: &Context,
    id: &FunctionId,
    function: &Function,
    live: &Arc<Live>,
    plan: Option<&Plan>,
) -> Option<String> {
    let before = || {
        function
            .status
            .as_ref()
            .and_then(|status| status.device.clone())
    };
    if function.spec.models.is_empty() {
        return None;
    }
    let plan = plan?;
    let mut device = lock(&live.device);
    match device.as_ref() {
        Some((revision, known)) if *revision == plan.serving => {
            return known.clone().or_else(before);
        }
        _ => {}
    }
    let pods = context.cluster.pods_of(id);
    let serves = |pod: &&Arc<_>| pods::is_ready(pod) && pods::revision(pod) == Some(&plan.serving);
    if let Some((pod, address)) = pods
        .iter()
        .find(serves)
        .and_then(|pod| Some((pod, pods::address(pod)?)))
    {
        *device = Some((plan.serving.clone(), None));
        let uid = function.metadata.uid.as_deref().unwrap_or_default();
        let key = control::key(&context.settings.root, pod, id, uid);
        let (live, id, cluster) = (Arc::clone(live), id.clone(), Arc::clone(&context.cluster));
        tokio::spawn(async move {
            let asked = tokio::time::timeout(PATIENCE, control::status(address, &key)).await;
            let Ok(Ok(status)) = asked else {
                tracing::debug!(function = %id, "a replica didn't tell its status");
                *lock(&live.device) = None;
                return;
            };
            if let Some((_, known)) = lock(&live.device).as_mut() {
                *known = summary(&status);
            }
            cluster.reconcile(&id);
        });
    }
    before()
}

/// Every device once, in the order of the models.
fn summary(status: &HostStatus) -> Option<String> {
    let mut devices: Vec<&str> = Vec::new();
    for model in &status.models {
        if !devices.contains(&model.device.as_str()) {
            devices.push(&model.device);
        }
    }
    (!devices.is_empty()).then(|| devices.join(", "))
}
