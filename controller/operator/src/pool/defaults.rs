//! The pool that a namespace with Functions has without anybody asking.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use wisp_api::{Pod, RuntimePool, RuntimePoolSpec};

use crate::names::{DEFAULT_POOL, MANAGER};

/// The label of what the operator made of its own accord.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// What the pools are like that nobody asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Defaults {
    /// The fewest pods.
    pub min: u32,
    /// The most; 0: there are no such pools.
    pub max: u32,
    /// What the pods ask for.
    pub pod: Option<Pod>,
}

/// Whether the operator made a pool of its own accord.
#[must_use]
pub(super) fn is_default(pool: &RuntimePool) -> bool {
    pool.name_any() == DEFAULT_POOL
        && pool.labels().get(MANAGED_BY).map(String::as_str) == Some(MANAGER)
}

/// What is to be done for a namespace to have the pool that nobody asked for, if it needs one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Todo {
    /// It gets one.
    Make,
    /// The one with this uid is otherwise than the installation says by now: what is merged into its spec.
    Change(Option<String>, Value),
    /// The one with this uid goes.
    Drop(Option<String>),
}

/// A namespace has one as long as it has Functions and no pool that somebody asked for.
pub(super) fn todo(
    functions: &BTreeSet<String>,
    pools: &[Arc<RuntimePool>],
    defaults: &Defaults,
) -> BTreeMap<String, Todo> {
    let is_going = |pool: &RuntimePool| pool.metadata.deletion_timestamp.is_some();
    let mut ours = BTreeMap::<String, &RuntimePool>::new();
    let mut others = BTreeSet::<String>::new();
    for pool in pools {
        let namespace = pool.namespace().unwrap_or_default();
        if !is_default(pool) {
            others.insert(namespace);
        } else if !is_going(pool) {
            ours.insert(namespace, pool);
        }
    }
    let is_wanted = |namespace: &String| {
        defaults.max > 0 && functions.contains(namespace) && !others.contains(namespace)
    };
    let of = |namespace: &String| match (is_wanted(namespace), ours.get(namespace)) {
        (true, None) => Some(Todo::Make),
        (true, Some(pool)) => {
            let (before, now) = (told(&pool.spec), told(&defaults.spec()));
            (before != now && is_as_made(pool))
                .then(|| Todo::Change(pool.uid(), difference(&before, now)))
        }
        // What a person changed is somebody's, whom nobody asked.
        (false, Some(pool)) => is_as_made(pool).then(|| Todo::Drop(pool.uid())),
        (false, None) => None,
    };
    let namespaces = functions.iter().chain(ours.keys());
    namespaces
        .filter_map(|namespace| Some((namespace.clone(), of(namespace)?)))
        .collect()
}

impl Defaults {
    fn spec(&self) -> RuntimePoolSpec {
        RuntimePoolSpec {
            min_replicas: self.min.min(self.max),
            max_replicas: self.max,
            pod: self.pod.clone(),
            ..RuntimePoolSpec::default()
        }
    }
}

/// What the installation says of a pool.
fn told(spec: &RuntimePoolSpec) -> Value {
    json!({"minReplicas": spec.min_replicas, "maxReplicas": spec.max_replicas, "pod": spec.pod})
}

/// What is merged into `from`, by RFC 7396, for it to be `to`.
fn difference(from: &Value, to: Value) -> Value {
    let (Value::Object(from), Value::Object(mut to)) = (from, to.clone()) else {
        return to;
    };
    for (key, before) in from {
        let now = to.remove(key).unwrap_or_default();
        to.insert(key.clone(), difference(before, now));
    }
    Value::Object(to)
}

/// Whether nobody but the operator wrote its spec: what a person changed stays.
fn is_as_made(pool: &RuntimePool) -> bool {
    let writes_spec = |writer: &ManagedFieldsEntry| {
        let fields = writer.fields_v1.as_ref();
        fields.is_none_or(|fields| fields.0.get("f:spec").is_some())
    };
    let mut writers = pool.metadata.managed_fields.iter().flatten();
    writers.all(|writer| {
        writer.subresource.is_some()
            || writer.manager.as_deref() == Some(MANAGER)
            || !writes_spec(writer)
    })
}

/// Does what is to be done.
pub(super) async fn make_so(
    client: &Client,
    namespace: &str,
    todo: Todo,
    defaults: &Defaults,
) -> Result<(), kube::Error> {
    let api = Api::<RuntimePool>::namespaced(client.clone(), namespace);
    let done = match todo {
        Todo::Make => {
            let label = (MANAGED_BY.to_owned(), MANAGER.to_owned());
            let pool = RuntimePool {
                metadata: ObjectMeta {
                    name: Some(DEFAULT_POOL.to_owned()),
                    labels: Some(BTreeMap::from([label])),
                    ..ObjectMeta::default()
                },
                spec: defaults.spec(),
                status: None,
            };
            let parameters = PostParams {
                field_manager: Some(MANAGER.to_owned()),
                ..PostParams::default()
            };
            api.create(&parameters, &pool).await.map(drop)
        }
        Todo::Change(uid, spec) => {
            let change = Patch::Merge(json!({"metadata": {"uid": uid}, "spec": spec}));
            let parameters = PatchParams {
                field_manager: Some(MANAGER.to_owned()),
                ..PatchParams::default()
            };
            api.patch(DEFAULT_POOL, &parameters, &change)
                .await
                .map(drop)
        }
        Todo::Drop(uid) => {
            let parameters = DeleteParams {
                preconditions: Some(Preconditions {
                    uid,
                    ..Preconditions::default()
                }),
                ..DeleteParams::background()
            };
            api.delete(DEFAULT_POOL, &parameters).await.map(drop)
        }
    };
    match done {
        // It is there, and not yet seen; or no more.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::FieldsV1;

    use super::*;

    const DEFAULTS: Defaults = Defaults {
        min: 1,
        max: 5,
        pod: None,
    };

    fn pool(namespace: &str, name: &str, is_ours: bool) -> Arc<RuntimePool> {
        let spec = RuntimePoolSpec {
            min_replicas: DEFAULTS.min,
            max_replicas: DEFAULTS.max,
            ..RuntimePoolSpec::default()
        };
        let mut pool = RuntimePool::new(name, spec);
        pool.metadata.namespace = Some(namespace.into());
        if is_ours {
            let label = (MANAGED_BY.to_owned(), MANAGER.to_owned());
            pool.metadata.labels = Some(BTreeMap::from([label]));
        }
        Arc::new(pool)
    }

    /// Would fail if a namespace had a pool that nobody needs, none though it has Functions, or two; or if one kept the sizes
    /// of an installation that has others by now, or lost those that a person gave it, be it with the pool itself.
    #[test]
    fn who_has_functions_and_asked_for_no_pool_has_one() {
        let set = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<BTreeSet<_>>()
        };
        let mut grown = RuntimePool::clone(&pool("grown", "default", true));
        grown.spec.max_replicas = 3;
        let mut edited = RuntimePool::clone(&grown);
        edited.metadata.namespace = Some("edited".to_owned());
        let by = |manager: &str, subresource: Option<&str>, what: &str| ManagedFieldsEntry {
            manager: Some(manager.to_owned()),
            subresource: subresource.map(str::to_owned),
            fields_v1: Some(FieldsV1(json!({what: {}}))),
            ..ManagedFieldsEntry::default()
        };
        grown.metadata.managed_fields = Some(vec![
            by(MANAGER, None, "f:spec"),
            by("other", Some("status"), "f:status"),
            // That is no word on what the pool should be.
            by("kubectl-annotate", None, "f:metadata"),
        ]);
        edited.metadata.managed_fields = Some(vec![
            by(MANAGER, None, "f:spec"),
            by("kubectl-edit", None, "f:spec"),
        ]);
        let mut going = RuntimePool::clone(&pool("going", "default", true));
        going.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        let pools = [
            pool("has", "default", true),
            Arc::new(grown),
            Arc::new(edited),
            Arc::new(going),
            pool("empty", "default", true),
            pool("own", "gpu", false),
            pool("both", "default", true),
            pool("both", "mine", false),
            // Somebody made one of that name.
            pool("same", "default", false),
        ];
        let functions = set(&[
            "new", "has", "grown", "edited", "going", "own", "both", "same",
        ]);
        let todo_by = |defaults| {
            let todo = todo(&functions, &pools, &defaults);
            let named = todo.iter().map(|(namespace, todo)| match todo {
                Todo::Make => format!("+{namespace}"),
                Todo::Change(..) => format!("~{namespace}"),
                Todo::Drop(_) => format!("-{namespace}"),
            });
            named.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(todo_by(DEFAULTS), "-both -empty +going ~grown +new");
        let none = Defaults {
            min: 0,
            max: 0,
            pod: None,
        };
        assert_eq!(todo_by(none), "-both -empty -grown -has");
    }

    /// Would fail if pools that nobody asked for had none of what all pods of the cluster must have, or kept what they need no
    /// more.
    #[test]
    fn pools_that_nobody_asked_for_have_the_pods_that_the_installation_says() {
        let of = |pod: Value| Defaults {
            pod: serde_json::from_value(pod).unwrap(),
            ..DEFAULTS
        };
        let tolerations = json!([{"key": "dedicated", "operator": "Exists"}]);
        let tainted = of(json!({
            "nodeSelector": {"zone": "edge"}, "tolerations": tolerations,
            "resources": {"limits": {"memory": "256Mi"}, "requests": {"cpu": "10m"}},
        }));
        let mut made = RuntimePool::clone(&pool("n", "default", true));
        made.spec = tainted.spec();
        let (functions, made) = (BTreeSet::from(["n".to_owned()]), [Arc::new(made)]);
        assert!(todo(&functions, &made, &tainted).is_empty());
        let change = |defaults: &Defaults| match todo(&functions, &made, defaults).remove("n") {
            Some(Todo::Change(_, spec)) => spec["pod"].clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(change(&DEFAULTS), Value::Null);
        let next = of(json!({"nodeSelector": {"disk": "fast"}, "tolerations": []}));
        let expected = json!({
            "nodeSelector": {"zone": null, "disk": "fast"}, "tolerations": null, "resources": null,
        });
        assert_eq!(change(&next), expected);
    }
}
