//! How a revision takes over where there isn't room for its replicas beside those of the one that serves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use wisp_contract::FunctionId;
use wisp_contract::log::chain;

use super::Autoscaler;
use super::set::was_asked_anew;
use crate::cluster::pods::{self, Trouble};
use crate::live::{Live, Plan, lock};

/// So long replicas of the latest revision wait for room by themselves: a node may be on its way.
const FORBEARANCE: Duration = Duration::from_secs(60);
/// So long room that was made may take to be had.
const HAD_WITHIN: Duration = Duration::from_secs(60);
/// So long a replica that has it may take to be ready: its image may have to be pulled, and its models to be loaded.
const READY_WITHIN: Duration = Duration::from_secs(600);
/// After so long room is made once more, where what kept replicas that had it from serving may have passed.
const REST: Duration = Duration::from_secs(600);
/// What Kubernetes' scheduler says where a pod could be on a node but for others that are there.
const CROWDED: [&str; 5] = [
    "Insufficient ",
    "Too many pods",
    "free ports",
    "anti-affinity",
    "ReadWriteOncePod access mode",
];

/// What is seen of the latest revision's pods, and of those of the one that serves.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen<'a> {
    /// Those that are ready.
    pub(super) ready: u32,
    /// Those that have a node.
    pub(super) placed: u32,
    /// Those of the revision that serves that have a node.
    pub(super) of_serving: u32,
    /// Whether one of these is about to go, and has its room until then.
    pub(super) goes: bool,
    /// Why there are no others: there is no room.
    pub(super) lack: Option<&'a Trouble>,
    /// What else keeps one from serving.
    pub(super) other: Option<&'a Trouble>,
}

/// What the revisions do without for the latest to have room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Leaves {
    /// By so many replicas the one that serves has fewer than the function should have.
    pub(super) serving: u32,
    /// The latest has so many at the most.
    pub(super) latest: Option<u32>,
    /// There is room for so many of both: what there never was can't be taken off the one that serves.
    pub(super) both: Option<u32>,
}

impl Leaves {
    /// How many of the replicas that the function should have there is room for.
    pub(super) fn fitting(self, desired: u32) -> u32 {
        self.both.map_or(desired, |both| desired.min(both))
    }

    /// How many replicas the one that serves should have.
    pub(super) fn of_serving(self, desired: u32) -> u32 {
        self.fitting(desired).saturating_sub(self.serving)
    }
}

/// A latest revision that there isn't room for.
#[derive(Debug)]
pub(super) struct Room {
    revision: String,
    ready: u32,
    placed: u32,
    /// The most of both revisions that had a node at once, of late or since one more went.
    both: u32,
    /// When it last came further, or something else was tried.
    since: Instant,
    stage: Stage,
    is_refused: bool,
}

#[derive(Debug)]
enum Stage {
    /// One that serves goes for each that is ready.
    Even,
    /// One more went.
    Given,
    /// That was of no use.
    InVain {
        /// Whether replicas have the room that don't serve: they give it back.
        gives_back: bool,
        /// Why they don't, where that is known.
        why: Option<Trouble>,
    },
}

/// Whether others' going would help.
pub(super) fn is_lack(trouble: &Trouble) -> bool {
    let says = |what: &str| trouble.message.contains(what);
    match trouble.reason {
        "PodsRefused" => says("exceeded quota"),
        "Unschedulable" => CROWDED.into_iter().any(says),
        _ => false,
    }
}

impl Room {
    pub(super) fn new(revision: &str, now: Instant) -> Self {
        Self {
            revision: revision.to_owned(),
            ready: 0,
            placed: 0,
            both: 0,
            since: now,
            stage: Stage::Even,
            is_refused: false,
        }
    }

    /// Whether this is of no use any more: it is about another revision, or it is to be begun anew.
    pub(super) fn is_over(&self, latest: &str, now: Instant) -> bool {
        let may_have_passed = match &self.stage {
            Stage::Even | Stage::Given => false,
            Stage::InVain { gives_back, why } => {
                *gives_back && why.as_ref().is_some_and(|why| !why.is_sure())
            }
        };
        self.revision != latest || (may_have_passed && self.waited(now) >= REST)
    }

    /// Goes on, by what is seen at `now`.
    pub(super) fn step(&mut self, seen: Seen<'_>, now: Instant) {
        if seen.ready > self.ready || seen.placed > self.placed {
            self.since = now;
        }
        (self.ready, self.placed) = (seen.ready, seen.placed);
        let both = seen.placed.saturating_add(seen.of_serving);
        // Those that went are part of the room.
        self.both = match &self.stage {
            Stage::Given => self.both.max(both),
            Stage::Even | Stage::InVain { .. } => both,
        };
        if seen.goes && matches!(self.stage, Stage::Given) {
            self.since = now;
        }
        self.is_refused = seen.lack.is_some_and(|lack| lack.reason == "PodsRefused");
        let waited = self.waited(now);
        match &self.stage {
            Stage::Even if seen.lack.is_some() && seen.other.is_none() && waited >= FORBEARANCE => {
                self.enter(Stage::Given, now);
            }
            Stage::Given => {
                let starts = seen.placed > seen.ready;
                let within = match seen.other {
                    Some(trouble) if trouble.is_sure() => Duration::ZERO,
                    None if starts => READY_WITHIN,
                    _ => HAD_WITHIN,
                };
                if waited >= within {
                    let stage = Stage::InVain {
                        gives_back: starts || seen.other.is_some(),
                        why: seen.other.cloned(),
                    };
                    self.enter(stage, now);
                }
            }
            Stage::Even | Stage::InVain { .. } => {}
        }
    }

    pub(super) fn leaves(&self) -> Leaves {
        let (more, latest, both) = match self.stage {
            Stage::Even => (0, None, None),
            Stage::Given => (1, None, Some(self.both)),
            Stage::InVain { gives_back, .. } => (0, gives_back.then_some(self.ready), None),
        };
        Leaves {
            serving: self.ready.saturating_add(more),
            latest,
            both,
        }
    }

    /// Why replicas that had room didn't serve.
    pub(super) fn failure(&self) -> Option<&Trouble> {
        match &self.stage {
            Stage::InVain { why, .. } => why.as_ref(),
            Stage::Even | Stage::Given => None,
        }
    }

    /// The revision, where pods that the namespace refused may be admitted by now.
    pub(super) fn refused(&self) -> Option<&str> {
        (self.is_refused && self.leaves().serving > 0).then_some(&self.revision)
    }

    fn waited(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    fn enter(&mut self, stage: Stage, now: Instant) {
        (self.stage, self.since) = (stage, now);
    }
}

impl Autoscaler {
    /// What revisions do without for the latest to take over where there is no room for both.
    pub(super) fn make_room(
        &self,
        id: &FunctionId,
        live: &Live,
        plan: &Plan,
        desired: u32,
    ) -> Leaves {
        let mut seen = Seen::default();
        let mut troubles = Vec::new();
        if plan.latest != plan.serving {
            let pods = self.cluster.pods_of(id);
            let of = |revision| {
                let is_of = move |pod: &&Arc<Pod>| pods::revision(pod) == Some(revision);
                pods.iter().filter(is_of)
            };
            let is_placed = |trouble: Option<&Trouble>| !trouble.is_some_and(is_lack);
            for pod in of(&plan.latest).filter(|pod| pods::is_alive(pod)) {
                seen.ready += u32::from(pods::is_ready(pod));
                let trouble = pods::trouble(pod);
                seen.placed += u32::from(is_placed(trouble.as_ref()));
                troubles.extend(trouble);
            }
            let now = Timestamp::now();
            for pod in of(&plan.serving) {
                let is_here = pods::is_alive(pod) && is_placed(pods::trouble(pod).as_ref());
                seen.of_serving += u32::from(is_here);
                // One on a node that died is shown for longer than it may take to go.
                seen.goes |=
                    (pod.metadata.deletion_timestamp.as_ref()).is_some_and(|by| by.0 > now);
            }
            let deployment = self.cluster.deployments.get(id, &plan.latest);
            troubles.extend(deployment.and_then(|deployment| pods::refused(&deployment)));
        }
        seen.lack = troubles.iter().find(|trouble| is_lack(trouble));
        seen.other = troubles.iter().find(|trouble| !is_lack(trouble));
        lock(&live.rollout).make_room(plan, desired, seen, Instant::now())
    }

    /// Whether the one that serves has no replica, for the latest to have room: that one's are on their way.
    #[must_use]
    pub fn is_taken_over(&self, live: &Live) -> bool {
        let desired = lock(&live.load).desired;
        let leaves = lock(&live.rollout).leaves();
        desired.is_some_and(|desired| desired > 0 && leaves.of_serving(desired) == 0)
    }

    /// Has pods of the latest revision asked for anew that were refused before others made room.
    pub(super) fn ask_for_room(self: &Arc<Self>, id: &FunctionId, live: &Arc<Live>) {
        let Some(latest) = lock(&live.rollout).refused().map(str::to_owned) else {
            return;
        };
        // Its turn comes with a later tick where replicas are being set: an API server may take long for that.
        if was_asked_anew(live) || live.scaling.try_lock().is_err() {
            return;
        }
        let (this, id, live) = (Arc::clone(self), id.clone(), Arc::clone(live));
        tokio::spawn(async move {
            if let Err(error) = this.ask_anew(&id, &live, &latest, true).await {
                tracing::warn!(function = %id, error = %chain(&error), "pods that were refused could not be asked for anew");
            }
        });
    }
}
