//! The pool that a namespace with Functions has without anybody asking.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::api::{DeleteParams, ObjectMeta, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt as _};
use wisp_api::{RuntimePool, RuntimePoolSpec};

use crate::names::{DEFAULT_POOL, MANAGER};

/// The label of what the operator made of its own accord.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// What the pools are like that nobody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defaults {
    /// The fewest pods.
    pub min: u32,
    /// The most; 0: there are no such pools.
    pub max: u32,
}

/// Whether the operator made a pool of its own accord.
#[must_use]
pub(super) fn is_default(pool: &RuntimePool) -> bool {
    pool.name_any() == DEFAULT_POOL
        && pool.labels().get(MANAGED_BY).map(String::as_str) == Some(MANAGER)
}

/// What is to be done for namespaces to have the pools that nobody asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Todo {
    /// Namespaces that get one.
    pub(super) make: BTreeSet<String>,
    /// Namespaces whose one goes.
    pub(super) drop: BTreeSet<String>,
}

/// A namespace has one as long as it has Functions and no pool that somebody asked for.
pub(super) fn todo(
    functions: &BTreeSet<String>,
    pools: &[Arc<RuntimePool>],
    defaults: Defaults,
) -> Todo {
    // Whether each namespace has a pool of ours, and one of somebody's.
    let mut has = BTreeMap::<String, (bool, bool)>::new();
    for pool in pools {
        let entry = has.entry(pool.namespace().unwrap_or_default()).or_default();
        if is_default(pool) {
            entry.0 |= pool.metadata.deletion_timestamp.is_none();
        } else {
            entry.1 = true;
        }
    }
    let is_wanted = |namespace: &String| {
        defaults.max > 0
            && functions.contains(namespace)
            && !has.get(namespace).is_some_and(|(_, somebodys)| *somebodys)
    };
    let ours = has.iter().filter(|(_, (ours, _))| *ours);
    Todo {
        make: functions
            .iter()
            .filter(|namespace| {
                is_wanted(namespace) && !has.get(*namespace).is_some_and(|(ours, _)| *ours)
            })
            .cloned()
            .collect(),
        drop: ours
            .map(|(namespace, _)| namespace)
            .filter(|namespace| !is_wanted(namespace))
            .cloned()
            .collect(),
    }
}

/// Makes one.
pub(super) async fn make(
    client: &Client,
    namespace: &str,
    defaults: Defaults,
) -> Result<(), kube::Error> {
    let pool = RuntimePool {
        metadata: ObjectMeta {
            name: Some(DEFAULT_POOL.to_owned()),
            labels: Some(BTreeMap::from([(
                MANAGED_BY.to_owned(),
                MANAGER.to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        spec: RuntimePoolSpec {
            min_replicas: defaults.min.min(defaults.max),
            max_replicas: defaults.max,
            ..RuntimePoolSpec::default()
        },
        status: None,
    };
    let api = Api::<RuntimePool>::namespaced(client.clone(), namespace);
    match api.create(&PostParams::default(), &pool).await {
        // It is there, and not yet seen.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        other => other.map(drop),
    }
}

/// Drops one.
pub(super) async fn drop_it(client: &Client, pool: &RuntimePool) -> Result<(), kube::Error> {
    let api = Api::<RuntimePool>::namespaced(client.clone(), &pool.namespace().unwrap_or_default());
    let parameters = DeleteParams {
        preconditions: Some(Preconditions {
            uid: pool.uid(),
            ..Preconditions::default()
        }),
        ..DeleteParams::background()
    };
    match api.delete(&pool.name_any(), &parameters).await {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: Defaults = Defaults { min: 1, max: 5 };

    fn pool(namespace: &str, name: &str, is_ours: bool) -> Arc<RuntimePool> {
        let mut pool = RuntimePool::new(name, RuntimePoolSpec::default());
        pool.metadata.namespace = Some(namespace.into());
        if is_ours {
            let label = (MANAGED_BY.to_owned(), MANAGER.to_owned());
            pool.metadata.labels = Some(BTreeMap::from([label]));
        }
        Arc::new(pool)
    }

    /// Would fail if a namespace had a pool that nobody needs, none though it has Functions, or two.
    #[test]
    fn who_has_functions_and_asked_for_no_pool_has_one() {
        let set = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<BTreeSet<_>>()
        };
        let pools = [
            pool("has", "default", true),
            pool("empty", "default", true),
            pool("own", "gpu", false),
            pool("both", "default", true),
            pool("both", "mine", false),
            // Somebody made one of that name.
            pool("same", "default", false),
        ];
        let functions = set(&["new", "has", "own", "both", "same"]);
        let expected = Todo {
            make: set(&["new"]),
            drop: set(&["empty", "both"]),
        };
        assert_eq!(todo(&functions, &pools, DEFAULTS), expected);
        let none = Defaults { min: 0, max: 0 };
        let expected = Todo {
            make: set(&[]),
            drop: set(&["empty", "both", "has"]),
        };
        assert_eq!(todo(&functions, &pools, none), expected);
    }
}
