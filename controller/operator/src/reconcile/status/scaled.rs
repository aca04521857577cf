//! Whether a Function has as many replicas as it should, and if not, why.

use super::{Observed, Verdict, before, total, verdict};
use crate::cluster::pods::Trouble;

/// Whether it has the replicas that it should have: told once something has kept it from that, by one word for as long as it
/// hasn't. `ready` is whether it can answer at all.
pub(super) fn scaled(observed: &Observed<'_>, ready: &Verdict) -> Option<Verdict> {
    if let Some(trouble) = shortage(observed) {
        // One cause is told in the same words everywhere.
        let message = if ready.reason == trouble.reason {
            ready.message.clone()
        } else {
            told(observed, trouble)
        };
        return Some(verdict("False", trouble.reason, message));
    }
    let last = before(observed, "Scaled")?;
    // A container that begins anew is in no trouble for a moment.
    if last.status == "False" && is_short(observed) {
        return Some(verdict("False", &last.reason, &last.message));
    }
    Some(verdict(
        "True",
        "AsWanted",
        "it has the replicas that it should have",
    ))
}

/// What keeps it from having the replicas that it should have.
pub(super) fn shortage<'a>(observed: &'a Observed<'_>) -> Option<&'a Trouble> {
    observed.trouble.as_ref().filter(|_| is_short(observed))
}

/// How many replicas it has, and why no more.
pub(super) fn told(observed: &Observed<'_>, trouble: &Trouble) -> String {
    let (ready, desired) = (total(&observed.ready), observed.desired);
    format!("{ready} of {desired} replicas serve; {}", trouble.message)
}

fn is_short(observed: &Observed<'_>) -> bool {
    i64::from(total(&observed.ready)) < i64::from(observed.desired)
}
