//! The objects of one kind that belong to functions or pools, by whose they are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use kube::ResourceExt;
use kube::runtime::watcher::Event;
use wisp_contract::FunctionId;
use wisp_contract::operator::pod;

/// The objects of one kind, by their owner and name, as a watch last told them.
#[derive(Debug)]
pub struct Index<K> {
    /// The label that names the owner; its namespace is the object's. An owner is written as a [`FunctionId`], whether it
    /// is a function or a pool.
    label: &'static str,
    state: Mutex<State<K>>,
}

#[derive(Debug)]
struct State<K> {
    live: Objects<K>,
    /// What a list that isn't at its end yet has shown.
    listed: Option<Objects<K>>,
}

#[derive(Debug)]
struct Objects<K> {
    by_owner: BTreeMap<FunctionId, BTreeMap<String, Arc<K>>>,
    /// By the objects' namespaces and names: a label may be changed, and then says nothing of whose the object was.
    owners: BTreeMap<(String, String), FunctionId>,
}

impl<K> Default for Objects<K> {
    fn default() -> Self {
        Self {
            by_owner: BTreeMap::new(),
            owners: BTreeMap::new(),
        }
    }
}

impl<K> Default for Index<K> {
    fn default() -> Self {
        Self::by(pod::FUNCTION)
    }
}

impl<K> Index<K> {
    /// Of the objects whose owner `label` names.
    #[must_use]
    pub fn by(label: &'static str) -> Self {
        Self {
            label,
            state: Mutex::new(State {
                live: Objects::default(),
                listed: None,
            }),
        }
    }
}

/// The owner that `label` of an object names.
fn owner_of(object: &impl ResourceExt, label: &str) -> Option<FunctionId> {
    let name = object.labels().get(label)?;
    FunctionId::new(&object.namespace()?, name).ok()
}

impl<K: ResourceExt> Index<K> {
    /// Takes over an event. Returns the functions that it may mean something for.
    pub fn apply(&self, event: Event<K>) -> Vec<FunctionId> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Init => {
                state.listed = Some(Objects::default());
                Vec::new()
            }
            Event::InitApply(object) => {
                if let Some(listed) = &mut state.listed {
                    listed.insert(object, self.label);
                }
                Vec::new()
            }
            Event::InitDone => {
                let listed = state.listed.take().unwrap_or_default();
                let before = std::mem::replace(&mut state.live, listed);
                let now = state.live.by_owner.keys().cloned();
                let mut functions: Vec<_> = before.by_owner.into_keys().chain(now).collect();
                functions.sort();
                functions.dedup();
                functions
            }
            Event::Apply(object) => state.live.insert(object, self.label),
            Event::Delete(object) => state.live.remove(&object).into_iter().collect(),
        }
    }

    /// The objects of a function.
    #[must_use]
    pub fn of(&self, function: &FunctionId) -> Vec<Arc<K>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let objects = state.live.by_owner.get(function);
        objects
            .map(|objects| objects.values().cloned().collect())
            .unwrap_or_default()
    }

    /// Whether there is one that `is` so, whosever it is.
    #[must_use]
    pub fn any(&self, is: impl Fn(&K) -> bool) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let owners = state.live.by_owner.values();
        let mut all = owners.flat_map(BTreeMap::values);
        all.any(|object| is(object))
    }

    /// One object of a function.
    #[must_use]
    pub fn get(&self, function: &FunctionId, name: &str) -> Option<Arc<K>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.live.by_owner.get(function)?.get(name).cloned()
    }
}

impl<K: ResourceExt> Objects<K> {
    /// Adds an object, or takes it over as it is now. Returns whose it is, and whose it was.
    fn insert(&mut self, object: K, label: &str) -> Vec<FunctionId> {
        let now = owner_of(&object, label);
        let known = self.owners.get(&place(&object));
        let mut all = Vec::new();
        if known != now.as_ref() {
            all.extend(self.remove(&object));
        }
        if let Some(owner) = now {
            self.owners.insert(place(&object), owner.clone());
            self.by_owner
                .entry(owner.clone())
                .or_default()
                .insert(object.name_any(), Arc::new(object));
            all.push(owner);
        }
        all
    }

    /// Removes an object. Returns whose it was.
    fn remove(&mut self, object: &K) -> Option<FunctionId> {
        let owner = self.owners.remove(&place(object))?;
        if let Some(objects) = self.by_owner.get_mut(&owner) {
            objects.remove(&object.name_any());
            if objects.is_empty() {
                self.by_owner.remove(&owner);
            }
        }
        Some(owner)
    }
}

fn place(object: &impl ResourceExt) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;
    use crate::names;

    fn pod(function: &str, name: &str) -> Pod {
        Pod {
            metadata: ObjectMeta {
                namespace: Some("n".into()),
                name: Some(name.into()),
                labels: Some(names::labels(function)),
                ..ObjectMeta::default()
            },
            ..Pod::default()
        }
    }

    /// Would fail if a list that is begun anew hid what is there, or kept what is gone.
    #[test]
    fn a_new_list_replaces_the_old_one_at_its_end() {
        let index = Index::default();
        let a: FunctionId = "n/a".parse().unwrap();
        let b: FunctionId = "n/b".parse().unwrap();
        index.apply(Event::Init);
        index.apply(Event::InitApply(pod("a", "1")));
        assert!(index.of(&a).is_empty());
        assert_eq!(index.apply(Event::InitDone), std::slice::from_ref(&a));
        assert_eq!(index.of(&a).len(), 1);
        index.apply(Event::Init);
        index.apply(Event::InitApply(pod("b", "2")));
        assert_eq!(index.of(&a).len(), 1);
        assert_eq!(index.apply(Event::InitDone), [a.clone(), b.clone()]);
        assert!(index.of(&a).is_empty() && index.get(&b, "2").is_some());
        assert_eq!(
            index.apply(Event::Delete(pod("b", "2"))),
            std::slice::from_ref(&b)
        );
        assert!(index.of(&b).is_empty());
    }

    /// Would fail if a pod that somebody took aside, by another value of its label, stayed its function's for ever.
    #[test]
    fn an_object_of_which_the_label_is_changed_is_no_longer_its_owners() {
        let index = Index::default();
        let [a, aside] = ["n/a", "n/aside"].map(|id| id.parse::<FunctionId>().unwrap());
        assert_eq!(
            index.apply(Event::Apply(pod("a", "1"))),
            std::slice::from_ref(&a)
        );
        assert_eq!(
            index.apply(Event::Apply(pod("aside", "1"))),
            [a.clone(), aside.clone()]
        );
        assert!(index.of(&a).is_empty());
        assert_eq!(index.of(&aside).len(), 1);
        // As it was, or as it is.
        index.apply(Event::Delete(pod("a", "1")));
        assert!(index.of(&aside).is_empty() && !index.any(|_| true));
    }
}
