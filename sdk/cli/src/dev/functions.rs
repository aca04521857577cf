//! All functions that run, by name: what the gateway wakes and the autoscaler counts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use wisp_api::Function;
use wisp_autoscale::{History, Load, Scaling, decide};
use wisp_contract::FunctionId;
use wisp_contract::problem::Fault;
use wisp_gateway::{ActivateError, Activator, Gateway};

use super::manifests::Folder;
use super::supervisor::Supervisor;

/// How often the number of replicas is decided.
const TICK: Duration = Duration::from_secs(1);

/// The functions that run.
#[derive(Clone, Default)]
pub(crate) struct Functions(Arc<Mutex<BTreeMap<FunctionId, Entry>>>);

#[derive(Clone)]
struct Entry {
    supervisor: Supervisor,
    scaling: Scaling,
    history: Arc<Mutex<History>>,
    /// The folder that declares it.
    folder: Folder,
}

impl Functions {
    fn with<T>(&self, see: impl FnOnce(&mut BTreeMap<FunctionId, Entry>) -> T) -> T {
        see(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn get(&self, id: &FunctionId) -> Option<Supervisor> {
        self.with(|functions| functions.get(id).map(|entry| entry.supervisor.clone()))
    }

    /// Adds a function, or changes how it scales, and which folder declares it.
    pub(crate) fn insert(
        &self,
        id: FunctionId,
        supervisor: Supervisor,
        function: &Function,
        folder: &Folder,
    ) {
        let scaling = scaling(function);
        self.with(|functions| {
            functions
                .entry(id)
                .and_modify(|entry| {
                    entry.scaling = scaling;
                    entry.folder = folder.clone();
                })
                .or_insert_with(|| Entry {
                    supervisor,
                    scaling,
                    history: Arc::default(),
                    folder: folder.clone(),
                });
        });
    }

    pub(crate) fn remove(&self, id: &FunctionId) -> Option<Supervisor> {
        self.with(|functions| functions.remove(id).map(|entry| entry.supervisor))
    }

    pub(crate) fn ids(&self) -> Vec<FunctionId> {
        self.with(|functions| functions.keys().cloned().collect())
    }

    /// The folder that declares the function.
    pub(crate) fn folder(&self, id: &FunctionId) -> Option<Folder> {
        self.with(|functions| functions.get(id).map(|entry| entry.folder.clone()))
    }

    /// Lets all replicas of all functions finish, and returns when they have ended.
    pub(crate) async fn stop(&self) {
        let all = self.with(|functions| {
            functions
                .values()
                .map(|entry| entry.supervisor.clone())
                .collect::<Vec<_>>()
        });
        futures::future::join_all(all.iter().map(Supervisor::stop)).await;
    }

    /// Decides once a second, and at once when a queue grows, how many replicas each function has; until `shutdown`.
    pub(crate) async fn scale(&self, gateway: &Gateway, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = tick.tick() => {}
                () = gateway.queue_growth() => {}
            }
            let now = Instant::now();
            for stats in gateway.stats(now) {
                let Some(entry) = self.with(|functions| functions.get(&stats.function).cloned())
                else {
                    continue;
                };
                let mut history = entry.history.lock().unwrap_or_else(PoisonError::into_inner);
                let load = Load {
                    in_flight: stats.concurrency.max(f64::from(stats.in_flight)),
                    queued: stats.queue.max(f64::from(stats.queued)),
                    requests: stats.requests,
                };
                history.record(now, load);
                let current = u32::try_from(entry.supervisor.serving()).unwrap_or(u32::MAX);
                let decision = decide(now, &history, &entry.scaling, current);
                history.follow(&decision);
                drop(history);
                entry
                    .supervisor
                    .scale(usize::try_from(decision.replicas).unwrap_or(usize::MAX));
            }
        }
    }
}

fn scaling(function: &Function) -> Scaling {
    let spec = &function.spec.scaling;
    Scaling {
        min: spec.min_replicas,
        max: spec.max_replicas,
        target: f64::from(spec.target_concurrency(function.spec.limits.concurrency)),
        idle_timeout: spec.idle_timeout.into(),
    }
}

/// Wakes functions for the gateway.
#[derive(Clone, Default)]
pub(crate) struct Waker(pub(crate) Arc<OnceLock<Functions>>);

impl Activator for Waker {
    fn ensure<'a>(
        &'a self,
        function: &'a FunctionId,
        _: Option<wisp_traces::Context>,
    ) -> BoxFuture<'a, Result<(), ActivateError>> {
        let supervisor = self.0.get().and_then(|functions| functions.get(function));
        async move {
            match supervisor {
                Some(supervisor) => supervisor.wake().await,
                None => Err(ActivateError::new(
                    Fault::Platform,
                    format!("the function {function} was removed"),
                )),
            }
        }
        .boxed()
    }
}
