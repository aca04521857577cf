//! How many replicas functions have: reports → windows → a decision → `/scale`. Nobody else writes that number.

mod collect;
mod rollout;
mod room;
mod set;
mod spread;
mod taken;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::sync::Notify;
use wisp_api::Function;
use wisp_autoscale::{Decision, History, Reason, Scaling, decide};
use wisp_contract::FunctionId;
use wisp_contract::operator::Report;

use crate::attempts::Attempts;
use crate::cluster::Cluster;
use crate::cluster::pods;
use crate::live::{Functions, Live, lock};
use crate::metrics::Metrics;
use collect::Collector;
pub use rollout::{Rollout, Seen};
use spread::{Changes, There, share};
use taken::Taken;

/// So long nothing more is set of a function of which something was refused, at the most: what else it should have waits, too.
const REFUSED_FOR: Duration = Duration::from_secs(4);
/// How often it is decided.
const TICK: Duration = Duration::from_secs(1);
/// An operator takes no replica away that it found before it has heard gateways for so long: by then all of them have told
/// what they see.
const SETTLING: Duration = Duration::from_secs(10);
/// Where no gateway says anything for so long, there is none.
const UNHEARD: Duration = Duration::from_secs(60);
/// A function that sleeps and is asked for is woken by who waits: a pod that stands by may serve at once. So long a
/// report that tells of it first makes no other.
const WAKING: Duration = Duration::from_secs(1);

/// A function's load, and how many replicas it should have.
#[derive(Debug, Default)]
pub struct Load {
    history: History,
    /// How many, once it was decided.
    pub desired: Option<u32>,
    /// When its load was first seen while it had no replica.
    rose: Option<Instant>,
    /// When it was found with replicas that an operator before this one had decided on.
    found: Option<Instant>,
}

/// Sees to it that functions have as many replicas as they need.
pub struct Autoscaler {
    client: Client,
    cluster: Arc<Cluster>,
    live: Arc<Functions>,
    metrics: Arc<Metrics>,
    collector: Mutex<Collector>,
    urgent: Notify,
    /// When a gateway was first heard: nobody listens to them before this process leads, and knows what there is.
    heard: Mutex<Option<Instant>>,
    /// The setting of what ticks find not to be as it should be.
    pushes: Attempts<FunctionId>,
}

/// Why replicas can't be set.
#[derive(Debug, thiserror::Error)]
pub enum ScaleError {
    /// The API server says nothing.
    #[error("the API server hasn't answered within {} s", .0.as_secs())]
    Silence(std::time::Duration),
    /// The function has no revision yet.
    #[error("the function {0} has no revision yet")]
    NoRevision(FunctionId),
    /// The API server refused.
    #[error("the replicas of {revision} can't be set to {replicas}")]
    Api {
        /// Of what.
        revision: String,
        /// To how many.
        replicas: u32,
        /// Why.
        source: kube::Error,
    },
    /// The API server refused to end a pod.
    #[error("the pod {pod} can't be ended")]
    End {
        /// Which.
        pod: String,
        /// Why.
        source: kube::Error,
    },
}

impl ScaleError {
    /// Whether the API server answered.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        matches!(self.source(), Some(kube::Error::Api(_)))
    }

    /// Whether it may go otherwise in a moment: nobody decided it, or somebody else wrote at the same time.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self.source() {
            Some(kube::Error::Api(status)) => matches!(status.code, 404 | 409 | 429 | 500..),
            Some(_) => true,
            None => false,
        }
    }

    fn source(&self) -> Option<&kube::Error> {
        match self {
            Self::Api { source, .. } | Self::End { source, .. } => Some(source),
            Self::Silence(_) | Self::NoRevision(_) => None,
        }
    }
}

impl Autoscaler {
    /// Nothing is known of any load yet.
    #[must_use]
    pub fn new(
        client: Client,
        cluster: Arc<Cluster>,
        live: Arc<Functions>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            client,
            cluster,
            live,
            metrics,
            collector: Mutex::default(),
            urgent: Notify::new(),
            heard: Mutex::default(),
            pushes: Attempts::pausing(REFUSED_FOR),
        }
    }

    /// Takes note of what a gateway saw.
    pub fn report(&self, report: Report) {
        let is_urgent = report.urgent;
        let now = Instant::now();
        lock(&self.heard).get_or_insert(now);
        lock(&self.collector).take(now, report);
        if is_urgent {
            self.urgent.notify_one();
        }
    }

    /// Decides once a second, and at once of functions whose queues grow. Never returns.
    pub async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.tick(Instant::now()),
                () = self.urgent.notified() => self.tick_waiting(Instant::now()),
            }
        }
    }

    fn tick(self: &Arc<Self>, now: Instant) {
        let is_there = |id: &FunctionId| self.live.get(id).is_some();
        {
            let mut collector = lock(&self.collector);
            collector.forget_silent(now);
            collector.forget_others(is_there);
            let (heard, missed) = collector.gateways(now);
            self.metrics.gateways(heard, missed);
        }
        self.pushes.retain(is_there);
        for function in self.cluster.functions().state() {
            if let Ok(id) = function.id() {
                self.see_to(now, &id, &function);
            }
        }
    }

    /// As long as a queue grows gateways tell it fifty times a second, each: that is no reason to look at all functions.
    fn tick_waiting(self: &Arc<Self>, now: Instant) {
        let waiting = lock(&self.collector).take_waiting();
        for id in waiting {
            if let Some(function) = self.cluster.function(&id) {
                self.see_to(now, &id, &function);
            }
        }
    }

    fn see_to(self: &Arc<Self>, now: Instant, id: &FunctionId, function: &Function) {
        let Some(live) = self.live.get(id) else {
            return;
        };
        self.decide(now, id, function, &live);
        let changes = self.changes(id, &live);
        self.ask_for_room(id, &live);
        if changes.is_empty() {
            self.forget_refusal(id);
        } else if !self.is_about_to_wake(now, id, &live) {
            self.begin_push(now, id, &changes);
        }
    }

    fn decide(&self, now: Instant, id: &FunctionId, function: &Function, live: &Live) {
        let scaling = scaling(function);
        let (load, is_missed) = {
            let mut collector = lock(&self.collector);
            (collector.load(now, id), collector.is_missed(now, id))
        };
        let mut state = lock(&live.load);
        let current = self.current(now, id, live, &mut state);
        let Some(current) = current else { return };
        if is_missed && current > 0 {
            // Somebody may ask for it whom nobody hears.
            state.history.touch(now);
        }
        state.history.record(now, load);
        let decision = decide(now, &state.history, &scaling, current);
        state.history.follow(&decision);
        let desired = if is_missed || !self.has_settled(now, &state) {
            decision.replicas.max(current.min(scaling.max))
        } else {
            decision.replicas
        };
        if current == 0 && desired > 0 {
            state.rose = (decision.reason != Reason::Bounds).then_some(now);
        }
        state.desired = Some(desired);
        drop(state);
        if desired != current {
            self.tell(id, current, desired, &decision);
        }
        self.metrics.wanted(id, desired);
    }

    /// Whether what is known of the function's load is what all gateways see.
    fn has_settled(&self, now: Instant, state: &Load) -> bool {
        let Some(found) = state.found else {
            return true;
        };
        match *lock(&self.heard) {
            Some(heard) => now.saturating_duration_since(found.max(heard)) >= SETTLING,
            None => now.saturating_duration_since(found) >= UNHEARD,
        }
    }

    fn tell(&self, id: &FunctionId, current: u32, desired: u32, decision: &Decision) {
        let reason = decision.reason.as_str();
        tracing::info!(function = %id, from = current, to = desired, reason, "scaling");
        self.metrics.scaled(reason, desired > current);
    }

    /// How many replicas the function should have as of now; at first, as many as there are.
    fn current(&self, now: Instant, id: &FunctionId, live: &Live, state: &mut Load) -> Option<u32> {
        if let Some(desired) = state.desired {
            return Some(desired);
        }
        let plan = live.plan()?;
        let there = self.there(id, live);
        let of = |revision: &String| {
            let of_deployment = there.deployments.get(revision).copied().unwrap_or(0);
            let claimed = there.claimed.get(revision);
            let claimed = claimed.map_or(0, |pods| taken::count(pods));
            claimed.saturating_add(of_deployment)
        };
        // The one that serves may have made room for the latest.
        let replicas = of(&plan.serving).max(of(&plan.latest));
        if replicas > 0 {
            // Nobody knows when it was last asked for: it has a whole idle timeout before it.
            state.history.touch(now);
            state.found = Some(now);
        }
        Some(replicas)
    }

    /// A function that is new begins with as many replicas as it should have at least; one that was there before, with
    /// as many as it has.
    pub fn begin(&self, id: &FunctionId, function: &Function, live: &Live) {
        let mut state = lock(&live.load);
        if state.desired.is_none() {
            let least = function.spec.scaling.min_replicas;
            state.desired = self
                .current(Instant::now(), id, live, &mut state)
                .map(|current| current.max(least));
        }
    }

    /// Somebody waits for a replica: there shall be at least one.
    pub fn wake(&self, now: Instant, function: &Function, live: &Live) -> u32 {
        let mut state = lock(&live.load);
        // It may be woken before anything was decided: what it has, it keeps.
        let id = function.id().ok();
        let current = id.and_then(|id| self.current(now, &id, live, &mut state));
        state.history.touch(now);
        let least = function.spec.scaling.min_replicas.max(1);
        let desired = current.unwrap_or(0).max(least);
        state.desired = Some(desired);
        desired
    }

    fn replicas(&self, id: &FunctionId) -> BTreeMap<String, u32> {
        replicas_of(&self.cluster.deployments_of(id))
    }

    /// What there is of its replicas.
    fn there(&self, id: &FunctionId, live: &Live) -> There {
        let deployments = self.cluster.deployments_of(id);
        let mut there = There {
            deployments: replicas_of(&deployments),
            ready: counted(&deployments, |deployment| {
                deployment.status.as_ref()?.ready_replicas
            }),
            ..There::default()
        };
        let now = Timestamp::now();
        for pod in self.cluster.pods_of(id) {
            let Some(revision) = pods::revision(&pod).filter(|_| pods::is_alive(&pod)) else {
                continue;
            };
            if pods::is_claimed(&pod) {
                let of = there.claimed.entry(revision.to_owned()).or_default();
                of.push(Taken::shown(&pod, now));
            } else if taken::is_lost(&pod, now) {
                *there.lost.entry(revision.to_owned()).or_default() += 1;
            }
        }
        for (name, claim) in lock(&live.claims).iter() {
            // What the cluster shows counts as it is shown.
            if self.cluster.pods.get(id, name).is_none() {
                let of = there.claimed.entry(claim.revision.clone()).or_default();
                of.push(Taken::unseen(name, claim));
            }
        }
        there
    }

    /// Whether it has no replica, and is to have one only because somebody waits for it as of now.
    fn is_about_to_wake(&self, now: Instant, id: &FunctionId, live: &Live) -> bool {
        let rose = lock(&live.load).rose;
        let is_new = rose.is_some_and(|rose| now.saturating_duration_since(rose) < WAKING);
        is_new
            && lock(&live.claims).is_empty()
            && !self
                .cluster
                .pods_of(id)
                .iter()
                .any(|pod| pods::is_alive(pod))
    }

    /// What isn't as it should be.
    fn changes(&self, id: &FunctionId, live: &Live) -> Changes {
        let (Some(plan), Some(desired)) = (live.plan(), lock(&live.load).desired) else {
            return Changes::default();
        };
        let leaves = self.make_room(id, live, &plan, desired);
        let function = self.cluster.function(id);
        let most = function.map_or(desired, |function| function.spec.scaling.max_replicas);
        let mut changes = share(desired, most, leaves, &plan, &self.there(id, live));
        let pods = self.cluster.pods_of(id);
        let spent = pods.iter().filter(|pod| pods::is_spent(pod));
        changes
            .surplus
            .extend(spent.map(|pod| spread::Surplus::of(pod)));
        changes
    }
}

/// The present, as Kubernetes writes it: in whole seconds.
#[must_use]
pub fn now() -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Time {
    let now = k8s_openapi::jiff::Timestamp::now();
    let whole = k8s_openapi::jiff::Timestamp::from_second(now.as_second());
    k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(whole.unwrap_or(now))
}

/// How many replicas Deployments are to have, but for those that are being deleted.
fn replicas_of(deployments: &[Arc<Deployment>]) -> BTreeMap<String, u32> {
    counted(deployments, |deployment| {
        let is_alive = deployment.metadata.deletion_timestamp.is_none();
        is_alive.then(|| deployment.spec.replicas.unwrap_or(1))
    })
}

/// What `count` tells of Deployments, by their names.
fn counted(
    deployments: &[Arc<Deployment>],
    count: impl Fn(&Deployment) -> Option<i32>,
) -> BTreeMap<String, u32> {
    deployments
        .iter()
        .filter_map(|deployment| {
            let name = deployment.metadata.name.clone()?;
            Some((name, u32::try_from(count(deployment)?).unwrap_or(0)))
        })
        .collect()
}

fn scaling(function: &Function) -> Scaling {
    let scaling = &function.spec.scaling;
    Scaling {
        min: scaling.min_replicas,
        max: scaling.max_replicas,
        target: f64::from(scaling.target_concurrency(function.spec.limits.concurrency)),
        idle_timeout: scaling.idle_timeout.into(),
    }
}

#[cfg(test)]
mod tests;
