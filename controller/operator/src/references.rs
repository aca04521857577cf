//! The Secrets and ConfigMaps that Functions name, or RuntimePools: each is watched by its name, and nothing else is. What is said
//! of functions here is true of pools, which have watches of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use tokio::task::AbortHandle;
use wisp_api::Function;
use wisp_contract::FunctionId;

use crate::cluster::watching;

/// What kind of object is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A Secret.
    Secret,
    /// A ConfigMap.
    ConfigMap,
}

/// An object that a Function names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Its kind.
    pub kind: Kind,
    /// The Function's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// The key of a Secret with credentials for registries.
pub(crate) const PULL_KEY: &str = ".dockerconfigjson";

/// A key of an object, both as a Function names them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named<'a> {
    pub(crate) kind: Kind,
    pub(crate) name: &'a str,
    pub(crate) key: &'a str,
    /// Whether it is a variable's value, or a certificate; else it is a file, or credentials.
    pub(crate) is_value: bool,
}

/// All that a Function names.
pub(crate) fn named(function: &Function) -> Vec<Named<'_>> {
    let named = |kind, name, key, is_value| Named {
        kind,
        name,
        key,
        is_value,
    };
    let spec = &function.spec;
    let mut all = Vec::new();
    let variables = spec
        .env
        .iter()
        .filter_map(|variable| variable.value_from.as_ref());
    for source in variables.chain(&spec.outbound.certificate_authorities) {
        if let Some(key) = &source.secret_key_ref {
            all.push(named(Kind::Secret, &*key.name, &*key.key, true));
        }
        if let Some(key) = &source.config_map_key_ref {
            all.push(named(Kind::ConfigMap, &*key.name, &*key.key, true));
        }
    }
    let component = spec.component.iter();
    let pulls = component
        .clone()
        .flat_map(|component| &component.pull_secrets);
    all.extend(pulls.map(|secret| named(Kind::Secret, &*secret.name, PULL_KEY, false)));
    let maps = component.filter_map(|component| component.config_map.as_ref());
    let models = spec.models.iter();
    let maps = maps.chain(models.filter_map(|model| model.source.config_map.as_ref()));
    all.extend(maps.map(|map| named(Kind::ConfigMap, &*map.name, &*map.key, false)));
    all
}

/// All objects that a Function names.
#[must_use]
pub fn of(function: &Function) -> BTreeSet<Reference> {
    let namespace = function.metadata.namespace.clone().unwrap_or_default();
    let reference = |named: Named<'_>| Reference {
        kind: named.kind,
        namespace: namespace.clone(),
        name: named.name.to_owned(),
    };
    named(function).into_iter().map(reference).collect()
}

/// The resource versions of objects as they were read; `None` where there was none.
pub type Versions = BTreeMap<Reference, Option<String>>;

/// Is told that an object changed which a function names.
pub type OnChange = Box<dyn Fn(&FunctionId) + Send + Sync>;

/// The watches on what Functions name: one per object, as long as a Function names it.
pub struct References {
    client: Client,
    state: std::sync::Arc<State>,
}

struct State {
    known: Mutex<Known>,
    on_change: OnChange,
}

#[derive(Default)]
struct Known {
    watches: BTreeMap<Reference, Watch>,
    /// What each function was resolved with last.
    used: BTreeMap<FunctionId, Versions>,
}

struct Watch {
    functions: BTreeMap<FunctionId, Told>,
    /// What the first list showed, once it is there.
    first: Option<Option<String>>,
    task: AbortHandle,
}

/// What a function is told of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// All that happens: the watch had begun before the function named it.
    All,
    /// What happens after the first list, which is yet to be compared with what the function was resolved with: between the
    /// two it may have changed unseen.
    FromFirst,
}

impl Watch {
    /// Whether the function was resolved with something else than the first list shows. It is asked once: what happens
    /// thereafter is told by the watch itself, which may be behind.
    fn has_missed(
        &mut self,
        function: &FunctionId,
        reference: &Reference,
        used: &Versions,
    ) -> bool {
        let (Some(first), Some(used)) = (&self.first, used.get(reference)) else {
            return false;
        };
        let told = self.functions.get_mut(function);
        let was_due =
            told.is_some_and(|told| std::mem::replace(told, Told::All) == Told::FromFirst);
        was_due && first != used
    }
}

impl References {
    /// Watches nothing yet.
    #[must_use]
    pub fn new(client: Client, on_change: OnChange) -> Self {
        let state = State {
            known: Mutex::default(),
            on_change,
        };
        Self {
            client,
            state: std::sync::Arc::new(state),
        }
    }

    /// Watches what `function` names from now on, and no more what only it named before.
    pub fn set(&self, function: &FunctionId, references: &BTreeSet<Reference>) {
        let mut known = self.state.known();
        for reference in references {
            let watch = known
                .watches
                .entry(reference.clone())
                .or_insert_with(|| Watch {
                    functions: BTreeMap::new(),
                    first: None,
                    task: self.watch(reference),
                });
            let told = match watch.first {
                Some(_) => Told::All,
                None => Told::FromFirst,
            };
            watch.functions.entry(function.clone()).or_insert(told);
        }
        if let Some(used) = known.used.get_mut(function) {
            used.retain(|reference, _| references.contains(reference));
        }
        if references.is_empty() {
            known.used.remove(function);
        }
        known.watches.retain(|reference, watch| {
            if !references.contains(reference) {
                watch.functions.remove(function);
            }
            let needed = !watch.functions.is_empty();
            if !needed {
                watch.task.abort();
            }
            needed
        });
    }

    /// Takes note of what `function` was resolved with, of what it names still: it may be gone meanwhile. Where that isn't what the
    /// watches began with, it is told as a change.
    pub fn used(&self, function: &FunctionId, versions: &Versions) {
        let mut known = self.state.known();
        let mut has_missed = false;
        for (reference, watch) in &mut known.watches {
            has_missed |= watch.has_missed(function, reference, versions);
        }
        let Known { watches, used } = &mut *known;
        let is_named = |reference: &Reference| {
            let watch = watches.get(reference);
            watch.is_some_and(|watch| watch.functions.contains_key(function))
        };
        let mut versions = versions.clone();
        versions.retain(|reference, _| is_named(reference));
        if versions.is_empty() {
            used.remove(function);
        } else {
            used.insert(function.clone(), versions);
        }
        drop(known);
        if has_missed {
            (self.state.on_change)(function);
        }
    }

    fn watch(&self, reference: &Reference) -> AbortHandle {
        let config = watching().fields(&format!("metadata.name={}", reference.name));
        let (client, namespace) = (self.client.clone(), reference.namespace.as_str());
        match reference.kind {
            Kind::Secret => self.run(
                reference,
                watcher(
                    Api::<PartialObjectMeta<Secret>>::namespaced(client, namespace),
                    config,
                ),
            ),
            Kind::ConfigMap => self.run(
                reference,
                watcher(
                    Api::<PartialObjectMeta<ConfigMap>>::namespaced(client, namespace),
                    config,
                ),
            ),
        }
    }

    fn run<K: Resource + Send + 'static>(
        &self,
        reference: &Reference,
        events: impl futures::Stream<Item = Result<Event<K>, watcher::Error>> + Send + 'static,
    ) -> AbortHandle {
        let (state, reference) = (std::sync::Arc::clone(&self.state), reference.clone());
        let task = async move {
            let mut events = Box::pin(events.default_backoff());
            let mut first = Some(None);
            while let Some(event) = events.next().await {
                match event {
                    Ok(Event::Init) => first = first.map(|_| None),
                    Ok(Event::InitApply(object)) => {
                        let version = object.meta().resource_version.clone();
                        first = first.map(|_| version);
                    }
                    Ok(Event::InitDone) => match first.take() {
                        // Mostly what the Function was resolved with, or is about to be.
                        Some(version) => state.began(&reference, version),
                        None => state.changed(&reference),
                    },
                    Ok(Event::Apply(_) | Event::Delete(_)) => state.changed(&reference),
                    Err(error) => {
                        tracing::warn!(?reference, %error, "an object that functions or pools name can't be watched");
                    }
                }
            }
        };
        tokio::spawn(task).abort_handle()
    }
}

impl State {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first list is there, with the object as of `version`: who was resolved with another is told.
    fn began(&self, reference: &Reference, version: Option<String>) {
        let mut known = self.known();
        let Known { watches, used } = &mut *known;
        let Some(watch) = watches.get_mut(reference) else {
            return;
        };
        watch.first = Some(version);
        let functions: Vec<_> = watch.functions.keys().cloned().collect();
        let missed: Vec<_> = functions
            .into_iter()
            .filter(|function| {
                let used = used.get(function);
                used.is_some_and(|used| watch.has_missed(function, reference, used))
            })
            .collect();
        drop(known);
        for function in &missed {
            (self.on_change)(function);
        }
    }

    fn changed(&self, reference: &Reference) {
        let functions: Vec<FunctionId> = self
            .known()
            .watches
            .get(reference)
            .map(|watch| watch.functions.keys().cloned().collect())
            .unwrap_or_default();
        for function in &functions {
            (self.on_change)(function);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_is_found_that_a_function_names() {
        let function: Function = serde_json::from_value(serde_json::json!({
            "apiVersion": "wisp.dev/v1alpha1", "kind": "Function", "metadata": {"name": "f", "namespace": "n"},
            "spec": {
                "component": {"image": "i", "pullSecrets": [{"name": "pull"}]},
                "models": [{"name": "m", "source": {"configMap": {"name": "model", "key": "k"}}}],
                "env": [
                    {"name": "A", "value": "x"},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "token", "key": "k"}}},
                    {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "level", "key": "k"}}},
                ],
                "outbound": {"certificateAuthorities": [{"configMapKeyRef": {"name": "company", "key": "k"}}]},
            },
        }))
        .unwrap();
        let names: Vec<_> = of(&function)
            .into_iter()
            .map(|reference| (reference.kind, reference.name))
            .collect();
        let expected = [
            (Kind::Secret, "pull"),
            (Kind::Secret, "token"),
            (Kind::ConfigMap, "company"),
            (Kind::ConfigMap, "level"),
            (Kind::ConfigMap, "model"),
        ];
        assert_eq!(names, expected.map(|(kind, name)| (kind, name.to_owned())));
    }

    /// Would fail if a change between the reading of an object and the first list of its watch were lost, or if every
    /// function were resolved twice when an operator starts.
    #[tokio::test]
    async fn what_changed_before_the_watch_began_is_told_once() {
        let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
        let nobody = crate::api_server::client(|_, _| crate::api_server::refusal(500));
        let on_change = move |function: &FunctionId| drop(sender.send(function.to_string()));
        let references = References::new(nobody, Box::new(on_change));
        let secret = Reference {
            kind: Kind::Secret,
            namespace: "n".into(),
            name: "token".into(),
        };
        let (f, g): (FunctionId, FunctionId) = ("n/f".parse().unwrap(), "n/g".parse().unwrap());
        let late: FunctionId = "n/late".parse().unwrap();
        let with = |version: &str| Versions::from([(secret.clone(), Some(version.to_owned()))]);
        let all = BTreeSet::from([secret.clone()]);
        let mut heard = || std::iter::from_fn(|| told.try_recv().ok()).collect::<Vec<_>>();

        for function in [&f, &g] {
            references.set(function, &all);
        }
        // One was resolved before the list, the other is thereafter.
        references.used(&f, &with("1"));
        references.state.began(&secret, Some("2".into()));
        assert_eq!(heard(), ["n/f"]);
        references.used(&g, &with("2"));
        references.used(&f, &with("2"));
        assert_eq!(heard(), [""; 0]);
        // The watch may be behind what is read.
        references.used(&g, &with("3"));
        references.set(&late, &all);
        references.used(&late, &with("3"));
        assert_eq!(heard(), [""; 0]);
        references.state.changed(&secret);
        assert_eq!(heard(), ["n/f", "n/g", "n/late"]);

        for function in [&f, &g, &late] {
            references.set(function, &BTreeSet::new());
        }
        // What it was resolved with is found out after it is gone.
        references.used(&f, &with("3"));
        assert!(references.state.known().used.is_empty());
        references.set(&g, &all);
        references.state.began(&secret, Some("4".into()));
        references.used(&g, &with("3"));
        assert_eq!(heard(), ["n/g"]);
    }
}
