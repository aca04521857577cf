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

type Objects<K> = BTreeMap<FunctionId, BTreeMap<String, Arc<K>>>;

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
                live: BTreeMap::new(),
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
                state.listed = Some(BTreeMap::new());
                Vec::new()
            }
            Event::InitApply(object) => {
                if let Some(listed) = &mut state.listed {
                    insert(listed, object, self.label);
                }
                Vec::new()
            }
            Event::InitDone => {
                let listed = state.listed.take().unwrap_or_default();
                let before = std::mem::replace(&mut state.live, listed);
                let mut functions: Vec<_> = before
                    .into_keys()
                    .chain(state.live.keys().cloned())
                    .collect();
                functions.sort();
                functions.dedup();
                functions
            }
            Event::Apply(object) => insert(&mut state.live, object, self.label)
                .into_iter()
                .collect(),
            Event::Delete(object) => {
                let Some(function) = owner_of(&object, self.label) else {
                    return Vec::new();
                };
                if let Some(objects) = state.live.get_mut(&function) {
                    objects.remove(&object.name_any());
                    if objects.is_empty() {
                        state.live.remove(&function);
                    }
                }
                vec![function]
            }
        }
    }

    /// The objects of a function.
    #[must_use]
    pub fn of(&self, function: &FunctionId) -> Vec<Arc<K>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let objects = state.live.get(function);
        objects
            .map(|objects| objects.values().cloned().collect())
            .unwrap_or_default()
    }

    /// Whether there is one that `is` so, whosever it is.
    #[must_use]
    pub fn any(&self, is: impl Fn(&K) -> bool) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = state.live.values().flat_map(BTreeMap::values);
        all.any(|object| is(object))
    }

    /// One object of a function.
    #[must_use]
    pub fn get(&self, function: &FunctionId, name: &str) -> Option<Arc<K>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.live.get(function)?.get(name).cloned()
    }
}

fn insert<K: ResourceExt>(objects: &mut Objects<K>, object: K, label: &str) -> Option<FunctionId> {
    let function = owner_of(&object, label)?;
    objects
        .entry(function.clone())
        .or_default()
        .insert(object.name_any(), Arc::new(object));
    Some(function)
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
}
