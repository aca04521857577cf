//! Which revision has how many of a function's replicas.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

use super::room::Leaves;
use super::taken::{self, Taken};
use crate::live::Plan;

/// The replicas of each revision, where the function should have `desired`: the one that serves has them, and so has
/// the latest, which has yet to show that it can serve, but for what they do without. All others have none.
#[must_use]
pub(super) fn spread<'a>(
    desired: u32,
    leaves: Leaves,
    plan: &Plan,
    revisions: impl IntoIterator<Item = &'a String>,
) -> BTreeMap<String, u32> {
    let wanted = |revision: &String| {
        if *revision == plan.serving {
            leaves.of_serving(desired)
        } else if *revision == plan.latest {
            leaves.latest.map_or(desired, |most| desired.min(most))
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Changes {
    /// The revisions whose Deployments get another number of replicas, and which.
    pub(super) deployments: BTreeMap<String, u32>,
    /// The pods from pools that end.
    pub(super) surplus: Vec<Surplus>,
}

/// A pod that ends, and no other that may have its name by then.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Surplus {
    pub(super) name: String,
    pub(super) uid: String,
}

impl Surplus {
    pub(super) fn of(pod: &Pod) -> Self {
        Self {
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
        }
    }
}

impl Changes {
    /// Whether all is as it should be.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.deployments.is_empty() && self.surplus.is_empty()
    }
}

/// What there is of a function's replicas, by revision.
#[derive(Debug, Default)]
pub(super) struct There {
    /// How many Deployments have.
    pub(super) deployments: BTreeMap<String, u32>,
    /// How many of those serve.
    pub(super) ready: BTreeMap<String, u32>,
    /// The pods that were taken from pools.
    pub(super) claimed: BTreeMap<String, Vec<Taken>>,
    /// Deployments' pods that served, and don't any more.
    pub(super) lost: BTreeMap<String, u32>,
}

/// How the replicas of each revision are shared between its Deployment and the pods that were taken from pools: these stay
/// as long as there are replicas at all, those first that serve, and the Deployment has the rest, with one more for each that
/// is lost, up to `most` together. It also has one for each that is short of what it asks for, which goes once as many of the
/// Deployment as there shall be are ready.
#[must_use]
pub(super) fn share(
    desired: u32,
    most: u32,
    leaves: Leaves,
    plan: &Plan,
    there: &There,
) -> Changes {
    let mut changes = Changes::default();
    let revisions = there.deployments.keys().chain(there.claimed.keys());
    let revisions: BTreeSet<&String> = revisions.collect();
    for (revision, wanted) in spread(desired, leaves, plan, revisions) {
        let mut pods = there.claimed.get(&revision).cloned().unwrap_or_default();
        taken::sort(&mut pods);
        let kept = usize::try_from(wanted).unwrap_or(usize::MAX);
        let surplus = pods.iter().skip(kept).filter(|pod| pod.can_be_ended());
        changes
            .surplus
            .extend(surplus.map(|taken| taken.pod.clone()));
        pods.truncate(kept);
        let counted = taken::count_whole(&pods);
        let rest = wanted.saturating_sub(counted);
        if there
            .ready
            .get(&revision)
            .is_some_and(|ready| *ready >= rest)
        {
            let short = pods.iter().filter(|pod| pod.is_short && pod.can_be_ended());
            changes.surplus.extend(short.map(|taken| taken.pod.clone()));
        }
        let lost = there.lost.get(&revision).map_or(0, |lost| rest.min(*lost));
        let most = most.saturating_sub(counted).max(rest);
        let rest = rest.saturating_add(lost).min(most);
        let current = there.deployments.get(&revision);
        if current.is_some_and(|current| *current != rest) {
            changes.deployments.insert(revision, rest);
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::live::Claim;

    fn counts(old: u32, new: u32) -> BTreeMap<String, u32> {
        BTreeMap::from([("old".to_owned(), old), ("new".to_owned(), new)])
    }

    /// A pod that was taken from a pool; one that isn't ready has been so for long.
    fn taken(name: &str, is_ready: bool) -> Taken {
        Taken {
            pod: Surplus {
                name: name.to_owned(),
                uid: format!("{name}-uid"),
            },
            is_ready,
            counts: is_ready,
            is_short: false,
            made: None,
        }
    }

    /// What is to be done where none is lost.
    fn shared(
        desired: u32,
        plan: &Plan,
        deployments: BTreeMap<String, u32>,
        claimed: BTreeMap<String, Vec<Taken>>,
    ) -> Changes {
        let there = There {
            deployments,
            claimed,
            ..There::default()
        };
        share(desired, 20, Leaves::default(), plan, &there)
    }

    fn serving(revision: &str) -> Plan {
        Plan {
            latest: revision.into(),
            serving: revision.into(),
            scaled_at: None,
        }
    }

    /// Would fail if the only replica that serves were ended because one on a node that died has the lesser name, or if that
    /// one kept another from being made.
    #[test]
    fn what_serves_stays_and_what_does_not_is_replaced() {
        let share = |desired, deployment: u32, pods: Vec<Taken>| {
            let claimed = BTreeMap::from([("new".to_owned(), pods)]);
            let changes = shared(desired, &serving("new"), counts(0, deployment), claimed);
            let names: Vec<_> = changes.surplus.into_iter().map(|pod| pod.name).collect();
            (changes.deployments.get("new").copied(), names.join(" "))
        };
        let pods = || vec![taken("a", false), taken("b", true)];
        assert_eq!(share(1, 0, pods()), (None, "a".to_owned()));
        assert_eq!(share(2, 0, pods()), (Some(1), String::new()));
        assert_eq!(share(0, 0, pods()), (None, "b a".to_owned()));
        assert_eq!(
            share(1, 0, vec![taken("a", false)]),
            (Some(1), String::new())
        );
        // Of those that serve, the youngest goes.
        let made = |name: &str, second: i64| Taken {
            made: Some(Timestamp::from_second(second).unwrap()),
            ..taken(name, true)
        };
        assert_eq!(
            share(1, 0, vec![made("a", 2), made("b", 1)]),
            (None, "a".to_owned())
        );
    }

    /// Would fail if a pod whose node can't give it what it asks for stayed alone, went before others serve in its place, or
    /// stayed once they do.
    #[test]
    fn what_is_short_goes_once_others_serve_in_its_place() {
        let share = |desired, deployment: u32, ready: u32, others: &[&str]| {
            let short = Taken {
                is_short: true,
                ..taken("a", true)
            };
            let others = others.iter().map(|name| taken(name, true));
            let pods = std::iter::once(short).chain(others).collect();
            let claimed = BTreeMap::from([("new".to_owned(), pods)]);
            let (current, ready) = (counts(0, deployment), counts(0, ready));
            let there = There {
                deployments: current,
                ready,
                claimed,
                ..There::default()
            };
            let changes = share(desired, 20, Leaves::default(), &serving("new"), &there);
            let names: Vec<_> = changes.surplus.into_iter().map(|pod| pod.name).collect();
            (changes.deployments.get("new").copied(), names.join(" "))
        };
        let kept = String::new;
        assert_eq!(share(1, 0, 0, &[]), (Some(1), kept()));
        assert_eq!(share(1, 1, 0, &[]), (None, kept()));
        assert_eq!(share(1, 1, 1, &[]), (None, "a".to_owned()));
        assert_eq!(share(3, 1, 1, &["b"]), (Some(2), kept()));
        assert_eq!(share(3, 2, 2, &["b"]), (None, "a".to_owned()));
        assert_eq!(share(1, 0, 0, &["b"]), (None, "a".to_owned()));
        assert_eq!(share(0, 0, 0, &[]), (None, "a".to_owned()));
    }

    /// Would fail if the pod that a wake-up waits for were ended by the name that stands for it, which another may have, or
    /// if that one had a second made beside it.
    #[test]
    fn a_pod_that_is_yet_to_come_counts_and_is_not_ended() {
        let claim = Claim {
            revision: "new".into(),
            replica: None,
        };
        let pods = vec![Taken::unseen("expected", &claim), taken("a", true)];
        let claimed = BTreeMap::from([("new".to_owned(), pods)]);
        let share = |desired| shared(desired, &serving("new"), counts(0, 0), claimed.clone());
        assert_eq!(share(2), Changes::default());
        assert_eq!(share(1), Changes::default());
        assert_eq!(share(0).surplus, [taken("a", true).pod]);
    }

    /// Would fail if a pod from a pool were counted twice, or not at all, or outlived its function's sleep.
    #[test]
    fn a_deployment_has_what_pods_from_pools_leave() {
        let plan = serving("new");
        let share = |desired, old: u32, new: u32, claimed: &[(&str, &[&str])]| {
            let claimed = claimed.iter().map(|(revision, pods)| {
                let pods = pods.iter().map(|pod| taken(pod, true)).collect();
                ((*revision).to_owned(), pods)
            });
            let changes = shared(desired, &plan, counts(old, new), claimed.collect());
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
                pods.iter().map(|pod| taken(pod, true).pod).collect(),
            )
        };
        assert_eq!(share(1, 0, 0, &[("new", &["a", "b"])]), ended(&["b"]));
        assert_eq!(share(0, 0, 0, &[("new", &["a", "b"])]), ended(&["a", "b"]));
        // Those of a revision that was replaced go, also where its Deployment has gone already.
        assert_eq!(share(1, 0, 1, &[("old", &["a"])]), ended(&["a"]));
        assert_eq!(share(1, 0, 1, &[("older", &["a"])]), ended(&["a"]));
    }

    /// Would fail if replicas on a node that died were missing for as long as Kubernetes shows them, or a function got more
    /// than it may have for it.
    #[test]
    fn another_is_made_for_each_that_is_lost() {
        let share = |desired, most, deployment, lost| {
            let there = There {
                deployments: counts(0, deployment),
                claimed: [("new".to_owned(), vec![taken("a", true)])].into(),
                lost: [("new".to_owned(), lost)].into(),
                ..There::default()
            };
            let changes = share(desired, most, Leaves::default(), &serving("new"), &there);
            changes.deployments.get("new").copied()
        };
        assert_eq!(share(4, 10, 3, 0), None);
        assert_eq!(share(4, 10, 3, 2), Some(5));
        assert_eq!(share(4, 10, 5, 2), None);
        assert_eq!(share(4, 5, 3, 2), Some(4));
        assert_eq!(share(4, 4, 3, 2), None);
        // They are back, or no more.
        assert_eq!(share(4, 10, 5, 0), Some(3));
        // Those that end aren't made up for.
        assert_eq!(share(1, 10, 3, 2), Some(0));
        assert_eq!(share(2, 10, 3, 3), Some(2));
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
            spread(3, Leaves::default(), plan, &revisions)
                .into_values()
                .collect::<Vec<_>>()
        };
        // In the order of names: new, old, older.
        assert_eq!(count(&plan("old")), [3, 3, 0]);
        assert_eq!(count(&plan("new")), [3, 0, 0]);
    }
}
