//! What is known of the cluster: Functions and RuntimePools, and the pods, Deployments and revisions that belong to them,
//! as watches last told.

pub mod index;
pub mod pods;
mod unreadable;

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use futures::{Stream, StreamExt as _};
use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment};
use k8s_openapi::api::core::v1::Pod;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::reflector::{ObjectRef, Store, store::Writer};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, mpsc, watch};
use wisp_api::{Function, RuntimePool};
use wisp_contract::FunctionId;
use wisp_contract::operator::pod;

pub use index::Index;

use crate::names::{self, Ownership};
use unreadable::readable;

/// How many watches there are.
const WATCHES: u8 = 7;
/// How long one watch request lasts, in seconds; one whose connection died silently is noticed a little later.
const WATCH: u32 = 60;

/// What is known of the cluster.
pub struct Cluster {
    functions: Store<Function>,
    /// The pods of functions.
    pub pods: Index<Pod>,
    /// Their Deployments.
    pub deployments: Index<Deployment>,
    /// Their revisions.
    pub revisions: Index<ControllerRevision>,
    pools: Store<RuntimePool>,
    /// The pods of pools.
    pub warm: Index<Pod>,
    /// Their Deployments.
    pub warm_deployments: Index<Deployment>,
    /// Something happened to a pool.
    pub pools_changed: Notify,
    changes: DashMap<FunctionId, watch::Sender<u64>>,
    dirty: mpsc::UnboundedSender<ObjectRef<Function>>,
    watch_errors: AtomicU64,
    /// Watches whose first list is there.
    listed: watch::Sender<u8>,
}

/// The end of a [`Cluster`] that its watches write to, and what is to be reconciled.
pub struct Feed {
    /// Functions that something happened to.
    pub dirty: mpsc::UnboundedReceiver<ObjectRef<Function>>,
    writer: Writer<Function>,
    pools: Writer<RuntimePool>,
}

/// The Function object with this id.
#[must_use]
pub fn reference(function: &FunctionId) -> ObjectRef<Function> {
    ObjectRef::new(function.name()).within(function.namespace())
}

impl Cluster {
    /// Nothing is known yet.
    #[must_use]
    pub fn new() -> (Arc<Self>, Feed) {
        let (sender, dirty) = mpsc::unbounded_channel();
        let (writer, pools) = (Writer::default(), Writer::default());
        let cluster = Self {
            functions: writer.as_reader(),
            pods: Index::default(),
            deployments: Index::default(),
            revisions: Index::default(),
            pools: pools.as_reader(),
            warm: Index::by(pod::POOL),
            warm_deployments: Index::by(pod::POOL),
            pools_changed: Notify::new(),
            changes: DashMap::new(),
            dirty: sender,
            watch_errors: AtomicU64::new(0),
            listed: watch::channel(0).0,
        };
        let feed = Feed {
            dirty,
            writer,
            pools,
        };
        (Arc::new(cluster), feed)
    }

    /// The Functions.
    #[must_use]
    pub fn functions(&self) -> &Store<Function> {
        &self.functions
    }

    /// The RuntimePools.
    #[must_use]
    pub fn pools(&self) -> &Store<RuntimePool> {
        &self.pools
    }

    /// One Function.
    #[must_use]
    pub fn function(&self, id: &FunctionId) -> Option<Arc<Function>> {
        self.functions.get(&reference(id))
    }

    /// The pods of a function, as long as there is one: those of another that had its name and was deleted are not.
    #[must_use]
    pub fn pods_of(&self, id: &FunctionId) -> Vec<Arc<Pod>> {
        let Some(function) = self.function(id) else {
            return Vec::new();
        };
        let mut pods = self.pods.of(id);
        pods.retain(|pod| pods::is_of(pod, &function));
        pods
    }

    /// The Deployments of a function, as long as there is one: what somebody else made is none, whatever its labels say.
    #[must_use]
    pub fn deployments_of(&self, id: &FunctionId) -> Vec<Arc<Deployment>> {
        let Some(function) = self.function(id) else {
            return Vec::new();
        };
        let mut deployments = self.deployments.of(id);
        deployments
            .retain(|found| names::ownership(&*function, &found.metadata) == Ownership::Ours);
        deployments
    }

    /// Has a function reconciled.
    pub fn reconcile(&self, function: &FunctionId) {
        // Without a receiver the process ends.
        let _ = self.dirty.send(reference(function));
    }

    /// Counts what happens to a function's objects, for who waits for something.
    #[must_use]
    pub fn changes(&self, function: &FunctionId) -> watch::Receiver<u64> {
        self.changes
            .entry(function.clone())
            .or_insert_with(|| watch::channel(0).0)
            .subscribe()
    }

    /// Tells who waits that something happened to a function.
    pub fn notify(&self, function: &FunctionId) {
        if let Some(changes) = self.changes.get(function) {
            changes.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// Forgets a function that is no more.
    pub fn forget(&self, function: &FunctionId) {
        self.changes.remove(function);
    }

    /// Waits until all there is has been seen once.
    pub async fn listed(&self) {
        // The sender is this cluster's own.
        let _ = self
            .listed
            .subscribe()
            .wait_for(|listed| *listed >= WATCHES)
            .await;
    }

    fn list_is_there(&self, was_before: &mut bool) {
        if !std::mem::replace(was_before, true) {
            self.listed
                .send_modify(|listed| *listed = listed.saturating_add(1));
        }
    }

    /// How often a watch broke.
    #[must_use]
    pub fn watch_errors(&self) -> u64 {
        self.watch_errors.load(Ordering::Relaxed)
    }

    fn happened(&self, functions: Vec<FunctionId>) {
        for function in functions {
            self.notify(&function);
            self.reconcile(&function);
        }
    }

    fn pools_happened(&self, _: Vec<FunctionId>) {
        self.pools_changed.notify_one();
    }

    fn broke(&self, what: &str, error: &watcher::Error) {
        self.watch_errors.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(what, %error, "a watch broke; it begins anew");
    }
}

/// What happened to Functions.
#[derive(Debug, Clone, Copy)]
pub enum Change<'a> {
    /// This one is there, as it is now.
    There(&'a Function),
    /// This one is no more.
    Gone(&'a Function),
    /// All that are in the store are there, and no others.
    Listed,
}

/// How everything is watched.
#[must_use]
pub fn watching() -> watcher::Config {
    watcher::Config::default().timeout(WATCH)
}

/// Watches until dropped. What happens to Functions is told to `on_change`, after the store has it.
pub async fn watch_all(
    client: Client,
    cluster: Arc<Cluster>,
    writers: Writers,
    on_change: impl Fn(Change<'_>) + Send,
) {
    let ours = || watching().labels(pod::FUNCTION);
    let warm = || watching().labels(pod::POOL);
    futures::join!(
        functions(client.clone(), &cluster, writers.functions, on_change),
        feed(
            watcher(Api::<Pod>::all(client.clone()), ours()),
            &cluster,
            "pods",
            |cluster| &cluster.pods,
            Cluster::happened,
        ),
        feed(
            watcher(Api::<Deployment>::all(client.clone()), ours()),
            &cluster,
            "deployments",
            |cluster| &cluster.deployments,
            Cluster::happened,
        ),
        feed(
            watcher(Api::<ControllerRevision>::all(client.clone()), ours()),
            &cluster,
            "controllerrevisions",
            |cluster| &cluster.revisions,
            Cluster::happened,
        ),
        pools(client.clone(), &cluster, writers.pools),
        feed(
            watcher(Api::<Pod>::all(client.clone()), warm()),
            &cluster,
            "pods of pools",
            |cluster| &cluster.warm,
            Cluster::pools_happened,
        ),
        feed(
            watcher(Api::<Deployment>::all(client), warm()),
            &cluster,
            "deployments of pools",
            |cluster| &cluster.warm_deployments,
            Cluster::pools_happened,
        ),
    );
}

/// What the watches of Functions and of RuntimePools write to.
pub struct Writers {
    functions: Writer<Function>,
    pools: Writer<RuntimePool>,
}

impl Feed {
    /// What the watch of Functions writes to, for tests.
    #[cfg(test)]
    pub(crate) fn store(&mut self) -> &mut Writer<Function> {
        &mut self.writer
    }

    /// What the watch of RuntimePools writes to, for tests.
    #[cfg(test)]
    pub(crate) fn pools(&mut self) -> &mut Writer<RuntimePool> {
        &mut self.pools
    }

    /// Both ends.
    #[must_use]
    pub fn split(self) -> (mpsc::UnboundedReceiver<ObjectRef<Function>>, Writers) {
        let writers = Writers {
            functions: self.writer,
            pools: self.pools,
        };
        (self.dirty, writers)
    }
}

/// One Function that can't be read hides no other.
async fn functions(
    client: Client,
    cluster: &Cluster,
    mut writer: Writer<Function>,
    on_change: impl Fn(Change<'_>) + Send,
) {
    let events = watcher(Api::<DeserializeGuard<Function>>::all(client), watching());
    let mut events = Box::pin(events.default_backoff());
    let mut is_listed = false;
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                cluster.broke("functions", &error);
                continue;
            }
        };
        let Some(event) = readable(event, &cluster.functions) else {
            continue;
        };
        let is_delete = matches!(event, Event::Delete(_));
        writer.apply_watcher_event(&event);
        match &event {
            Event::InitDone => {
                cluster.list_is_there(&mut is_listed);
                on_change(Change::Listed);
                for function in cluster.functions.state() {
                    on_change(Change::There(&function));
                    cluster.happened(function.id().ok().into_iter().collect());
                }
            }
            Event::Apply(function) | Event::Delete(function) => {
                on_change(if is_delete {
                    Change::Gone(function)
                } else {
                    Change::There(function)
                });
                let id = function.id().ok();
                if let (true, Some(id)) = (is_delete, &id) {
                    cluster.notify(id);
                    cluster.forget(id);
                }
                cluster.happened(id.into_iter().collect());
            }
            Event::Init | Event::InitApply(_) => {}
        }
    }
}

/// One RuntimePool that can't be read hides no other.
async fn pools(client: Client, cluster: &Cluster, mut writer: Writer<RuntimePool>) {
    let events = watcher(
        Api::<DeserializeGuard<RuntimePool>>::all(client),
        watching(),
    );
    let mut events = Box::pin(events.default_backoff());
    let mut is_listed = false;
    while let Some(event) = events.next().await {
        match event.map(|event| readable(event, &cluster.pools)) {
            Ok(Some(event)) => {
                writer.apply_watcher_event(&event);
                if matches!(event, Event::InitDone) {
                    cluster.list_is_there(&mut is_listed);
                }
                cluster.pools_changed.notify_one();
            }
            Ok(None) => {}
            Err(error) => cluster.broke("runtimepools", &error),
        }
    }
}

async fn feed<K>(
    events: impl Stream<Item = Result<Event<K>, watcher::Error>> + Send,
    cluster: &Cluster,
    what: &str,
    index: impl Fn(&Cluster) -> &Index<K>,
    happened: impl Fn(&Cluster, Vec<FunctionId>),
) where
    K: ResourceExt + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut events = Box::pin(events.default_backoff());
    let mut is_listed = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                let event = event.modify(|object| object.managed_fields_mut().clear());
                let is_end = matches!(event, Event::InitDone);
                happened(cluster, index(cluster).apply(event));
                if is_end {
                    cluster.list_is_there(&mut is_listed);
                }
            }
            Err(error) => cluster.broke(what, &error),
        }
    }
}

#[cfg(test)]
mod tests;
