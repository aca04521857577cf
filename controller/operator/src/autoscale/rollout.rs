//! Which revision of a function serves.

use std::collections::BTreeMap;
use std::time::Instant;

use super::room::{self, Leaves, Room};
use crate::cluster::pods::Trouble;
use crate::live::Plan;

/// What is remembered of a function's revisions, beside which one serves: which one was given a chance before it had shown
/// that it can serve, and which one can't. A process that begins anew knows the first by the revision's record alone, and nothing of the other: it gives another
/// chance.
#[derive(Debug, Default)]
pub struct Rollout {
    trial: Option<Trial>,
    failed: Option<(String, Trouble)>,
    room: Option<Room>,
}

/// A revision that serves, and has yet to show that it can.
#[derive(Debug)]
struct Trial {
    revision: String,
    /// The last one that could, or was not tried, either.
    before: String,
}

/// What there is of a function's revisions.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// How many replicas the function should have.
    pub desired: u32,
    /// Pods that are neither ending nor over, by revision.
    pub alive: &'a BTreeMap<String, u32>,
    /// Of these, those that are ready.
    pub ready: &'a BTreeMap<String, u32>,
    /// The revisions whose pods are in a trouble that is sure and the function's own.
    pub troubles: &'a BTreeMap<String, Trouble>,
}

impl Rollout {
    /// The revision that serves from now on. The latest takes over when
    /// * there was none before, or what was has gone,
    /// * the function sleeps: it is tried when it is woken, and the one before serves again if it turns out that it can't,
    /// * as many of its replicas are ready as of the one before, with those that went for them, or as there should be.
    ///
    /// While there should be replicas, one that has none for a moment is still the one that serves: a node is drained, say.
    pub fn promote(&mut self, serving: Option<&str>, latest: &str, seen: Seen<'_>) -> String {
        let count =
            |of: &BTreeMap<String, u32>, revision: &str| of.get(revision).copied().unwrap_or(0);
        let can_serve = |revision: &str| count(seen.ready, revision) > 0;
        self.trial
            .take_if(|trial| Some(&*trial.revision) != serving || can_serve(&trial.revision));
        self.failed
            .take_if(|(revision, _)| *revision != latest || can_serve(revision));
        let Some(serving) = serving else {
            return latest.to_owned();
        };
        let before = seen
            .troubles
            .get(serving)
            .and_then(|trouble| self.fall_back(serving, trouble));
        let serving = before.as_deref().unwrap_or(serving);
        if serving == latest {
            return latest.to_owned();
        }
        if let Some(trouble) = seen.troubles.get(latest).filter(|_| !can_serve(latest)) {
            self.failed = Some((latest.to_owned(), trouble.clone()));
        }
        // Replicas that went for it to have room count as if they were there.
        let leaves = self.leaves();
        let needed = count(seen.ready, serving).saturating_add(leaves.serving);
        let needed = leaves.fitting(seen.desired).min(needed).max(1);
        if count(seen.ready, latest) >= needed {
            self.trial = None;
            return latest.to_owned();
        }
        let sleeps = seen.desired == 0 && count(seen.alive, serving) == 0;
        if !sleeps || self.failure(latest).is_some() {
            return serving.to_owned();
        }
        let before = self.trial.take().map(|trial| trial.before);
        let before = before.unwrap_or_else(|| serving.to_owned());
        self.trial = (before != latest).then(|| Trial {
            revision: latest.to_owned(),
            before,
        });
        latest.to_owned()
    }

    /// The revision that serves again, where `serving` was on trial and is in `trouble`: until it is mended, or, where the trouble
    /// may be another's, until the function sleeps.
    pub fn fall_back(&mut self, serving: &str, trouble: &Trouble) -> Option<String> {
        let trial = self.trial.take_if(|trial| trial.revision == serving)?;
        tracing::warn!(
            revision = serving,
            before = trial.before,
            why = trouble.message,
            "a revision can't serve; the one before does again"
        );
        if trouble.is_sure() {
            self.failed = Some((trial.revision, trouble.clone()));
        }
        Some(trial.before)
    }

    /// `revision` serves, and has yet to show that it can: so said the process before this one, which tried it instead of `before`.
    pub fn resume(&mut self, revision: &str, before: &str) {
        self.trial = (revision != before).then(|| Trial {
            revision: revision.to_owned(),
            before: before.to_owned(),
        });
    }

    /// The revision that serves again if the one on trial can't.
    #[must_use]
    pub fn before(&self) -> Option<&str> {
        self.trial.as_ref().map(|trial| &*trial.before)
    }

    /// What the revisions do without, where there should be `desired` replicas, for the latest to have room; by what is seen of
    /// its pods at `now`.
    pub(super) fn make_room(
        &mut self,
        plan: &Plan,
        desired: u32,
        seen: room::Seen<'_>,
        now: Instant,
    ) -> Leaves {
        let is_rolling = plan.latest != plan.serving && desired > 0;
        self.room
            .take_if(|room| !is_rolling || room.is_over(&plan.latest, now));
        if is_rolling && seen.lack.is_some() && self.room.is_none() {
            self.room = Some(Room::new(&plan.latest, now));
        }
        if let Some(room) = &mut self.room {
            room.step(seen, now);
            // Nothing will be left of its pods to tell it by.
            if let Some(why) = room
                .failure()
                .filter(|why| why.is_sure() && seen.ready == 0)
            {
                self.failed = Some((plan.latest.clone(), why.clone()));
            }
        }
        self.leaves()
    }

    /// What the revisions do without as of now.
    pub(super) fn leaves(&self) -> Leaves {
        self.room.as_ref().map(Room::leaves).unwrap_or_default()
    }

    /// The revision whose pods the namespace refused, and may admit by now.
    pub(super) fn refused(&self) -> Option<&str> {
        self.room.as_ref()?.refused()
    }

    /// What is to be told of `revision`, where nothing is seen of its pods: why it can't serve, or didn't when it had room.
    #[must_use]
    pub fn told(&self, revision: &str) -> Option<&Trouble> {
        let of_room = || self.room.as_ref()?.failure();
        self.failure(revision).or_else(of_room)
    }

    /// Why `revision` can't serve, if it was seen not to.
    #[must_use]
    pub fn failure(&self, revision: &str) -> Option<&Trouble> {
        let (failed, trouble) = self.failed.as_ref()?;
        (failed == revision).then_some(trouble)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use wisp_contract::problem::Fault;

    use super::super::spread;
    use super::*;

    fn counts(old: u32, new: u32) -> BTreeMap<String, u32> {
        BTreeMap::from([("old".to_owned(), old), ("new".to_owned(), new)])
    }

    fn trouble() -> Trouble {
        Trouble {
            reason: "StartFailed",
            message: "it traps".into(),
            fault: Fault::Function,
            is_final: true,
            since: None,
        }
    }

    /// Has `latest` take over if it can, where there should be `desired` replicas and these are alive and ready.
    fn promote(
        rollout: &mut Rollout,
        serving: Option<&str>,
        latest: &str,
        (desired, alive, ready): (u32, &BTreeMap<String, u32>, &BTreeMap<String, u32>),
        in_trouble: &[&str],
    ) -> String {
        let troubles = in_trouble
            .iter()
            .map(|revision| ((*revision).to_owned(), trouble()));
        let seen = Seen {
            desired,
            alive,
            ready,
            troubles: &troubles.collect(),
        };
        rollout.promote(serving, latest, seen)
    }

    /// Would fail if one took over that hasn't shown that it can, while there should be replicas of the one before.
    #[test]
    fn a_revision_takes_over_when_it_can() {
        let cases = [
            // (serving, desired, alive, ready, expected)
            (None, 0, counts(0, 0), counts(0, 0), "new"),
            (Some("new"), 3, counts(0, 0), counts(0, 0), "new"),
            (Some("old"), 0, counts(0, 0), counts(0, 0), "new"),
            // Its last replicas are about to end.
            (Some("old"), 0, counts(1, 0), counts(1, 0), "old"),
            (Some("old"), 2, counts(2, 2), counts(2, 0), "old"),
            (Some("old"), 2, counts(2, 2), counts(2, 1), "old"),
            (Some("old"), 2, counts(2, 2), counts(2, 2), "new"),
            // What never served needs no equal.
            (Some("old"), 2, counts(2, 2), counts(0, 1), "new"),
            (Some("old"), 2, counts(2, 2), counts(0, 0), "old"),
            // Its only replica went with its node.
            (Some("old"), 1, counts(0, 1), counts(0, 0), "old"),
            // More replicas than are wanted now.
            (Some("old"), 1, counts(4, 1), counts(4, 1), "new"),
        ];
        for (serving, desired, alive, ready, expected) in cases {
            let seen = (desired, &alive, &ready);
            assert_eq!(
                promote(&mut Rollout::default(), serving, "new", seen, &[]),
                expected,
                "{serving:?} {desired} {alive:?} {ready:?}"
            );
        }
    }

    /// Would fail if the one before were forgotten with the process that tried another, or came back after that had served.
    #[test]
    fn one_that_was_on_trial_before_this_process_began_still_is() {
        let (none, new) = (counts(0, 0), counts(0, 1));
        let woken = (1, &none, &none);
        let mut rollout = Rollout::default();
        rollout.resume("new", "old");
        let serving = promote(&mut rollout, Some("new"), "new", woken, &["new"]);
        assert_eq!(serving, "old");
        assert_eq!(rollout.failure("new"), Some(&trouble()));

        let mut rollout = Rollout::default();
        rollout.resume("new", "old");
        let serves = (1, &new, &new);
        assert_eq!(
            promote(&mut rollout, Some("new"), "new", serves, &[]),
            "new"
        );
        assert_eq!(
            promote(&mut rollout, Some("new"), "new", woken, &["new"]),
            "new"
        );
    }

    /// A namespace, or a node, that has room for so many pods, and a function that rolls out in it.
    struct Crowd {
        room: u32,
        /// How many of the new one's pods fit at all.
        fits: u32,
        desired: u32,
        rollout: Rollout,
        plan: Plan,
        old: u32,
        new: u32,
        /// Whether the new one's pods start, and never get ready.
        is_mute: bool,
        /// Whether one of the old one's pods takes its time to go.
        goes: bool,
        /// The fewest that were ready at once.
        fewest: u32,
        now: Instant,
    }

    impl Crowd {
        fn new(room: u32, desired: u32) -> Self {
            Self {
                room,
                fits: room,
                desired,
                rollout: Rollout::default(),
                plan: Plan {
                    latest: "new".to_owned(),
                    serving: "old".to_owned(),
                    scaled_at: None,
                },
                old: desired.min(room),
                new: 0,
                is_mute: false,
                goes: false,
                fewest: desired.min(room),
                now: Instant::now(),
            }
        }

        /// A second passes. What fits is made of what is asked for, and is ready a second later, but for new ones in `trouble`.
        fn step(&mut self, trouble: Option<&Trouble>) {
            let (quota, is_fine) = (quota(), trouble.is_none());
            let is_fine = is_fine && !self.is_mute;
            let ready = if is_fine { self.new } else { 0 };
            let seen = room::Seen {
                ready,
                placed: self.new,
                of_serving: self.old,
                goes: self.goes,
                lack: Some(&quota).filter(|_| self.new < self.desired),
                other: trouble.filter(|_| self.new > 0),
            };
            let leaves = self
                .rollout
                .make_room(&self.plan, self.desired, seen, self.now);
            let names = ["old", "new"].map(str::to_owned);
            let wanted = spread::spread(self.desired, leaves, &self.plan, &names);
            self.old = self.old.min(wanted["old"]);
            self.new = wanted["new"].min(self.room - self.old).min(self.fits);
            self.old = wanted["old"].min(self.room - self.new);
            let ready = ready.min(self.new);
            self.fewest = self.fewest.min(self.old + ready);
            let in_trouble = trouble.filter(|trouble| trouble.is_sure() && self.new > 0);
            let troubles = in_trouble.map(|trouble| ("new".to_owned(), trouble.clone()));
            let counts = counts(self.old, ready);
            let seen = Seen {
                desired: self.desired,
                alive: &counts,
                ready: &counts,
                troubles: &troubles.into_iter().collect(),
            };
            self.plan.serving = self.rollout.promote(Some(&self.plan.serving), "new", seen);
            self.now += Duration::from_secs(1);
        }

        /// How many of each there are, so many seconds later.
        fn later(&mut self, seconds: u32, trouble: Option<&Trouble>) -> (u32, u32) {
            (0..seconds).for_each(|_| self.step(trouble));
            (self.old, self.new)
        }

        /// After how many seconds the new one serves.
        fn served_after(&mut self) -> Option<u32> {
            let after = (1..1000).find(|_| {
                self.step(None);
                self.plan.serving == "new"
            });
            assert_eq!(self.later(2, None), (0, self.desired.min(self.room)));
            after
        }
    }

    fn quota() -> Trouble {
        Trouble {
            reason: "PodsRefused",
            message: "exceeded quota".into(),
            fault: Fault::Platform,
            is_final: true,
            since: None,
        }
    }

    /// Would fail if a change needed room for twice the replicas, or took more of those that serve than it must.
    #[test]
    fn a_revision_takes_over_where_there_is_no_room_for_both() {
        let mut some = Crowd::new(6, 4);
        assert!(some.served_after().unwrap() < 10);
        assert_eq!(some.fewest, 4);
        let mut none = Crowd::new(4, 4);
        assert!(none.served_after().unwrap() > 60);
        assert_eq!(none.fewest, 3);
        let mut one = Crowd::new(1, 1);
        assert!(one.served_after().unwrap() > 60);
        assert_eq!(one.fewest, 0);
    }

    /// Would fail if room were taken off replicas that there are not, so that none is made, or if the one that serves took it
    /// back when there is more load.
    #[test]
    fn a_revision_takes_over_where_there_is_no_room_for_one() {
        let mut short = Crowd::new(4, 10);
        assert!(short.served_after().unwrap() > 60);
        assert_eq!(short.fewest, 3);
        let mut one = Crowd::new(1, 2);
        assert!(one.served_after().is_some());

        let mut grows = Crowd::new(4, 4);
        assert_eq!(grows.later(62, None), (2, 2));
        grows.desired = 10;
        assert!(grows.served_after().is_some());
        assert_eq!(grows.fewest, 3);
    }

    /// Would fail if room were given back while the replica that had it still goes.
    #[test]
    fn room_is_waited_for_as_long_as_it_takes_to_be_free() {
        let mut slow = Crowd::new(1, 1);
        (slow.fits, slow.goes) = (0, true);
        assert_eq!(slow.later(200, None), (0, 0));
        slow.goes = false;
        assert_eq!(slow.later(50, None), (0, 0));
        slow.fits = 1;
        assert!(slow.served_after().is_some());
    }

    /// Would fail if a change that can't serve, or doesn't get the room that was made for it, became an outage.
    #[test]
    fn room_that_is_of_no_use_is_given_back() {
        let mut fails = Crowd::new(1, 1);
        assert_eq!(fails.later(70, Some(&trouble())), (1, 0));
        assert_eq!(fails.rollout.failure("new"), Some(&trouble()));
        fails.fewest = 1;
        fails.later(2000, Some(&trouble()));
        assert_eq!(fails.fewest, 1, "it is tried once");

        // Its image can't be pulled just now.
        let pull = Trouble {
            reason: "RuntimeImagePullFailed",
            ..quota()
        };
        let mut later = Crowd::new(1, 1);
        assert_eq!(later.later(70, Some(&pull)), (0, 1));
        assert_eq!(later.later(60, Some(&pull)), (1, 0));
        let rollout = &later.rollout;
        assert_eq!(rollout.told("new"), Some(&pull));
        assert_eq!(rollout.failure("new"), None);
        assert!(later.served_after().is_some());

        // It needs more than the other had.
        let mut large = Crowd::new(1, 1);
        large.fits = 0;
        assert_eq!(large.later(70, None), (0, 0));
        assert_eq!(large.later(60, None), (1, 0));
        large.fewest = 1;
        large.later(2000, None);
        assert_eq!(large.fewest, 1);

        // It starts, isn't ready, and nothing says why.
        let mut mute = Crowd::new(1, 1);
        mute.is_mute = true;
        assert_eq!(mute.later(70, None), (0, 1));
        assert_eq!(mute.later(600, None), (1, 0));
        mute.fewest = 1;
        mute.later(2000, None);
        assert_eq!(mute.fewest, 1);
    }

    /// Would fail if a replica that serves went for one that no node will ever take.
    #[test]
    fn room_is_made_where_it_may_help() {
        let unschedulable = |message: &str| Trouble {
            reason: "Unschedulable",
            message: format!("no node takes the pod p: 0/2 nodes are available: {message}"),
            ..quota()
        };
        for (trouble, expected) in [
            (quota(), true),
            (unschedulable("2 Insufficient nvidia.com/gpu."), true),
            (unschedulable("2 Too many pods."), true),
            (
                unschedulable(
                    "2 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode.",
                ),
                true,
            ),
            (
                unschedulable("2 node(s) didn't match Pod's node affinity/selector."),
                false,
            ),
            (trouble(), false),
        ] {
            assert_eq!(room::is_lack(&trouble), expected, "{trouble:?}");
        }
    }

    /// Would fail if a bad change became an outage as soon as the function slept, or if one that was mended by itself, or
    /// by the next change, never took over.
    #[test]
    fn one_that_was_seen_to_fail_takes_over_only_when_it_can_serve() {
        let (none, one, both) = (counts(0, 0), counts(1, 0), counts(1, 1));
        let mut rollout = Rollout::default();
        let mut step = |latest, seen, in_trouble: &[&str]| {
            promote(&mut rollout, Some("old"), latest, seen, in_trouble)
        };
        assert_eq!(step("new", (1, &both, &one), &["new"]), "old");
        assert_eq!(step("new", (0, &none, &none), &[]), "old");
        assert_eq!(step("new", (1, &both, &both), &[]), "new");
        assert_eq!(step("new", (0, &none, &none), &[]), "new", "it could serve");
        assert_eq!(step("new", (1, &both, &one), &["new"]), "old");
        assert_eq!(step("newer", (0, &none, &none), &[]), "newer");
    }

    /// Would fail if who wakes a function got a revision that can't serve, where one before could; if that were forgotten,
    /// and the one that can't took over again; or if one that has served went for a trouble that came later.
    #[test]
    fn one_on_trial_that_fails_gives_way_to_the_last_that_served() {
        let (none, new) = (counts(0, 0), counts(0, 1));
        let asleep = (0, &none, &none);
        let mut rollout = Rollout::default();
        assert_eq!(
            promote(&mut rollout, Some("old"), "new", asleep, &[]),
            "new"
        );
        // Another change, before the first was ever woken.
        assert_eq!(
            promote(&mut rollout, Some("new"), "newer", asleep, &[]),
            "newer"
        );
        assert_eq!(rollout.before(), Some("old"));
        let woken = (1, &none, &none);
        assert_eq!(
            promote(&mut rollout, Some("newer"), "newer", woken, &["newer"]),
            "old"
        );
        assert_eq!(rollout.failure("newer"), Some(&trouble()));
        assert_eq!(
            promote(&mut rollout, Some("old"), "newer", asleep, &[]),
            "old"
        );
        // The one before comes back, and needs no trial.
        assert_eq!(
            promote(&mut rollout, Some("old"), "old", asleep, &[]),
            "old"
        );
        assert_eq!((rollout.before(), rollout.failure("newer")), (None, None));

        assert_eq!(
            promote(&mut rollout, Some("old"), "new", asleep, &[]),
            "new"
        );
        assert_eq!(
            promote(&mut rollout, Some("new"), "new", (1, &new, &new), &[]),
            "new"
        );
        assert_eq!(
            promote(&mut rollout, Some("new"), "new", (1, &new, &none), &["new"]),
            "new"
        );
        assert_eq!(rollout.fall_back("new", &trouble()), None);

        // No node has room, which isn't its fault: it is tried again.
        let mut rollout = Rollout::default();
        let unscheduled = Trouble {
            fault: Fault::Platform,
            ..trouble()
        };
        for _ in 0..2 {
            let tried = promote(&mut rollout, Some("old"), "new", asleep, &[]);
            assert_eq!(tried, "new");
            let instead = rollout.fall_back("new", &unscheduled);
            assert_eq!(instead.as_deref(), Some("old"));
        }
    }
}
