//! What is said of a RuntimePool: a pure function of what was observed.

use std::fmt::Write as _;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use wisp_api::{RuntimePool, RuntimePoolStatus};

use super::claimable::Misfit;
use super::models::State;
use crate::cluster::pods::Trouble;

/// How many of those that don't fit are named.
const NAMED: usize = 3;

/// A function of the pool's namespace, and whether pods of the pool can become its replicas.
pub(super) type Candidate = (String, Result<(), Misfit>);

/// What was observed of a pool.
pub(super) struct Observed<'a> {
    pub(super) pool: &'a RuntimePool,
    /// What was said of it before.
    pub(super) before: RuntimePoolStatus,
    /// Why its objects aren't what they should be, if they can't be.
    pub(super) not_applied: Option<String>,
    pub(super) desired: u32,
    pub(super) alive: usize,
    pub(super) ready: usize,
    pub(super) claims: i32,
    pub(super) trouble: Option<Trouble>,
    pub(super) models: &'a State,
    /// Why none of its pods can be marked as a function's, where that is so.
    pub(super) refused: Option<String>,
    /// The namespace's functions; `None` while it isn't known of them all.
    pub(super) candidates: Option<Vec<Candidate>>,
    pub(super) now: Time,
}

/// What is said of it.
pub(super) fn status(observed: &Observed<'_>) -> RuntimePoolStatus {
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let desired = i32::try_from(observed.desired).unwrap_or(i32::MAX);
    let before = &observed.before;
    let condition = |type_: &str, (status, reason, message): Verdict| Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: before
            .conditions
            .iter()
            .find(|before| before.type_ == type_ && before.status == status)
            .map_or_else(
                || observed.now.clone(),
                |before| before.last_transition_time.clone(),
            ),
        observed_generation: observed.pool.metadata.generation,
    };
    let known = || {
        before
            .conditions
            .iter()
            .find(|known| known.type_ == "Claimable")
    };
    let claimable = match (&observed.refused, &observed.candidates) {
        (Some(why), _) => {
            let message =
                format!("the namespace refuses that pods of the pool become functions': {why}");
            condition("Claimable", ("False", "AdoptionRefused", message))
        }
        (None, Some(candidates)) => condition("Claimable", claimability(candidates)),
        // What was known is true until more is.
        (None, None) => known().cloned().unwrap_or_else(|| {
            let message = "it isn't known yet what pods the namespace's functions need".to_owned();
            condition("Claimable", ("Unknown", "NotKnownYet", message))
        }),
    };
    RuntimePoolStatus {
        observed_generation: observed.pool.metadata.generation,
        desired_replicas: desired,
        replicas: count(observed.alive),
        ready_replicas: count(observed.ready),
        claims: observed.claims,
        functions: observed
            .candidates
            .as_ref()
            .map_or(before.functions, |all| {
                count(all.iter().filter(|(_, fits)| fits.is_ok()).count())
            }),
        conditions: vec![condition("Ready", readiness(observed)), claimable],
    }
}

/// A condition's status, reason and message.
type Verdict = (&'static str, &'static str, String);

/// Whether there is a function that can take the pool's pods, and why others can't.
fn claimability(functions: &[Candidate]) -> Verdict {
    let misfits: Vec<(&String, &Misfit)> = functions
        .iter()
        .filter_map(|(name, fits)| Some((name, fits.as_ref().err()?)))
        .collect();
    let all = functions.len();
    if all == 0 {
        let message = "the namespace has no functions".to_owned();
        return ("Unknown", "NoFunctions", message);
    }
    let fitting = all.saturating_sub(misfits.len());
    let mut message = format!("{fitting} of {all} functions of the namespace can take pods");
    for (name, misfit) in misfits.iter().take(NAMED) {
        let _ = write!(message, "; {name}: {misfit}");
    }
    let more = misfits.len().saturating_sub(NAMED);
    if more > 0 {
        let _ = write!(message, "; and {more} more");
    }
    if fitting == 0 {
        ("False", "NoFunctionFits", message)
    } else {
        ("True", "FunctionsFit", message)
    }
}

/// Whether as many pods stand by as should.
fn readiness(observed: &Observed<'_>) -> Verdict {
    let (ready, desired) = (observed.ready, observed.desired);
    match observed.models {
        State::Failed(error, ..) => return ("False", error.reason, error.message.clone()),
        State::Working => {
            let message = "the models are fetched; pods that stand by have none yet".to_owned();
            return ("False", "FetchingModels", message);
        }
        State::Here(_) => {}
    }
    if let Some(why) = &observed.not_applied {
        return ("False", "NotApplied", why.clone());
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
