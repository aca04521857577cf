//! Whether a Function can answer, and if not, why.

use wisp_contract::problem::Fault;

use super::{Observed, Verdict, before, count, scaled, verdict};
use crate::cluster::pods::Trouble;
use crate::live::Plan;

/// Whether the function can answer.
pub(super) fn ready(observed: &Observed<'_>) -> Verdict {
    match observed.resolved {
        None => {
            return verdict(
                "Unknown",
                "Resolving",
                "what the function names is being fetched, or its component compiled",
            );
        }
        Some(Err(error)) => {
            return verdict("False", error.reason, meanwhile(observed, &error.message));
        }
        Some(Ok(())) => {}
    }
    if let Some(why) = &observed.not_applied {
        return verdict("False", "NotApplied", meanwhile(observed, why));
    }
    let Some(plan) = observed.plan else {
        return verdict(
            "Unknown",
            "Applying",
            "the function's objects are being made",
        );
    };
    let serving = count(&observed.ready, &plan.serving);
    if plan.latest != plan.serving {
        return rolling_out(observed, plan);
    }
    if serving > 0 {
        if let Some(trouble) = scaled::shortage(observed) {
            return verdict("True", "Serving", scaled::told(observed, trouble));
        }
        let plural = if serving == 1 {
            "replica serves"
        } else {
            "replicas serve"
        };
        return verdict("True", "Serving", format!("{serving} {plural}"));
    }
    if let Some(trouble) = &observed.trouble {
        return verdict("False", trouble.reason, &trouble.message);
    }
    let last = before(observed, "Ready");
    let same = observed
        .function
        .status
        .as_ref()
        .is_some_and(|status| status.revision.as_deref() == Some(&plan.serving));
    match last {
        // What failed has failed until it was seen to serve, even if nothing is left of its pods.
        Some(last) if same && last.status == "False" && is_functions_fault(&last.reason) => {
            verdict("False", &last.reason, &last.message)
        }
        _ if observed.desired == 0 => verdict(
            "True",
            "Sleeping",
            "no replicas: the next request wakes one",
        ),
        Some(last) if same && last.status == "True" => waking(),
        _ if observed.function.spec.scaling.min_replicas == 0 => waking(),
        _ => verdict(
            "Unknown",
            "Starting",
            format!("0 of {} replicas are ready", observed.desired),
        ),
    }
}

/// Why the latest isn't made, with what serves nevertheless.
fn meanwhile(observed: &Observed<'_>, why: &str) -> String {
    match observed.plan {
        Some(plan) => format!("{why}; meanwhile {} serves", plan.serving),
        None => why.to_owned(),
    }
}

/// How far the latest revision is that has yet to take over.
fn rolling_out(observed: &Observed<'_>, plan: &Plan) -> Verdict {
    let (latest, serving) = (&plan.latest, &plan.serving);
    let ready = count(&observed.ready, latest);
    let both = ready > 0 && count(&observed.ready, serving) > 0;
    match &observed.trouble {
        Some(trouble) => {
            let who = if both {
                format!("{serving} and {latest} serve")
            } else {
                format!("{serving} serves")
            };
            let message = format!("{}; meanwhile {who}", trouble.message);
            verdict("False", trouble.reason, message)
        }
        None => {
            let desired = observed.desired;
            let mut message = format!("{ready} of {desired} replicas of {latest} are ready");
            if both {
                message = format!("{message}; meanwhile {serving} serves, too");
            }
            verdict("Unknown", "RollingOut", message)
        }
    }
}

fn waking() -> Verdict {
    verdict(
        "True",
        "Waking",
        "a replica is starting; requests wait for it",
    )
}

/// Whether this was a trouble that is the function's own, and so doesn't pass by itself.
fn is_functions_fault(reason: &str) -> bool {
    Trouble::REASONS
        .iter()
        .any(|(known, fault)| *known == reason && *fault == Fault::Function)
}
