//! What is known of the cluster: Functions, and the pods, Deployments and revisions that belong to them, as watches
//! last told.

pub mod index;
pub mod pods;

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
use tokio::sync::{mpsc, watch};
use wisp_api::Function;
use wisp_contract::FunctionId;
use wisp_contract::operator::pod;

pub use index::Index;

/// How many watches there are.
const WATCHES: u8 = 4;

/// What is known of the cluster.
pub struct Cluster {
    functions: Store<Function>,
    /// The pods of functions.
    pub pods: Index<Pod>,
    /// Their Deployments.
    pub deployments: Index<Deployment>,
    /// Their revisions.
    pub revisions: Index<ControllerRevision>,
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
        let writer = Writer::default();
        let cluster = Self {
            functions: writer.as_reader(),
            pods: Index::default(),
            deployments: Index::default(),
            revisions: Index::default(),
            changes: DashMap::new(),
            dirty: sender,
            watch_errors: AtomicU64::new(0),
            listed: watch::channel(0).0,
        };
        (Arc::new(cluster), Feed { dirty, writer })
    }

    /// The Functions.
    #[must_use]
    pub fn functions(&self) -> &Store<Function> {
        &self.functions
    }

    /// One Function.
    #[must_use]
    pub fn function(&self, id: &FunctionId) -> Option<Arc<Function>> {
        self.functions.get(&reference(id))
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

/// Watches until dropped. What happens to Functions is told to `on_change`, after the store has it.
pub async fn watch_all(
    client: Client,
    cluster: Arc<Cluster>,
    writer: FunctionWriter,
    on_change: impl Fn(Change<'_>) + Send,
) {
    let ours = || watcher::Config::default().labels(pod::FUNCTION);
    futures::join!(
        functions(client.clone(), &cluster, writer.0, on_change),
        feed(
            watcher(Api::<Pod>::all(client.clone()), ours()),
            &cluster,
            "pods",
            |cluster| &cluster.pods
        ),
        feed(
            watcher(Api::<Deployment>::all(client.clone()), ours()),
            &cluster,
            "deployments",
            |cluster| { &cluster.deployments }
        ),
        feed(
            watcher(Api::<ControllerRevision>::all(client), ours()),
            &cluster,
            "controllerrevisions",
            |cluster| { &cluster.revisions }
        ),
    );
}

/// What the watch of Functions writes to.
pub struct FunctionWriter(Writer<Function>);

impl Feed {
    /// What the watch of Functions writes to, for tests.
    #[cfg(test)]
    pub(crate) fn store(&mut self) -> &mut Writer<Function> {
        &mut self.writer
    }

    /// Both ends.
    #[must_use]
    pub fn split(self) -> (mpsc::UnboundedReceiver<ObjectRef<Function>>, FunctionWriter) {
        (self.dirty, FunctionWriter(self.writer))
    }
}

async fn functions(
    client: Client,
    cluster: &Cluster,
    mut writer: Writer<Function>,
    on_change: impl Fn(Change<'_>) + Send,
) {
    // One Function that can't be read must not hide all others.
    let events = watcher(
        Api::<DeserializeGuard<Function>>::all(client),
        watcher::Config::default(),
    );
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
        let is_delete = matches!(event, Event::Delete(_));
        let event = match event {
            Event::Init => Event::Init,
            Event::InitDone => Event::InitDone,
            Event::Apply(guard) | Event::InitApply(guard) | Event::Delete(guard)
                if guard.0.is_err() =>
            {
                if let Err(error) = guard.0 {
                    let (namespace, name) = (&error.metadata.namespace, &error.metadata.name);
                    tracing::warn!(?namespace, ?name, error = %error.error, "a Function can't be read");
                }
                continue;
            }
            Event::Apply(DeserializeGuard(Ok(function))) => Event::Apply(function),
            Event::InitApply(DeserializeGuard(Ok(function))) => Event::InitApply(function),
            Event::Delete(DeserializeGuard(Ok(function))) => Event::Delete(function),
            _ => continue,
        };
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

async fn feed<K>(
    events: impl Stream<Item = Result<Event<K>, watcher::Error>> + Send,
    cluster: &Cluster,
    what: &str,
    index: impl Fn(&Cluster) -> &Index<K>,
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
                cluster.happened(index(cluster).apply(event));
                if is_end {
                    cluster.list_is_there(&mut is_listed);
                }
            }
            Err(error) => cluster.broke(what, &error),
        }
    }
}
