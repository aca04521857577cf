//! When objects that were applied are applied once more: after a while, in case somebody changed them, and as soon as the
//! Deployment is seen to be another.

use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;

use crate::attempts::digest_of;
use crate::live::Applied;

/// So long applied objects are taken to be as they were applied, on average.
const APPLIED_FOR: Duration = Duration::from_secs(600);

/// So long the objects of what has this uid are taken to be as they were applied: between half and one and a half times what
/// others are, so that what was applied at once, when this process began, isn't ever after.
#[must_use]
pub fn applied_for(uid: &str) -> Duration {
    let thousandths = u32::try_from(digest_of(&uid) % 1000).unwrap_or_default();
    APPLIED_FOR / 2 + APPLIED_FOR * thousandths / 1000
}

/// A digest of a Deployment as it was applied: of its spec, without the number of replicas, which has another writer.
#[must_use]
pub fn shape(deployment: &Deployment) -> u64 {
    let mut spec = deployment.spec.clone();
    spec.replicas = None;
    digest_of(&serde_json::to_string(&spec).unwrap_or_default())
}

/// Whether objects with this digest were applied a moment ago, for `long`, and the Deployment that is seen is still the one that
/// was made of it.
pub fn is_applied(
    applied: Option<&mut Applied>,
    digest: u64,
    seen: Option<&Deployment>,
    long: Duration,
    now: Instant,
) -> bool {
    let (Some(applied), Some(seen)) = (applied, seen) else {
        return false;
    };
    if applied.digest != digest || now.saturating_duration_since(applied.at) >= long {
        return false;
    }
    let Some(generation) = seen.metadata.generation else {
        return false;
    };
    // An older one is not yet seen as it is. Scaling makes a newer one, which is no other.
    let is_newer = Some(generation) > applied.generation;
    if is_newer && shape(seen) == applied.shape {
        applied.generation = Some(generation);
    }
    Some(generation) <= applied.generation
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::reconcile::apply::ServiceName;

    /// Would fail if all that is applied when the operator begins were applied again in the same minute, or some of it nearly
    /// never or all the time.
    #[test]
    fn what_began_at_once_is_applied_again_at_different_times() {
        let mut minutes = BTreeMap::<u64, usize>::new();
        for index in 0..5000 {
            let long = applied_for(&format!("uid-{index}"));
            assert!(long >= APPLIED_FOR / 2 && long < APPLIED_FOR * 3 / 2);
            *minutes.entry(long.as_secs() / 60).or_default() += 1;
        }
        assert!(minutes.values().all(|count| *count < 1000), "{minutes:?}");
        assert_eq!(applied_for("a"), applied_for("a"));
    }

    /// Would fail if scaling had all objects applied again, or what somebody changed were taken for what was applied.
    #[test]
    fn a_deployment_that_was_scaled_is_as_it_was_applied() {
        let deployment = |generation: i64, replicas: i32, image: &str| -> Deployment {
            let container = json!({"name": "function", "image": image});
            let template: Value = json!({"spec": {"containers": [container]}});
            serde_json::from_value(json!({
                "metadata": {"name": "d", "generation": generation},
                "spec": {"replicas": replicas, "selector": {}, "template": template},
            }))
            .unwrap()
        };
        let (now, long) = (Instant::now(), Duration::from_secs(600));
        let mut applied = Applied {
            digest: 1,
            generation: Some(2),
            shape: shape(&deployment(2, 0, "a")),
            at: now,
            service: ServiceName::Held,
        };
        let mut is = |digest, seen: Option<Deployment>, now| {
            is_applied(Some(&mut applied), digest, seen.as_ref(), long, now)
        };
        assert!(is(1, Some(deployment(2, 0, "a")), now));
        assert!(is(1, Some(deployment(1, 0, "before")), now), "not yet seen");
        assert!(is(1, Some(deployment(3, 5, "a")), now), "scaled");
        assert!(!is(1, Some(deployment(4, 5, "b")), now), "changed");
        assert!(!is(1, None, now), "gone");
        assert!(!is(2, Some(deployment(3, 5, "a")), now), "other objects");
        assert!(!is(1, Some(deployment(3, 5, "a")), now + long), "long ago");
        assert!(!is_applied(
            None,
            1,
            Some(&deployment(3, 5, "a")),
            long,
            now
        ));
    }
}
