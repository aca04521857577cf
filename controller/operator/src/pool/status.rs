//! What is said of a RuntimePool: a pure function of what was observed.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use wisp_api::{RuntimePool, RuntimePoolStatus};

use super::models::State;
use crate::cluster::pods::Trouble;

/// What was observed of a pool.
pub(super) struct Observed<'a> {
    pub(super) pool: &'a RuntimePool,
    pub(super) desired: u32,
    pub(super) alive: usize,
    pub(super) ready: usize,
    pub(super) claims: i32,
    pub(super) trouble: Option<Trouble>,
    pub(super) models: &'a State,
    pub(super) now: Time,
}

/// What is said of it.
pub(super) fn status(observed: &Observed<'_>) -> RuntimePoolStatus {
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let desired = i32::try_from(observed.desired).unwrap_or(i32::MAX);
    let (status, reason, message) = verdict(observed);
    let before = observed.pool.status.clone().unwrap_or_default();
    let since = before
        .conditions
        .into_iter()
        .find(|before| before.type_ == "Ready" && before.status == status)
        .map_or_else(
            || observed.now.clone(),
            |before| before.last_transition_time,
        );
    RuntimePoolStatus {
        observed_generation: observed.pool.metadata.generation,
        desired_replicas: desired,
        replicas: count(observed.alive),
        ready_replicas: count(observed.ready),
        claims: observed.claims,
        conditions: vec![Condition {
            type_: "Ready".to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            last_transition_time: since,
            observed_generation: observed.pool.metadata.generation,
        }],
    }
}

fn verdict(observed: &Observed<'_>) -> (&'static str, &'static str, String) {
    let (ready, desired) = (observed.ready, observed.desired);
    match observed.models {
        State::Failed(error, _) => return ("False", error.reason, error.message.clone()),
        State::Working => {
            let message = "the models are fetched; pods that stand by have none yet".to_owned();
            return ("False", "FetchingModels", message);
        }
        State::Here(_) => {}
    }
    if let Some(trouble) = &observed.trouble
        && ready == 0
    {
        return ("False", trouble.reason, trouble.message.clone());
    }
    let wanted = usize::try_from(desired).unwrap_or(usize::MAX);
    if ready >= wanted {
        let plural = if ready == 1 {
            "pod stands"
        } else {
            "pods stand"
        };
        return ("True", "StandingBy", format!("{ready} {plural} by"));
    }
    (
        "False",
        "Refilling",
        format!("{ready} of {desired} pods stand by"),
    )
}
