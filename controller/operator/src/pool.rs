//! Pods that stand by, and how one of them becomes a function's replica within milliseconds.
//!
//! The pod is the truth: it takes exactly one Assignment in its life, and tells which. So a pod is assigned first, which
//! is all that a request waits for, and marked as the function's in the cluster thereafter ([`adopt`]). Whoever begins to
//! lead asks all pods that stand by what they are ([`recover`]), and finishes what another operator began.

mod adopt;
mod claimable;
mod defaults;
mod hold;
mod keep;
mod models;
mod near;
mod parts;
mod pins;
mod queue;
mod recover;
mod refusals;
mod size;
mod standing;
mod status;
mod trials;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant, SystemTime};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kube::{Client, ResourceExt as _};
use tokio::sync::{Semaphore, watch};
use wisp_api::RuntimePool;
use wisp_contract::FunctionId;
use wisp_contract::assignment::Assignment;
use wisp_contract::operator::Replica;
use wisp_contract::operator::pod::DATA_PORT;
use wisp_traces::Span;

use crate::artifacts::Artifacts;
use crate::attempts::Attempts;
use crate::autoscale::{Autoscaler, ScaleError};
use crate::cluster::{Cluster, pods};
use crate::control::{self, Connection, ControlError};
use crate::levels::Levels;
use crate::live::{Claim, Functions, Live, lock};
use crate::metrics::Metrics;
use crate::reconcile::desired::Settings;
use crate::references::{OnChange, References};
use crate::wake::{Capacity, Deployments};
use hold::Holds;
use models::{Kept, State};
use queue::{Expected, Queue};
use recover::LOADED_WITHIN;
use refusals::Refusals;
pub(crate) use refusals::is_refusal;
use trials::Trials;
use wisp_contract::log::chain;

pub use claimable::{Claimable, Misfit};
pub use defaults::Defaults;

/// The longest that a pod may take to become a function: its models may be large.
const PATIENCE: Duration = Duration::from_secs(45);
/// The longest that a host may take to say what it found.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// After this a pod is resized again that could not be, or still hasn't what its function asks for.
const RESIZED_AGAIN: Duration = Duration::from_secs(60);
/// So long a pod that isn't to be taken is remembered after it was seen last: the watch may be behind.
const REMEMBERED: Duration = Duration::from_secs(60);

/// A pool's namespace and name.
pub type PoolId = FunctionId;

/// What pools are kept with.
pub struct Around {
    /// Writes to the cluster.
    pub client: Client,
    /// What is known of it.
    pub cluster: Arc<Cluster>,
    /// What is remembered of its functions.
    pub live: Arc<Functions>,
    /// Counts their replicas.
    pub autoscaler: Arc<Autoscaler>,
    /// Holds the pools' models.
    pub artifacts: Arc<dyn Artifacts>,
    /// Is told what processors pods have.
    pub levels: Arc<Levels>,
    /// Counts what happens.
    pub metrics: Arc<Metrics>,
}

/// The pools of the cluster.
pub struct Pools {
    client: Client,
    cluster: Arc<Cluster>,
    live: Arc<Functions>,
    autoscaler: Arc<Autoscaler>,
    artifacts: Arc<dyn Artifacts>,
    levels: Arc<Levels>,
    metrics: Arc<Metrics>,
    settings: Settings,
    defaults: Defaults,
    /// Pods that somebody takes, or took; by uid.
    taken: Mutex<HashMap<String, Instant>>,
    known: Mutex<BTreeMap<PoolId, Known>>,
    /// How often the models of one were fetched.
    attempts: AtomicU64,
    /// The watches on what their models are fetched with.
    references: References,
    trials: Arc<Trials>,
    queue: Queue,
    holds: Holds,
    refusals: Refusals,
    /// The writing of their objects, and of how many pods stand by.
    objects: Attempts<PoolId>,
    /// The writing of what is said of them.
    statuses: Attempts<PoolId>,
    /// The making and dropping of those that nobody asked for, by namespace.
    default_pools: Attempts<String>,
    /// The resizing of pods that functions took, by function and uid.
    resizes: Attempts<(FunctionId, String)>,
    /// How much more may be written at once.
    writing: Semaphore,
    /// Whether every pod was asked what it is.
    recovered: watch::Sender<bool>,
}

/// What is remembered of a pool.
#[derive(Debug, Default)]
struct Known {
    wakes: size::Wakes,
    claims: i32,
    applied: Option<keep::Applied>,
    said: Option<keep::Said>,
    models: Option<models::Models>,
}

impl Pools {
    /// The pools of a cluster.
    #[must_use]
    pub fn new(around: Around, settings: Settings, defaults: Defaults) -> Arc<Self> {
        Arc::new_cyclic(|this: &Weak<Self>| Self {
            references: References::new(around.client.clone(), on_change(this.clone())),
            client: around.client,
            cluster: around.cluster,
            live: around.live,
            autoscaler: around.autoscaler,
            artifacts: around.artifacts,
            levels: around.levels,
            metrics: around.metrics,
            settings,
            defaults,
            taken: Mutex::default(),
            known: Mutex::default(),
            attempts: AtomicU64::default(),
            trials: Arc::default(),
            queue: Queue::default(),
            holds: Holds::default(),
            refusals: Refusals::default(),
            objects: Attempts::default(),
            statuses: Attempts::spaced(keep::SAID_EVERY),
            default_pools: Attempts::default(),
            resizes: Attempts::default(),
            writing: Semaphore::new(keep::WRITTEN_AT_ONCE),
            recovered: watch::channel(false).0,
        })
    }

    /// A pod that stands by becomes a replica of the function, if there is one that can. Returns when it serves.
    async fn claim(self: &Arc<Self>, id: &FunctionId, wake: &Span) -> Option<Replica> {
        if self.refusals.why(id.namespace(), Instant::now()).is_some() {
            return None;
        }
        let live = self.live.get(id)?;
        let plan = live.plan()?;
        let claimable = live.claimable(&plan.serving)?;
        let pools = self.fitting(id, &claimable);
        let wanted = pools.first()?;
        lock(&self.known)
            .entry(pool_id(wanted)?)
            .or_default()
            .wakes
            .record(Instant::now());
        loop {
            let claiming = wake.child("claim");
            let taken = self.taken(&live, &claimable, &pools).await;
            drop(claiming);
            let Some((pool, pod, _expected)) = taken else {
                break;
            };
            let undecided = Undecided::of(self, &live, &pod);
            let assigned = self.assign(&live, &claimable, &pool, &pod, wake).await;
            undecided.decided();
            match assigned {
                Ok(replica) => {
                    self.metrics.claimed("succeeded");
                    if let Some(known) = lock(&self.known).get_mut(&pool) {
                        known.claims = known.claims.saturating_add(1);
                    }
                    self.begin_adoption(id, &live, pool.name(), &pod, &claimable);
                    return Some(replica);
                }
                Err(error) => {
                    lock(&live.claims).remove(&pod.name_any());
                    tracing::warn!(function = %id, pod = %pod.name_any(), error = %chain(&error), "a pod of a pool could not be taken");
                    if self.lose(&pod, &error) {
                        return None;
                    }
                }
            }
        }
        self.metrics.claimed("none-ready");
        None
    }

    /// What becomes of a pod that could not be taken. Returns whether no other is to be, either.
    fn lose(self: &Arc<Self>, pod: &Arc<Pod>, error: &ControlError) -> bool {
        if error.is_taken() {
            self.metrics.claimed("taken");
            let (this, pod) = (Arc::clone(self), Arc::clone(pod));
            tokio::spawn(async move { this.recover(&pod, LOADED_WITHIN).await });
            return false;
        }
        self.metrics.claimed("failed");
        // Whether it is somebody's now is unknown, or it is of no use: another takes its place.
        let (this, pod) = (Arc::clone(self), Arc::clone(pod));
        tokio::spawn(async move { this.discard(&pod).await });
        // The function may have killed it, and would kill the next: a pod of its own has the memory that it asks for.
        error.is_functions() || error.is_broken()
    }

    async fn assign(
        &self,
        live: &Live,
        claimable: &Claimable,
        pool: &PoolId,
        pod: &Pod,
        wake: &Span,
    ) -> Result<Replica, ControlError> {
        let unreached = |why: &str| ControlError::Unreached(std::io::Error::other(why.to_owned()));
        let address = pods::address(pod).ok_or_else(|| unreached("it has no address"))?;
        let key = control::pool_key(&self.settings.root, pod)
            .ok_or_else(|| unreached("it has no key"))?;
        let replica = Replica {
            address: SocketAddr::new(address, DATA_PORT),
            concurrency: claimable.concurrency,
        };
        let claim = |serves: bool| Claim {
            revision: claimable.revision.clone(),
            replica: serves.then(|| replica.clone()),
        };
        let mut assignment = claimable
            .assignment
            .clone()
            .ok_or_else(|| unreached("there is no Assignment"))?;
        self.trials.tell(&mut assignment, SystemTime::now());
        let body =
            serde_json::to_vec(&assignment).map_err(|error| ControlError::Broken(error.into()))?;
        // It counts as the function's from now on: nobody makes another meanwhile.
        lock(&live.claims).insert(pod.name_any(), claim(false));
        let kept = self.kept(pool);
        let (stock, open) = self.holds.take(&pods::life(pod));
        let assigned = async {
            let (held, engines) = (&stock.has, &stock.engines);
            let parts = parts::of(&*self.artifacts, &assignment, &kept, held, engines);
            let parts = async { Ok(parts.await) };
            let connection = Connection::kept_or_opened(open, address);
            let (mut connection, parts) = futures::future::try_join(connection, parts).await?;
            connection.assign(&key, body.into(), parts).await
        };
        let began = Instant::now();
        let mut assigning = wake.child_at("assign", began);
        assigning.set("k8s.pod.name", pod.name_any());
        let status = tokio::time::timeout(PATIENCE, assigned)
            .await
            .map_err(|elapsed| ControlError::Broken(elapsed.into()))??;
        let now = Instant::now();
        self.metrics.wake_phase("assigned", began.elapsed());
        self.trials.learn(&assignment, &status, SystemTime::now());
        if status.tries_models() {
            let trials = Arc::clone(&self.trials);
            tokio::spawn(async move {
                let ask = || async {
                    let asked = tokio::time::timeout(TOLD_WITHIN, control::status(address, &key));
                    asked.await.ok()?.ok()
                };
                trials.follow(&assignment, ask).await;
            });
        }
        if let Some(startup) = status.startup {
            let seconds =
                |millis: f64| Duration::try_from_secs_f64(millis / 1e3).unwrap_or_default();
            let (fetch, load) = (seconds(startup.fetch_millis), seconds(startup.load_millis));
            self.metrics.wake_phase("fetched", fetch);
            self.metrics.wake_phase("loaded", load);
            // The pod tells how long, not when: it answers as soon as it has loaded.
            if let Some(loading) = now.checked_sub(load) {
                assigning.child_at("load", loading).end_at(now);
                let fetching = loading.checked_sub(fetch).unwrap_or(loading);
                assigning.child_at("fetch", fetching).end_at(loading);
            }
        }
        lock(&live.claims).insert(pod.name_any(), claim(true));
        Ok(replica)
    }

    /// The pools of the function's namespace that have pods for it: those first that have its models and few others, then
    /// those that somebody asked for.
    fn fitting(&self, id: &FunctionId, claimable: &Claimable) -> Vec<Arc<RuntimePool>> {
        let pools = self.cluster.pools().state();
        let known = lock(&self.known);
        let models = |pool: &RuntimePool| {
            let models = known.get(&pool_id(pool)?)?.models.as_ref()?;
            Some(models.state.clone())
        };
        let mut fitting: Vec<_> = pools
            .into_iter()
            .filter(|pool| {
                pool.namespace().as_deref() == Some(id.namespace())
                    && pool.metadata.deletion_timestamp.is_none()
            })
            .filter_map(|pool| {
                let models = models(&pool);
                let kept = models.as_ref().and_then(State::kept);
                let kept = kept.map_or(&[][..], |kept| kept);
                let fits = claimable.fits(&pool, models::bytes(kept));
                fits.is_ok().then(|| (claimable.mismatch(kept), pool))
            })
            .collect();
        drop(known);
        fitting.sort_by_cached_key(|(mismatch, pool)| {
            (*mismatch, defaults::is_default(pool), pool.name_any())
        });
        fitting.into_iter().map(|(_, pool)| pool).collect()
    }

    /// The models that the pool's pods have.
    fn kept(&self, pool: &PoolId) -> Arc<[Kept]> {
        let known = lock(&self.known);
        let models = known.get(pool).and_then(|known| known.models.as_ref());
        let kept = models.and_then(|models| models.state.kept());
        kept.cloned().unwrap_or_default()
    }

    /// A pod that stands by in one of `pools`, or soon will.
    async fn taken<'a>(
        &self,
        live: &'a Live,
        claimable: &Claimable,
        pools: &[Arc<RuntimePool>],
    ) -> Option<(PoolId, Arc<Pod>, Option<Expected<'a>>)> {
        if let Some((pool, pod)) = self.take(pools, claimable) {
            return Some((pool, pod, None));
        }
        let expected = Expected::of(live, &claimable.revision);
        let (pool, pod) = self.wait(pools, claimable).await?;
        Some((pool, pod, Some(expected)))
    }

    /// A pod that stands by in the first of `pools` that has any, one that has the revision's code ready if there is one;
    /// nobody else gets it.
    fn take(
        &self,
        pools: &[Arc<RuntimePool>],
        claimable: &Claimable,
    ) -> Option<(PoolId, Arc<Pod>)> {
        let assignment = claimable.assignment.as_ref();
        let code = assignment.map_or(&[][..], Assignment::compiled);
        let pools: Vec<_> = pools
            .iter()
            .filter_map(|pool| Some((pool_id(pool)?, self.current(pool))))
            .collect();
        let mut taken = lock(&self.taken);
        for (id, mut standing) in pools {
            standing.retain(|pod| {
                let is_free = !taken.contains_key(&pod.uid().unwrap_or_default());
                is_free && self.queue.is_standing(pod) && claimable.has_room_in(pod)
            });
            let is_ready = |pod: &&Arc<Pod>| {
                let life = pods::life(pod);
                code.iter().any(|code| self.holds.has(&life, &code.sha256))
            };
            let pod = standing.iter().find(is_ready).or_else(|| standing.first());
            if let Some(pod) = pod.cloned() {
                taken.insert(pod.uid().unwrap_or_default(), Instant::now());
                return Some((id, pod));
            }
        }
        None
    }

    /// Remembers a pod as taken. Returns whether it wasn't before.
    fn mark(&self, pod: &Pod) -> bool {
        let uid = pod.uid().unwrap_or_default();
        lock(&self.taken).insert(uid, Instant::now()).is_none()
    }

    /// Forgets pods that are no more.
    fn forget(&self, now: Instant) {
        let pods: Vec<Arc<Pod>> = self
            .cluster
            .pools()
            .state()
            .iter()
            .flat_map(|pool| self.standing(pool))
            .collect();
        let lives = pods.iter().map(|pod| pods::life(pod)).collect();
        self.queue.retain(&lives);
        self.holds.retain(&lives);
        let standing: HashSet<String> = pods.iter().filter_map(|pod| pod.uid()).collect();
        lock(&self.taken).retain(|uid, at| {
            standing.contains(uid) || now.saturating_duration_since(*at) < REMEMBERED
        });
    }
}

/// A pod that is being assigned. Where the wake-up is broken off meanwhile, nobody learns what becomes of it: it ends.
struct Undecided {
    claimed: Option<(Arc<Pools>, Arc<Live>, Arc<Pod>)>,
}

impl Undecided {
    fn of(pools: &Arc<Pools>, live: &Arc<Live>, pod: &Arc<Pod>) -> Self {
        Self {
            claimed: Some((Arc::clone(pools), Arc::clone(live), Arc::clone(pod))),
        }
    }

    /// It is known what became of the pod.
    fn decided(mut self) {
        self.claimed = None;
    }
}

impl Drop for Undecided {
    fn drop(&mut self) {
        let Some((pools, live, pod)) = self.claimed.take() else {
            return;
        };
        pools.metrics.claimed("failed");
        lock(&live.claims).remove(&pod.name_any());
        tracing::warn!(pod = %pod.name_any(), "a wake-up ended before the pod that it took served");
        tokio::spawn(async move { pools.discard(&pod).await });
    }
}

/// Has `pools` know of what changed.
fn on_change(pools: Weak<Pools>) -> OnChange {
    Box::new(move |pool| {
        if let Some(pools) = pools.upgrade() {
            pools.inputs_changed(pool);
        }
    })
}

fn pool_id(pool: &RuntimePool) -> Option<PoolId> {
    FunctionId::new(&pool.namespace()?, &pool.name_any()).ok()
}

/// Pods of pools where there are some, else those of Deployments.
pub struct Warm {
    /// The pools.
    pub pools: Arc<Pools>,
    /// The Deployments.
    pub deployments: Deployments,
}

impl Capacity for Warm {
    fn provide<'a>(
        &'a self,
        function: &'a FunctionId,
        wake: &'a Span,
    ) -> BoxFuture<'a, Result<Option<Replica>, ScaleError>> {
        Box::pin(async move {
            match self.pools.claim(function, wake).await {
                Some(replica) => Ok(Some(replica)),
                None => self.deployments.provide(function, wake).await,
            }
        })
    }

    fn insist<'a>(&'a self, function: &'a FunctionId) -> BoxFuture<'a, Result<(), ScaleError>> {
        self.deployments.insist(function)
    }
}

#[cfg(test)]
mod tests;
