//! Waking a function that has no replica: once for all who ask, and answered as soon as a replica serves.

mod capacity;
mod error;
mod insist;
pub(crate) mod probe;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use tokio::sync::watch;
use wisp_contract::FunctionId;
use wisp_contract::log::chain;
use wisp_contract::operator::pod::{CONTROL_PORT, DATA_PORT};
use wisp_contract::operator::{Ensured, Replica};
use wisp_contract::problem::Fault;
use wisp_traces::{Context, Span, SpanKind, Traces};

use crate::artifacts::Stage;
use crate::autoscale::{Autoscaler, ScaleError};
use crate::cluster::pods::{self, Trouble};
use crate::cluster::{Cluster, pods::is_ready};
use crate::live::{Functions, Live, lock};
use crate::metrics::Metrics;

pub use capacity::{Capacity, Deployments};
pub use error::WakeError;

/// How long a trouble is waited out that may pass: a node may be on its way.
const FORBEARANCE: Duration = Duration::from_secs(15);
/// How long a pod that stands by is worth waiting for, where an operator that has just started doesn't know yet how it
/// becomes the function's: a new pod takes longer.
const RECOLLECTION: Duration = Duration::from_millis(500);
/// How long after a wake-up the Function's status is written.
const TOLD_AFTER: Duration = Duration::from_millis(100);
/// A wake-up; `None` while it goes on. All who ask wait for the same.
pub type Running = watch::Receiver<Option<Result<Ensured, WakeError>>>;

/// What came of asking for a replica.
enum Provided {
    /// It serves.
    Serving(Replica),
    /// Pods come.
    Coming,
    /// They could not be asked for.
    Refused(ScaleError),
}

/// Wakes functions.
pub struct Waker {
    cluster: Arc<Cluster>,
    live: Arc<Functions>,
    autoscaler: Arc<Autoscaler>,
    capacity: Arc<dyn Capacity>,
    metrics: Arc<Metrics>,
    traces: Traces,
    timeout: Duration,
    control_port: u16,
}

impl Waker {
    /// Wakes with pods of `capacity`, each function within a minute.
    #[must_use]
    pub fn new(
        cluster: Arc<Cluster>,
        live: Arc<Functions>,
        autoscaler: Arc<Autoscaler>,
        capacity: Arc<dyn Capacity>,
        metrics: Arc<Metrics>,
        traces: Traces,
    ) -> Self {
        Self {
            cluster,
            live,
            autoscaler,
            capacity,
            metrics,
            traces,
            timeout: Duration::from_secs(60),
            control_port: CONTROL_PORT,
        }
    }

    /// The same, within `timeout`.
    #[must_use]
    pub fn within(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Sees to it that `function` has a replica, and waits until it serves. It runs to its end even if nobody waits
    /// any more, and is part of the first one's `trace`.
    ///
    /// # Errors
    /// When there is no such function, it can't run, or it takes too long.
    pub async fn ensure(
        self: &Arc<Self>,
        function: &FunctionId,
        trace: Option<Context>,
    ) -> Result<Ensured, WakeError> {
        let Some(object) = self.cluster.function(function) else {
            return Err(WakeError::Unknown(function.clone()));
        };
        if let Some(ensured) = self.ready(function) {
            return Ok(ensured);
        }
        let live = self.live.enter(function, &object.uid().unwrap_or_default());
        let mut running = self.join(function, &live, trace);
        match running.wait_for(Option::is_some).await {
            Ok(result) => result
                .clone()
                .unwrap_or_else(|| Err(WakeError::broken_off(function, self.timeout))),
            Err(_) => Err(WakeError::broken_off(function, self.timeout)),
        }
    }

    /// Joins the wake-up that goes on, or begins one.
    fn join(
        self: &Arc<Self>,
        function: &FunctionId,
        live: &Arc<Live>,
        trace: Option<Context>,
    ) -> Running {
        let mut waking = lock(&live.waking);
        // A sender that is gone without a result panicked: that wake-up is over.
        let going_on =
            |running: &&Running| running.borrow().is_none() && running.has_changed().is_ok();
        if let Some(running) = waking.as_ref().filter(going_on) {
            return running.clone();
        }
        let (sender, running) = watch::channel(None);
        *waking = Some(running.clone());
        let (this, live, id) = (Arc::clone(self), Arc::clone(live), function.clone());
        tokio::spawn(async move {
            let began = Instant::now();
            let mut span = this.traces.span("wake", SpanKind::Server, trace);
            span.set("wisp.function", id.to_string());
            let result = this.wake(&id, &live, began, &span).await;
            this.tell(&id, &result, began.elapsed());
            if let Err(error) = &result {
                span.fail(error.reason());
            }
            drop(span);
            sender.send_replace(Some(result));
            // The Function's status tells the same, once the request had the processors.
            tokio::time::sleep(TOLD_AFTER).await;
            this.cluster.reconcile(&id);
        });
        running
    }

    fn tell(&self, id: &FunctionId, result: &Result<Ensured, WakeError>, took: Duration) {
        match result {
            Ok(_) => {
                self.metrics.woke("succeeded");
                self.metrics.wake_phase("served", took);
                let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                tracing::info!(function = %id, millis, "woken");
            }
            Err(error) => {
                self.metrics.woke(error.reason());
                tracing::warn!(function = %id, %error, "the function can't be woken");
            }
        }
    }

    /// The replicas that the kubelets call ready, or that were taken from a pool just now; if there are any.
    fn ready(&self, id: &FunctionId) -> Option<Ensured> {
        let function = self.cluster.function(id)?;
        let pods = self.cluster.pods_of(id);
        let mut replicas: Vec<Replica> = pods
            .iter()
            .filter(|pod| is_ready(pod))
            .filter_map(|pod| replica(pod))
            .collect();
        let live = self.live.get(id);
        if let Some(live) = live.filter(|live| live.is_of(&function)) {
            let claims = lock(&live.claims);
            let unseen = claims
                .iter()
                .filter(|(name, _)| !pods.iter().any(|pod| pod.name_any() == **name));
            replicas.extend(unseen.filter_map(|(_, claim)| claim.replica.clone()));
        }
        (!replicas.is_empty()).then_some(Ensured { replicas })
    }

    async fn wake(
        &self,
        id: &FunctionId,
        live: &Live,
        began: Instant,
        span: &Span,
    ) -> Result<Ensured, WakeError> {
        let since = Timestamp::now();
        let deadline = tokio::time::sleep(self.timeout);
        tokio::pin!(deadline);
        let is_refused = AtomicBool::new(false);
        let steps = async {
            self.revision(id, live).await?;
            loop {
                let refused = match self.provide(id, live, span).await? {
                    Provided::Serving(replica) => {
                        self.metrics.wake_phase("claimed", began.elapsed());
                        return Ok(Ensured {
                            replicas: vec![replica],
                        });
                    }
                    Provided::Coming => None,
                    Provided::Refused(error) => Some(error),
                };
                let _waiting = span.child("pod");
                if refused.is_none() {
                    self.metrics.wake_phase("scaled", began.elapsed());
                    self.ask_anew(id, live, since).await;
                }
                // Whoever else asked for them, they may come.
                let served = tokio::select! {
                    served = self.served(id, live, began, since) => served,
                    error = self.insist(id, refused, &is_refused, began) => Err(error),
                };
                match served {
                    // The revision on trial can't serve, the one before could: who waits gets that.
                    Err(WakeError::Trouble(trouble)) if live.fall_back(&trouble) => {
                        self.cluster.notify(id);
                        self.cluster.reconcile(id);
                    }
                    other => return other,
                }
            }
        };
        tokio::select! {
            result = steps => result,
            () = &mut deadline => {
                let state = if is_refused.load(Ordering::Relaxed) {
                    "its number of replicas could not be set".to_owned()
                } else {
                    self.state(id, live)
                };
                Err(WakeError::Deadline {
                    function: id.clone(),
                    after: self.timeout,
                    state,
                })
            }
        }
    }

    /// Waits until there is a revision to wake.
    async fn revision(&self, id: &FunctionId, live: &Live) -> Result<(), WakeError> {
        let mut changes = self.cluster.changes(id);
        let mut has_waited = false;
        let recollection = tokio::time::sleep(RECOLLECTION);
        tokio::pin!(recollection);
        loop {
            changes.borrow_and_update();
            let failure = live.failure();
            let has_plan = live.plan().is_some();
            if has_plan && (live.knows_claimables() || failure.is_some() || has_waited) {
                return Ok(());
            }
            if let Some(error) = failure {
                return Err(WakeError::Trouble(Trouble {
                    reason: error.reason,
                    message: error.message,
                    fault: Fault::Function,
                    is_final: true,
                    since: None,
                }));
            }
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() {
                        return Err(WakeError::Unknown(id.clone()));
                    }
                }
                () = &mut recollection, if has_plan => has_waited = true,
            }
        }
    }

    /// Has a replica made of a pod that stands by, or asks for new ones.
    async fn provide(
        &self,
        id: &FunctionId,
        live: &Live,
        span: &Span,
    ) -> Result<Provided, WakeError> {
        let Some(function) = self.cluster.function(id) else {
            return Err(WakeError::Unknown(id.clone()));
        };
        self.autoscaler.wake(Instant::now(), &function, live);
        if self.autoscaler.is_taken_over(live) {
            return Ok(Provided::Coming);
        }
        Ok(match self.capacity.provide(id, span).await {
            Ok(Some(replica)) => Provided::Serving(replica),
            Ok(None) => Provided::Coming,
            Err(error) => Provided::Refused(error),
        })
    }

    /// Has pods asked for anew, where they were refused before `since`: else that were tried at last every 1000 s, however
    /// long ago somebody raised the quota.
    async fn ask_anew(&self, id: &FunctionId, live: &Live, since: Timestamp) {
        let was_refused_before = self
            .trouble(id, live, since)
            .is_some_and(|trouble| trouble.reason == "PodsRefused" && !trouble.is_final);
        let Some(plan) = live.plan().filter(|_| was_refused_before) else {
            return;
        };
        if let Err(error) = self
            .autoscaler
            .ask_anew(id, live, &plan.serving, false)
            .await
        {
            tracing::warn!(function = %id, error = %chain(&error), "pods that were refused could not be asked for anew");
        }
    }

    /// Waits until a replica serves: as soon as it has an address it is asked itself. What was refused before `since` may
    /// pass.
    async fn served(
        &self,
        id: &FunctionId,
        live: &Live,
        began: Instant,
        since: Timestamp,
    ) -> Result<Ensured, WakeError> {
        let mut changes = self.cluster.changes(id);
        let mut asked: BTreeSet<IpAddr> = BTreeSet::new();
        let mut probes = FuturesUnordered::new();
        loop {
            changes.borrow_and_update();
            let pods = self.cluster.pods_of(id);
            for address in pods
                .iter()
                .filter(|pod| pods::is_alive(pod))
                .filter_map(|pod| pods::address(pod))
            {
                if asked.insert(address) {
                    if asked.len() == 1 {
                        self.metrics.wake_phase("addressed", began.elapsed());
                    }
                    let port = self.control_port;
                    probes.push(async move {
                        probe::until_ready(address, port, "/readyz").await;
                        address
                    });
                }
            }
            if let Some(ensured) = self.ready(id) {
                return Ok(ensured);
            }
            if let Some(trouble) = self.trouble(id, live, since)
                && (trouble.is_final || trouble.has_lasted(Timestamp::now(), FORBEARANCE))
            {
                return Err(WakeError::Trouble(trouble));
            }
            tokio::select! {
                Some(address) = probes.next() => {
                    let pods = self.cluster.pods_of(id);
                    let alive = pods.iter().filter(|pod| pods::is_alive(pod));
                    let found = alive.filter(|pod| pods::address(pod) == Some(address));
                    let replicas: Vec<_> = found.filter_map(|pod| replica(pod)).collect();
                    if !replicas.is_empty() {
                        return Ok(Ensured { replicas });
                    }
                    asked.remove(&address);
                }
                changed = changes.changed() => {
                    if changed.is_err() {
                        return Err(WakeError::Unknown(id.clone()));
                    }
                }
                // Troubles that may pass are looked at again.
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
    }

    fn trouble(&self, id: &FunctionId, live: &Live, since: Timestamp) -> Option<Trouble> {
        let serving = live.plan()?.serving;
        let pods = self.cluster.pods_of(id);
        let mut of_pods = pods
            .iter()
            .filter(|pod| pods::revision(pod) == Some(&serving));
        let deployment = self.cluster.deployments.get(id, &serving);
        of_pods
            .find_map(|pod| pods::trouble(pod))
            .or_else(|| Some(pods::refused(deployment.as_deref()?)?.as_of(since)))
    }

    fn state(&self, id: &FunctionId, live: &Live) -> String {
        if live.plan().is_none() {
            let what = match lock(&live.resolution).stage {
                Stage::Fetching => "its component is still being fetched",
                Stage::Preparing => "its component is still to be compiled",
                Stage::Prepared => "its models are still being fetched",
            };
            return what.to_owned();
        }
        match self
            .cluster
            .pods_of(id)
            .iter()
            .find(|pod| pods::is_alive(pod))
        {
            Some(pod) => format!(
                "the pod {} is {}",
                pod.name_any(),
                pod.status
                    .as_ref()
                    .and_then(|status| status.phase.as_deref())
                    .unwrap_or("new")
            ),
            None => "no pod came".to_owned(),
        }
    }
}

fn replica(pod: &Pod) -> Option<Replica> {
    Some(Replica {
        address: SocketAddr::new(pods::address(pod)?, DATA_PORT),
        concurrency: pods::concurrency(pod),
    })
}

#[cfg(test)]
mod tests;
