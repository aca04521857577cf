//! What is said of a Function: a pure function of what was observed.

mod ready;
mod scaled;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt as _;
use wisp_api::{ComponentStatus, Function, FunctionStatus, HostStatus, RevisionStatus};
use wisp_contract::operator::pod;

use super::apply::ServiceName;
use super::desired::component_of;
use super::hosts::Taken;
use crate::artifacts::Stage;
use crate::cluster::pods::Trouble;
use crate::live::Plan;
use crate::resolve::{Part, ResolveError};

/// The longest message of a condition.
const LONGEST: usize = 1024;

/// What was observed of a Function.
#[derive(Debug, Clone)]
pub struct Observed<'a> {
    /// The Function, with what was said of it last.
    pub function: &'a Function,
    /// Whether it is resolved; `None` while that goes on.
    pub resolved: Option<Result<(), &'a ResolveError>>,
    /// How far the component is meanwhile.
    pub stage: Stage,
    /// Why its objects can't be made, if they can't.
    pub not_applied: Option<String>,
    /// Its revisions, once there is one.
    pub plan: Option<&'a Plan>,
    /// How many replicas it should have.
    pub desired: u32,
    /// Pods that are neither ending nor over, by revision.
    pub alive: BTreeMap<String, u32>,
    /// Of these, those that are ready.
    pub ready: BTreeMap<String, u32>,
    /// What keeps pods of the latest revision from serving.
    pub trouble: Option<Trouble>,
    /// The revisions' records.
    pub records: &'a [Arc<ControllerRevision>],
    /// Hosts that lead to it.
    pub hosts: Vec<HostStatus>,
    /// Hosts that are others'.
    pub hosts_taken: &'a [Taken],
    /// Whether it has the Service of its name, where that was applied.
    pub service: Option<ServiceName>,
    /// Its URL.
    pub url: String,
    /// Where its models compute, where that is known.
    pub device: Option<String>,
    /// The present.
    pub now: Time,
}

/// One condition's content.
struct Verdict {
    status: &'static str,
    reason: String,
    message: String,
}

fn verdict(status: &'static str, reason: &str, message: impl Into<String>) -> Verdict {
    let mut message: String = message.into();
    if message.chars().count() > LONGEST {
        message = message.chars().take(LONGEST - 1).chain(['…']).collect();
    }
    Verdict {
        status,
        reason: reason.to_owned(),
        message,
    }
}

/// What is said of it.
#[must_use]
pub fn status(observed: &Observed<'_>) -> FunctionStatus {
    let function = observed.function;
    let serving = observed.plan.map(|plan| plan.serving.clone());
    let record = observed
        .records
        .iter()
        .find(|record| Some(record.name_any()) == serving);
    let before = function.status.clone().unwrap_or_default();
    FunctionStatus {
        url: Some(observed.url.clone()),
        observed_generation: function.metadata.generation,
        replicas: total(&observed.alive),
        ready_replicas: total(&observed.ready),
        selector: Some(format!("{}={}", pod::FUNCTION, function.name_any())),
        device: observed.device.clone(),
        component: record
            .and_then(|record| component_of(record))
            .map(|digest| ComponentStatus { digest }),
        revision: serving,
        revisions: revisions(observed),
        hosts: observed.hosts.clone(),
        conditions: conditions(observed),
        last_scale_time: observed
            .plan
            .and_then(|plan| plan.scaled_at.clone())
            .or(before.last_scale_time),
    }
}

fn total(counts: &BTreeMap<String, u32>) -> i32 {
    let sum = counts
        .values()
        .fold(0_u32, |sum, count| sum.saturating_add(*count));
    i32::try_from(sum).unwrap_or(i32::MAX)
}

fn revisions(observed: &Observed<'_>) -> Vec<RevisionStatus> {
    let mut records: Vec<_> = observed.records.iter().collect();
    records.sort_by_key(|record| std::cmp::Reverse(record.revision));
    let status = |record: &Arc<ControllerRevision>| {
        let name = record.name_any();
        RevisionStatus {
            digest: component_of(record),
            replicas: count(&observed.alive, &name).try_into().unwrap_or(i32::MAX),
            name,
        }
    };
    records.into_iter().map(status).collect()
}

fn count(counts: &BTreeMap<String, u32>, revision: &str) -> u32 {
    counts.get(revision).copied().unwrap_or(0)
}

fn conditions(observed: &Observed<'_>) -> Vec<Condition> {
    let ready = ready::ready(observed);
    let scaled = scaled::scaled(observed, &ready);
    let mut verdicts = vec![
        ("ComponentReady", component(observed)),
        ("ModelsReady", models(observed)),
        ("Ready", ready),
    ];
    verdicts.extend(scaled.map(|scaled| ("Scaled", scaled)));
    // A name that it has without asking may be another's, too.
    if !observed.function.spec.hosts.is_empty() || !observed.hosts_taken.is_empty() {
        verdicts.push(("HostsReady", hosts(observed)));
    }
    let function = observed.function.name_any();
    let without = "the function has no such name in the cluster; its URL and hosts lead to it";
    match &observed.service {
        Some(ServiceName::Taken) => {
            let message = format!(
                "a Service `{function}` that isn't this function's is in its namespace: {without}"
            );
            verdicts.push(("ServiceReady", verdict("False", "NameTaken", message)));
        }
        Some(ServiceName::Refused(why)) => {
            let message = format!(
                "the API server refuses the Service `{function}`; unless it is there already, {without}: {why}"
            );
            verdicts.push(("ServiceReady", verdict("False", "Refused", message)));
        }
        Some(ServiceName::Held) | None => {}
    }
    verdicts
        .into_iter()
        .map(|(kind, verdict)| condition(observed, kind, verdict))
        .collect()
}

fn condition(observed: &Observed<'_>, kind: &str, verdict: Verdict) -> Condition {
    let since = before(observed, kind)
        .filter(|before| before.status == verdict.status)
        .map_or_else(
            || observed.now.clone(),
            |before| before.last_transition_time.clone(),
        );
    Condition {
        type_: kind.to_owned(),
        status: verdict.status.to_owned(),
        reason: verdict.reason,
        message: verdict.message,
        last_transition_time: since,
        observed_generation: observed.function.metadata.generation,
    }
}

fn before<'a>(observed: &Observed<'a>, kind: &str) -> Option<&'a Condition> {
    let status = observed.function.status.as_ref()?;
    status
        .conditions
        .iter()
        .find(|condition| condition.type_ == kind)
}

fn component(observed: &Observed<'_>) -> Verdict {
    let source = observed.function.spec.component.as_ref();
    let fetched = || match source.and_then(|source| source.persistent_volume_claim.as_ref()) {
        Some(claim) => {
            let message = format!(
                "the component is read from the claim {} when a replica starts",
                claim.claim_name
            );
            verdict("True", "OnVolume", message)
        }
        None => verdict(
            "True",
            "Fetched",
            "the component is fetched, checked and compiled",
        ),
    };
    match observed.resolved {
        None => match observed.stage {
            Stage::Fetching => verdict("Unknown", "Fetching", "the component is being fetched"),
            Stage::Preparing => verdict(
                "Unknown",
                "Preparing",
                "the component is fetched, and is compiled once it is its turn",
            ),
            Stage::Prepared => fetched(),
        },
        Some(Ok(())) => fetched(),
        Some(Err(error)) => match error.part {
            Part::Component => verdict("False", error.reason, &error.message),
            Part::Models => fetched(),
            Part::Function => verdict(
                "Unknown",
                "NotFetched",
                "the function can't be resolved; Ready tells why",
            ),
        },
    }
}

fn models(observed: &Observed<'_>) -> Verdict {
    let models = observed.function.spec.models.len();
    if models == 0 {
        return verdict("True", "NoModels", "the function names no models");
    }
    match observed.resolved {
        None if observed.stage == Stage::Prepared => {
            verdict("Unknown", "Fetching", "the models are being fetched")
        }
        None => verdict(
            "Unknown",
            "NotFetched",
            "the component comes first; ComponentReady tells how far it is",
        ),
        Some(Ok(())) => verdict("True", "Fetched", "all models are where replicas find them"),
        Some(Err(error)) if error.part == Part::Models => {
            verdict("False", error.reason, &error.message)
        }
        Some(Err(_)) => verdict(
            "Unknown",
            "NotFetched",
            "the component comes first; ComponentReady and Ready tell why",
        ),
    }
}

fn hosts(observed: &Observed<'_>) -> Verdict {
    if observed.hosts_taken.is_empty() {
        return verdict("True", "Claimed", "all hosts lead to this function");
    }
    let taken = observed.hosts_taken.iter().map(ToString::to_string);
    let message = taken.collect::<Vec<_>>().join("; ");
    verdict("False", "HostTaken", message)
}

#[cfg(test)]
mod tests;
