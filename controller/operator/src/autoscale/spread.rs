//! Which revision has how many of a function's replicas.

use std::collections::BTreeMap;

use crate::live::Plan;

/// The replicas of each revision, where the function should have `desired`: the one that serves has them, and so has
/// the latest, which has yet to show that it can serve. All others have none.
#[must_use]
pub fn spread<'a>(
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

/// The revision that serves from now on. The latest takes over when
/// * there was none before, or what was has gone,
/// * nobody is served: it is tried when it is woken,
/// * as many of its replicas are ready as of the one before, or as there should be.
#[must_use]
pub fn promote<'a>(
    serving: Option<&'a str>,
    latest: &'a str,
    desired: u32,
    alive: &BTreeMap<String, u32>,
    ready: &BTreeMap<String, u32>,
) -> &'a str {
    let Some(serving) = serving.filter(|serving| *serving != latest) else {
        return latest;
    };
    let count = |of: &BTreeMap<String, u32>, revision: &str| of.get(revision).copied().unwrap_or(0);
    let needed = desired.min(count(ready, serving)).max(1);
    if count(alive, serving) == 0 || count(ready, latest) >= needed {
        latest
    } else {
        serving
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(old: u32, new: u32) -> BTreeMap<String, u32> {
        BTreeMap::from([("old".to_owned(), old), ("new".to_owned(), new)])
    }

    #[test]
    fn a_revision_takes_over_when_it_can() {
        let cases = [
            // (serving, desired, alive, ready, expected)
            (None, 0, counts(0, 0), counts(0, 0), "new"),
            (Some("new"), 3, counts(0, 0), counts(0, 0), "new"),
            (Some("old"), 0, counts(0, 0), counts(0, 0), "new"),
            (Some("old"), 2, counts(2, 2), counts(2, 0), "old"),
            (Some("old"), 2, counts(2, 2), counts(2, 1), "old"),
            (Some("old"), 2, counts(2, 2), counts(2, 2), "new"),
            // What never served needs no equal.
            (Some("old"), 2, counts(2, 2), counts(0, 1), "new"),
            (Some("old"), 2, counts(2, 2), counts(0, 0), "old"),
            // More replicas than are wanted now.
            (Some("old"), 1, counts(4, 1), counts(4, 1), "new"),
        ];
        for (serving, desired, alive, ready, expected) in cases {
            assert_eq!(
                promote(serving, "new", desired, &alive, &ready),
                expected,
                "{serving:?} {desired} {ready:?}"
            );
        }
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
