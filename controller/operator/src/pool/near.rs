//! Which functions are near a pool? Those of its namespace: only they can take its pods.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wisp_api::Function;
use wisp_contract::FunctionId;

/// All functions, by their namespaces: looked up once, for however many pools there are.
#[derive(Debug, Default)]
pub(super) struct Neighbourhoods(BTreeMap<String, Near>);

/// The functions of one namespace.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Near {
    /// Which there are, sorted.
    pub(super) functions: Vec<FunctionId>,
    /// Whether any of them has models.
    pub(super) has_models: bool,
}

impl Neighbourhoods {
    /// Of these, which aren't being deleted.
    pub(super) fn of(functions: &[Arc<Function>]) -> Self {
        let mut all = BTreeMap::<String, Near>::new();
        for function in functions {
            let Ok(id) = function.id() else { continue };
            if function.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let near = all.entry(id.namespace().to_owned()).or_default();
            near.has_models |= !function.spec.models.is_empty();
            near.functions.push(id);
        }
        for near in all.values_mut() {
            near.functions.sort();
        }
        Self(all)
    }

    /// The namespaces that have functions.
    pub(super) fn namespaces(&self) -> BTreeSet<String> {
        self.0.keys().cloned().collect()
    }

    /// Those of `namespace`; none, where it has none.
    pub(super) fn near(&self, namespace: &str) -> &Near {
        static NONE: Near = Near {
            functions: Vec::new(),
            has_models: false,
        };
        self.0.get(namespace).unwrap_or(&NONE)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn function(namespace: &str, name: &str, models: Value, is_deleted: bool) -> Arc<Function> {
        let mut metadata = json!({"namespace": namespace, "name": name});
        if is_deleted {
            metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let function = json!({
            "apiVersion": "wisp.dev/v1alpha1", "kind": "Function", "metadata": metadata,
            "spec": {"component": {"image": "r/x:1"}, "models": models},
        });
        Arc::new(serde_json::from_value(function).unwrap())
    }

    /// Would fail if a pool were kept for functions of another namespace, or for those that go.
    #[test]
    fn functions_are_near_pools_of_their_namespace_until_they_go() {
        let model = json!([{"name": "m", "source": {"image": "r/m:1"}}]);
        let all = Neighbourhoods::of(&[
            function("a", "two", json!([]), false),
            function("a", "one", json!([]), false),
            function("a", "going", model.clone(), true),
            function("b", "with", model.clone(), false),
            function("c", "last", model, true),
        ]);
        let near = |namespace: &str| {
            let near = all.near(namespace);
            let names: Vec<_> = near.functions.iter().map(FunctionId::name).collect();
            (names.join(" "), near.has_models)
        };
        assert_eq!(near("a"), ("one two".to_owned(), false));
        assert_eq!(near("b"), ("with".to_owned(), true));
        assert_eq!(near("c"), (String::new(), false));
        assert_eq!(all.namespaces().into_iter().collect::<String>(), "ab");
    }
}
