//! Pods that were taken from pools: whether they serve, and which ones go first.

use std::cmp::Reverse;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use super::spread::Surplus;
use crate::cluster::pods;
use crate::live::Claim;

/// So long one that isn't ready may be about to be, or ready again: while it loads a function's models it doesn't say that it
/// stands by, and its kubelet looks a moment after it serves.
const STARTING: Duration = Duration::from_secs(60);
/// So long one's node may take to have what its function asks for: what it waits for may end meanwhile.
const RESIZED_WITHIN: Duration = Duration::from_secs(60);

/// A pod that was taken from a pool, and is neither ending nor over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) pod: Surplus,
    pub(super) is_ready: bool,
    /// Whether it serves, or may be about to: another is made for one that doesn't.
    pub(super) counts: bool,
    /// Whether its node can't give it what the function asks for: another is made, and it goes once that serves.
    pub(super) is_short: bool,
    /// When it was made; `None` where the cluster doesn't show it as the function's yet, which may be a moment.
    pub(super) made: Option<Timestamp>,
}

impl Taken {
    /// One that the cluster shows as the function's, as of `now`.
    pub(super) fn shown(pod: &Pod, now: Timestamp) -> Self {
        let is_ready = pods::is_ready(pod);
        let made = pod.creation_timestamp().map(|made| made.0);
        let since = pods::unready_since(pod).or(made);
        let is_new = since.is_none_or(|since| !is_long(since, now));
        let is_short = pods::unresized_since(pod)
            .is_some_and(|since| pods::has_lasted(since, now, RESIZED_WITHIN));
        Self {
            pod: Surplus::of(pod),
            is_ready,
            counts: is_ready || is_new,
            is_short,
            made,
        }
    }

    /// One that the cluster doesn't show as the function's yet, or that is yet to come.
    pub(super) fn unseen(name: &str, claim: &Claim) -> Self {
        Self {
            pod: Surplus {
                name: name.to_owned(),
                uid: String::new(),
            },
            is_ready: claim.replica.is_some(),
            counts: true,
            is_short: false,
            made: None,
        }
    }

    /// Whether it can be ended: one that the cluster doesn't show yet is waited for, or isn't there at all.
    pub(super) fn can_be_ended(&self) -> bool {
        !self.pod.uid.is_empty()
    }
}

/// Whether a Deployment's pod served, and as of `now` hasn't done so for long: Kubernetes shows one on a node that died for
/// minutes. One that never served may be loading its models.
pub(super) fn is_lost(pod: &Pod, now: Timestamp) -> bool {
    let began = pods::container(pod)
        .and_then(|status| status.state.as_ref()?.running.as_ref()?.started_at.as_ref());
    // It isn't ready from before its container begins.
    pods::unready_since(pod)
        .is_some_and(|since| began.is_some_and(|began| began.0 < since) && is_long(since, now))
}

/// Whether what is so since then may have been about to be otherwise, and wasn't.
fn is_long(since: Timestamp, now: Timestamp) -> bool {
    pods::has_lasted(since, now, STARTING)
}

/// Puts those first that are to stay longest: what serves, then what has done so for longest.
pub(super) fn sort(pods: &mut [Taken]) {
    pods.sort_by(|a, b| {
        let rank = |taken: &Taken| {
            let serves = (Reverse(taken.is_ready), Reverse(taken.counts));
            (serves, taken.is_short)
        };
        let age = |taken: &Taken| (taken.made.is_none(), taken.made);
        (rank(a), age(a), &a.pod.name).cmp(&(rank(b), age(b), &b.pod.name))
    });
}

/// How many of them count.
pub(super) fn count(pods: &[Taken]) -> u32 {
    number(pods.iter().filter(|taken| taken.counts))
}

/// How many of them count and have what the function asks for.
pub(super) fn count_whole(pods: &[Taken]) -> u32 {
    number(pods.iter().filter(|taken| taken.counts && !taken.is_short))
}

fn number<'a>(pods: impl Iterator<Item = &'a Taken>) -> u32 {
    u32::try_from(pods.count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Would fail if a pod on a node that died kept another from being made for as long as Kubernetes shows it, or if each
    /// pod whose kubelet hasn't looked yet had another made.
    #[test]
    fn a_pod_that_is_unready_for_long_does_not_count() {
        let pod = |status: &str, since: &str| {
            let pod = serde_json::from_value::<Pod>(json!({
                "metadata": {"name": "p", "uid": "u", "creationTimestamp": "2025-12-31T00:00:00Z"},
                "status": {"phase": "Running", "conditions": [
                    {"type": "Ready", "status": status, "lastTransitionTime": since},
                ]},
            }));
            let now = "2026-01-01T00:01:00Z".parse().unwrap();
            let taken = Taken::shown(&pod.unwrap(), now);
            (taken.is_ready, taken.counts)
        };
        assert_eq!(pod("True", "2026-01-01T00:00:00Z"), (true, true));
        assert_eq!(pod("False", "2026-01-01T00:00:01Z"), (false, true));
        assert_eq!(pod("False", "2026-01-01T00:01:09Z"), (false, true));
        assert_eq!(pod("False", "2026-01-01T00:00:00Z"), (false, false));
        assert_eq!(pod("Unknown", "2026-01-01T00:00:00Z"), (false, false));
    }

    /// Would fail if a replica on a node that died were counted as one for as long as Kubernetes shows it, or a second were
    /// made for each that takes long to load its models, also where an injected container began before its own.
    #[test]
    fn a_deployments_pod_that_served_and_does_not_is_lost() {
        let is_lost = |status: &str, since: &str| {
            let pod = serde_json::from_value::<Pod>(json!({
                "metadata": {"name": "p"},
                "status": {
                    "phase": "Running",
                    "conditions": [{"type": "Ready", "status": status, "lastTransitionTime": since}],
                    "containerStatuses": [{
                        "name": "sidecar", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
                        "state": {"running": {"startedAt": "2025-12-31T00:00:00Z"}},
                    }, {
                        "name": "function", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
                        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
                    }],
                },
            }));
            is_lost(&pod.unwrap(), "2026-01-01T00:10:00Z".parse().unwrap())
        };
        assert!(!is_lost("False", "2025-12-31T23:59:58Z"), "it never served");
        assert!(!is_lost("False", "2026-01-01T00:00:00Z"));
        assert!(!is_lost("True", "2026-01-01T00:00:09Z"));
        assert!(is_lost("False", "2026-01-01T00:00:09Z"));
        assert!(is_lost("Unknown", "2026-01-01T00:09:00Z"));
        assert!(!is_lost("False", "2026-01-01T00:09:01Z"), "a moment ago");
    }

    /// Would fail if a pod whose node hasn't room for it stayed as it is for ever, or gave way to another while its kubelet is
    /// about to resize it.
    #[test]
    fn a_pod_that_is_not_resized_for_long_is_short() {
        let is_short = |status: &str, since: &str| {
            let pod = serde_json::from_value::<Pod>(json!({
                "metadata": {"name": "p", "uid": "u", "creationTimestamp": "2025-12-31T00:00:00Z"},
                "status": {"phase": "Running", "conditions": [
                    {"type": "Ready", "status": "True", "lastTransitionTime": since},
                    {"type": "PodResizePending", "status": status, "reason": "Deferred", "lastTransitionTime": since},
                ]},
            }));
            let taken = Taken::shown(&pod.unwrap(), "2026-01-01T00:01:00Z".parse().unwrap());
            assert!(taken.is_ready && taken.counts);
            taken.is_short
        };
        assert!(!is_short("True", "2026-01-01T00:00:01Z"));
        assert!(is_short("True", "2026-01-01T00:00:00Z"));
        assert!(!is_short("False", "2026-01-01T00:00:00Z"));
    }
}
