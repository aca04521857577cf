//! The Secrets and ConfigMaps that Functions name: each is watched by its name, and nothing else is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::task::AbortHandle;
use wisp_api::Function;
use wisp_contract::FunctionId;

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

/// All objects that a Function names.
#[must_use]
pub fn of(function: &Function) -> BTreeSet<Reference> {
    let namespace = function.metadata.namespace.clone().unwrap_or_default();
    let reference = |kind, name: &str| Reference {
        kind,
        namespace: namespace.clone(),
        name: name.to_owned(),
    };
    let spec = &function.spec;
    let mut all = BTreeSet::new();
    for source in spec
        .env
        .iter()
        .filter_map(|variable| variable.value_from.as_ref())
    {
        if let Some(key) = &source.secret_key_ref {
            all.insert(reference(Kind::Secret, &key.name));
        }
        if let Some(key) = &source.config_map_key_ref {
            all.insert(reference(Kind::ConfigMap, &key.name));
        }
    }
    if let Some(component) = &spec.component {
        for secret in &component.pull_secrets {
            all.insert(reference(Kind::Secret, &secret.name));
        }
    }
    let maps = spec
        .component
        .iter()
        .filter_map(|component| component.config_map.as_ref());
    let maps = maps.chain(
        spec.models
            .iter()
            .filter_map(|model| model.source.config_map.as_ref()),
    );
    all.extend(maps.map(|map| reference(Kind::ConfigMap, &map.name)));
    all
}

/// Is told that an object changed which a function names.
pub type OnChange = Box<dyn Fn(&FunctionId) + Send + Sync>;

/// The watches on what Functions name: one per object, as long as a Function names it.
pub struct References {
    client: Client,
    state: std::sync::Arc<State>,
}

struct State {
    watches: Mutex<BTreeMap<Reference, Watch>>,
    on_change: OnChange,
}

struct Watch {
    functions: BTreeSet<FunctionId>,
    task: AbortHandle,
}

impl References {
    /// Watches nothing yet.
    #[must_use]
    pub fn new(client: Client, on_change: OnChange) -> Self {
        let state = State {
            watches: Mutex::default(),
            on_change,
        };
        Self {
            client,
            state: std::sync::Arc::new(state),
        }
    }

    /// Watches what `function` names from now on, and no more what only it named before.
    pub fn set(&self, function: &FunctionId, references: &BTreeSet<Reference>) {
        let mut watches = self.state.watches();
        for reference in references {
            watches
                .entry(reference.clone())
                .or_insert_with(|| Watch {
                    functions: BTreeSet::new(),
                    task: self.watch(reference),
                })
                .functions
                .insert(function.clone());
        }
        watches.retain(|reference, watch| {
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

    fn watch(&self, reference: &Reference) -> AbortHandle {
        let config =
            watcher::Config::default().fields(&format!("metadata.name={}", reference.name));
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

    fn run<K: Send + 'static>(
        &self,
        reference: &Reference,
        events: impl futures::Stream<Item = Result<Event<K>, watcher::Error>> + Send + 'static,
    ) -> AbortHandle {
        let (state, reference) = (std::sync::Arc::clone(&self.state), reference.clone());
        let task = async move {
            let mut events = Box::pin(events.default_backoff());
            let mut has_begun = false;
            while let Some(event) = events.next().await {
                match event {
                    // What the first list shows is what the Function was resolved with, or is about to be.
                    Ok(Event::InitDone) if !has_begun => has_begun = true,
                    Ok(Event::Init | Event::InitApply(_)) => {}
                    Ok(Event::InitDone | Event::Apply(_) | Event::Delete(_)) => {
                        state.changed(&reference)
                    }
                    Err(error) => {
                        tracing::warn!(?reference, %error, "an object that functions name can't be watched");
                    }
                }
            }
        };
        tokio::spawn(task).abort_handle()
    }
}

impl State {
    fn watches(&self) -> std::sync::MutexGuard<'_, BTreeMap<Reference, Watch>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self, reference: &Reference) {
        let functions: Vec<FunctionId> = self
            .watches()
            .get(reference)
            .map(|watch| watch.functions.iter().cloned().collect())
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
            (Kind::ConfigMap, "level"),
            (Kind::ConfigMap, "model"),
        ];
        assert_eq!(names, expected.map(|(kind, name)| (kind, name.to_owned())));
    }
}
