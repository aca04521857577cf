//! What the gateway is told of functions and pods, and what it makes of it: events in, changes out.
//!
//! An endpoint comes into being in two ways, whichever is first: its pod turns Ready, or a wake-up names it. It goes
//! when its pod is being deleted, has ended or broke, or stops being Ready; that a pod isn't Ready *yet* takes nothing
//! away from who was told by a wake-up that it serves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use wisp_contract::FunctionId;
use wisp_contract::keys::Root;
use wisp_contract::operator::Replica;
use wisp_gateway::{Endpoint, FunctionRoute};

/// How long an endpoint of a wake-up is kept whose pod no event has named. The watch is behind by much less; a pod that
/// ended before the wake-up was heard of is never named.
const ORPHAN: Duration = Duration::from_secs(15);

/// How long a watch that failed may say nothing of its failing again: it pauses, and the API server has 40 s to answer.
const SILENCE: Duration = Duration::from_secs(60);

/// A function, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) route: FunctionRoute,
    /// The object's: one that is made anew under the same name is another function.
    pub(crate) uid: String,
}

/// A pod, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) name: PodName,
    pub(crate) uid: String,
    pub(crate) function: FunctionId,
    /// Of its data port, once it has one.
    pub(crate) address: Option<SocketAddr>,
    /// Where its annotation says.
    pub(crate) concurrency: Option<u32>,
    /// In seconds since 1970.
    pub(crate) created: i64,
    /// The uid of the function that it belongs to, where it says so itself: one of a Deployment names its ReplicaSet.
    pub(crate) owner: Option<String>,
    pub(crate) phase: Phase,
}

/// Namespace and name.
pub(crate) type PodName = (String, String);

/// Where a pod is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    NotReady,
    Ready,
    /// Being deleted, ended, or its container broke.
    Leaving,
}

/// What a watch says.
#[derive(Debug, Clone)]
pub(crate) enum Event<T, N> {
    /// A list begins: everything there is follows.
    Init,
    /// One of the list.
    InitApply(T),
    /// The list is complete: what it didn't name is gone.
    InitDone,
    /// It is new, or changed.
    Apply(T),
    /// It is gone.
    Delete(N),
    /// It is there, and what was known of it stays.
    Keep(N),
    /// Nothing that matters.
    Nothing,
}

/// What is to be done with the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Route(FunctionRoute),
    Unroute(FunctionId),
    Insert(FunctionId, Endpoint),
    Remove(FunctionId, SocketAddr),
}

/// Functions, pods and the endpoints that they make.
#[derive(Debug)]
pub(crate) struct Directory {
    keys: Root,
    functions: Set<FunctionId, Known>,
    pods: Set<PodName, Pod>,
    /// What the gateway has, by function and address.
    endpoints: BTreeMap<(FunctionId, SocketAddr), Inserted>,
    /// From when on the watch of pods is whole again, once it failed: what no event has named till then may be there.
    whole_from: Option<Instant>,
}

/// Objects, and which of them a list under way has named.
#[derive(Debug)]
struct Set<N, T> {
    all: BTreeMap<N, T>,
    listed: Option<BTreeSet<N>>,
    is_synced: bool,
}

/// An endpoint that the gateway has.
#[derive(Debug)]
struct Inserted {
    concurrency: u32,
    /// When a wake-up named it whose pod is still unknown.
    orphan_since: Option<Instant>,
}

impl<N: Ord + Clone, T> Set<N, T> {
    fn new() -> Self {
        Self {
            all: BTreeMap::new(),
            listed: None,
            is_synced: false,
        }
    }

    fn list(&mut self) {
        self.listed = Some(BTreeSet::new());
    }

    fn name(&mut self, name: &N) {
        if let Some(listed) = &mut self.listed {
            listed.insert(name.clone());
        }
    }

    /// The list is complete. Returns what it didn't name.
    fn unlisted(&mut self) -> Vec<N> {
        self.is_synced = true;
        let Some(listed) = self.listed.take() else {
            return Vec::new();
        };
        let gone = self.all.keys().filter(|name| !listed.contains(name));
        gone.cloned().collect()
    }
}

impl Directory {
    /// Nothing yet. `keys` makes the keys of the data ports.
    pub(crate) fn new(keys: Root) -> Self {
        Self {
            keys,
            functions: Set::new(),
            pods: Set::new(),
            endpoints: BTreeMap::new(),
            whole_from: None,
        }
    }

    /// Whether both watches have told everything there is, at least once.
    pub(crate) fn is_synced(&self) -> bool {
        self.functions.is_synced && self.pods.is_synced
    }

    /// The functions watch said something.
    pub(crate) fn function(&mut self, event: Event<Known, FunctionId>) -> Vec<Change> {
        let mut changes = Vec::new();
        match event {
            Event::Init => self.functions.list(),
            Event::InitApply(known) | Event::Apply(known) => {
                self.functions.name(&known.route.id);
                self.know(known, &mut changes);
            }
            Event::InitDone => {
                for id in self.functions.unlisted() {
                    self.forget(&id, &mut changes);
                }
            }
            Event::Delete(id) => self.forget(&id, &mut changes),
            Event::Keep(id) => self.functions.name(&id),
            Event::Nothing => {}
        }
        changes
    }

    /// The pods watch failed.
    pub(crate) fn pods_failed(&mut self, now: Instant) {
        self.whole_from = Some(now + SILENCE);
    }

    /// The pods watch is about to say something: it works again. A list is said to begin before the API server answers.
    pub(crate) fn pods_answered(&mut self, event: &Event<Pod, PodName>, now: Instant) {
        if !matches!(event, Event::Init) {
            self.whole_from = self.whole_from.map(|from| from.min(now));
        }
    }

    /// The pods watch said something.
    pub(crate) fn pod(&mut self, event: Event<Pod, PodName>) -> Vec<Change> {
        let mut changes = Vec::new();
        match event {
            Event::Init => self.pods.list(),
            Event::InitApply(pod) | Event::Apply(pod) => {
                self.pods.name(&pod.name);
                self.see(pod, &mut changes);
            }
            Event::InitDone => {
                for name in self.pods.unlisted() {
                    self.lose(&name, &mut changes);
                }
            }
            Event::Delete(name) => self.lose(&name, &mut changes),
            Event::Keep(name) => self.pods.name(&name),
            Event::Nothing => {}
        }
        changes
    }

    /// A wake-up of `id` ended with these replicas.
    pub(crate) fn woken(
        &mut self,
        id: &FunctionId,
        replicas: &[Replica],
        now: Instant,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        for replica in replicas {
            let phases: Vec<Phase> = self
                .pods_at(id, replica.address)
                .map(|pod| pod.phase)
                .collect();
            let is_orphan = phases.is_empty();
            // The operator may have seen less than this gateway: what is leaving takes nothing any more.
            if !is_orphan && phases.iter().all(|phase| *phase == Phase::Leaving) {
                continue;
            }
            let orphan_since = is_orphan.then_some(now);
            self.insert(
                id,
                replica.address,
                replica.concurrency,
                orphan_since,
                &mut changes,
            );
        }
        changes
    }

    /// Takes away what wake-ups named and no pod stands behind, as far as the watch of pods can tell.
    pub(crate) fn tick(&mut self, now: Instant) -> Vec<Change> {
        let old = |inserted: &Inserted| {
            let since = inserted.orphan_since.max(self.whole_from);
            inserted.orphan_since.is_some()
                && since.is_some_and(|since| now.saturating_duration_since(since) >= ORPHAN)
        };
        let gone: Vec<_> = self
            .endpoints
            .iter()
            .filter(|(_, inserted)| old(inserted))
            .map(|(name, _)| name.clone())
            .collect();
        let mut changes = Vec::new();
        for (id, address) in gone {
            self.remove(&id, address, &mut changes);
        }
        changes
    }

    fn know(&mut self, known: Known, changes: &mut Vec<Change>) {
        let id = known.route.id.clone();
        let before = self.functions.all.get(&id);
        if before.is_some_and(|before| before.uid != known.uid) {
            self.forget(&id, changes);
        } else if before.is_some_and(|before| *before == known) {
            return;
        }
        changes.push(Change::Route(known.route.clone()));
        self.functions.all.insert(id.clone(), known);
        // Pods may have been named before their function.
        let ready: Vec<_> = self
            .pods
            .all
            .values()
            .filter(|pod| pod.function == id && pod.phase == Phase::Ready)
            .cloned()
            .collect();
        for pod in &ready {
            self.ready(pod, changes);
        }
    }

    fn forget(&mut self, id: &FunctionId, changes: &mut Vec<Change>) {
        if self.functions.all.remove(id).is_some() {
            self.endpoints.retain(|(of, _), _| of != id);
            changes.push(Change::Unroute(id.clone()));
        }
    }

    fn see(&mut self, pod: Pod, changes: &mut Vec<Change>) {
        // Another pod of the same name: the one before is gone.
        let before = self.pods.all.get(&pod.name);
        if before.is_some_and(|before| {
            before.uid != pod.uid || before.function != pod.function || is_moved(before, &pod)
        }) {
            let name = pod.name.clone();
            self.lose(&name, changes);
        }
        let was_ready = self
            .pods
            .all
            .get(&pod.name)
            .is_some_and(|before| before.phase == Phase::Ready);
        self.pods.all.insert(pod.name.clone(), pod.clone());
        if let Some(address) = pod.address
            && let Some(inserted) = self.endpoints.get_mut(&(pod.function.clone(), address))
        {
            inserted.orphan_since = None;
        }
        match pod.phase {
            Phase::Ready => self.ready(&pod, changes),
            Phase::NotReady if !was_ready => {}
            Phase::NotReady | Phase::Leaving => self.gone(&pod, changes),
        }
    }

    fn lose(&mut self, name: &PodName, changes: &mut Vec<Change>) {
        if let Some(pod) = self.pods.all.remove(name) {
            self.gone(&pod, changes);
        }
    }

    fn ready(&mut self, pod: &Pod, changes: &mut Vec<Change>) {
        let (Some(address), Some(known)) = (pod.address, self.functions.all.get(&pod.function))
        else {
            return;
        };
        // What was another's of that name has another key. A pod that names its function may be older than it: it stood
        // by in a pool before.
        let is_anothers = match &pod.owner {
            Some(owner) => *owner != known.uid,
            None => pod.created < known.route.created,
        };
        if is_anothers {
            return;
        }
        let concurrency = pod.concurrency.unwrap_or_else(|| {
            u32::try_from(known.route.limits.concurrency.get()).unwrap_or(u32::MAX)
        });
        self.insert(&pod.function, address, concurrency, None, changes);
    }

    /// Takes a pod's endpoint away, unless another pod has the address by now.
    fn gone(&mut self, pod: &Pod, changes: &mut Vec<Change>) {
        let Some(address) = pod.address else { return };
        let is_anothers = self
            .pods_at(&pod.function, address)
            .any(|other| other.name != pod.name && other.phase == Phase::Ready);
        if !is_anothers {
            self.remove(&pod.function, address, changes);
        }
    }

    fn insert(
        &mut self,
        id: &FunctionId,
        address: SocketAddr,
        concurrency: u32,
        orphan_since: Option<Instant>,
        changes: &mut Vec<Change>,
    ) {
        let Some(known) = self.functions.all.get(id) else {
            return;
        };
        let inserted = Inserted {
            concurrency,
            orphan_since,
        };
        let before = self.endpoints.insert((id.clone(), address), inserted);
        // Inserting it anew would forget what it works on.
        if before.is_some_and(|before| before.concurrency == concurrency) {
            return;
        }
        let endpoint = Endpoint {
            address,
            concurrency,
            key: Some(self.keys.of(id, &known.uid)),
        };
        changes.push(Change::Insert(id.clone(), endpoint));
    }

    fn remove(&mut self, id: &FunctionId, address: SocketAddr, changes: &mut Vec<Change>) {
        if self.endpoints.remove(&(id.clone(), address)).is_some() {
            changes.push(Change::Remove(id.clone(), address));
        }
    }

    fn pods_at(&self, id: &FunctionId, address: SocketAddr) -> impl Iterator<Item = &Pod> {
        self.pods
            .all
            .values()
            .filter(move |pod| pod.function == *id && pod.address == Some(address))
    }
}

fn is_moved(before: &Pod, now: &Pod) -> bool {
    before.address.is_some() && before.address != now.address
}

#[cfg(test)]
mod tests;
