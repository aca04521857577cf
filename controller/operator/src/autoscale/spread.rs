//! Which revision has how many of a function's replicas.

use std::collections::{BTreeMap, BTreeSet};

use crate::live::Plan;

/// The replicas of each revision, where the function should have `desired`: the one that serves has them, and so has
/// the latest, which has yet to show that it can serve. All others have none.
#[must_use]
pub(super) fn spread<'a>(
    desired: u32,
    plan: &Plan,
    revisions: impl IntoIterator<Item = &'a String>,
) -> BTreeMap<String, u32> {
    let wanted = |revision: &String| {
        if *revision == plan.serving || *revision == plan.latest {
            desired
        } else {
            0
        }
    };
    revisions
        .into_iter()
        .map(|revision| (revision.clone(), wanted(revision)))
        .collect()
}

/// What is to be done for a function to have the replicas that it should have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// The revisions whose Deployments get another number of replicas, and which.
    pub(super) deployments: BTreeMap<String, u32>,
    /// The pods from pools that end.
    pub(super) surplus: Vec<String>,
}

impl Changes {
    /// Whether all is as it should be.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.deployments.is_empty() && self.surplus.is_empty()
    }
}

/// How the replicas of each revision are shared between its Deployment, which has `current`, and the pods that were
/// taken from pools: these stay as long as there are replicas at all, and the Deployment has the rest.
#[must_use]
pub(super) fn share(
    desired: u32,
    plan: &Plan,
    current: &BTreeMap<String, u32>,
    claimed: &BTreeMap<String, BTreeSet<String>>,
) -> Changes {
    let mut changes = Changes::default();
    let revisions: BTreeSet<&String> = current.keys().chain(claimed.keys()).collect();
    for (revision, wanted) in spread(desired, plan, revisions) {
        let pods = claimed.get(&revision);
        let kept = usize::try_from(wanted).unwrap_or(usize::MAX);
        let surplus = pods.into_iter().flatten().skip(kept).cloned();
        changes.surplus.extend(surplus);
        let count = pods.map_or(0, |pods| u32::try_from(pods.len()).unwrap_or(u32::MAX));
        let rest = wanted.saturating_sub(count);
        if current.get(&revision).is_some_and(|now| *now != rest) {
            changes.deployments.insert(revision, rest);
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(old: u32, new: u32) -> BTreeMap<String, u32> {
        BTreeMap::from([("old".to_owned(), old), ("new".to_owned(), new)])
    }

    /// Would fail if a pod from a pool were counted twice, or not at all, or outlived its function's sleep.
    #[test]
    fn a_deployment_has_what_pods_from_pools_leave() {
        let plan = Plan {
            latest: "new".into(),
            serving: "new".into(),
            scaled_at: None,
        };
        let share = |desired, old: u32, new: u32, claimed: &[(&str, &[&str])]| {
            let claimed = claimed.iter().map(|(revision, pods)| {
                let pods = pods.iter().map(|pod| (*pod).to_owned()).collect();
                ((*revision).to_owned(), pods)
            });
            let changes = share(desired, &plan, &counts(old, new), &claimed.collect());
            (changes.deployments, changes.surplus)
        };
        let none = (BTreeMap::new(), Vec::new());
        let deployment =
            |revision: &str, replicas| (BTreeMap::from([(revision.to_owned(), replicas)]), vec![]);
        assert_eq!(share(1, 0, 0, &[("new", &["a"])]), none);
        assert_eq!(share(3, 0, 0, &[("new", &["a"])]), deployment("new", 2));
        assert_eq!(share(1, 0, 2, &[("new", &["a"])]), deployment("new", 0));
        let ended = |pods: &[&str]| {
            (
                BTreeMap::new(),
                pods.iter().map(|pod| (*pod).to_owned()).collect(),
            )
        };
        assert_eq!(share(1, 0, 0, &[("new", &["a", "b"])]), ended(&["b"]));
        assert_eq!(share(0, 0, 0, &[("new", &["a", "b"])]), ended(&["a", "b"]));
        // Those of a revision that was replaced go, also where its Deployment has gone already.
        assert_eq!(share(1, 0, 1, &[("old", &["a"])]), ended(&["a"]));
        assert_eq!(share(1, 0, 1, &[("older", &["a"])]), ended(&["a"]));
    }

    #[test]
    fn while_one_takes_over_both_have_replicas_and_thereafter_one_has() {
        let revisions = ["older", "old", "new"].map(str::to_owned);
        let plan = |serving: &str| Plan {
            latest: "new".into(),
            serving: serving.into(),
            scaled_at: None,
        };
        let count = |plan: &Plan| {
            spread(3, plan, &revisions)
                .into_values()
                .collect::<Vec<_>>()
        };
        // In the order of names: new, old, older.
        assert_eq!(count(&plan("old")), [3, 3, 0]);
        assert_eq!(count(&plan("new")), [3, 0, 0]);
    }
}
