//! What the objects are called that the operator makes, and how they are marked as its own.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt as _};
use wisp_contract::operator::pod;
pub use wisp_contract::operator::pod::CONTAINER;

/// Who writes every field but the number of replicas.
pub const MANAGER: &str = "wisp-operator";
/// Who writes the number of replicas.
pub const SCALER: &str = "wisp-operator-scale";

/// The Secret with the installation's one secret, in the operator's namespace.
pub const KEYS_SECRET: &str = "wisp-keys";
/// Its key.
pub const ROOT_KEY: &str = "root";
/// The Secret with what the gateways know of it.
pub const GATEWAY_SECRET: &str = "wisp-gateway";
/// Its key for what the data ports' keys are derived from.
pub const DATA_KEY: &str = "data";
/// Its key for the operator's port.
pub const OPERATOR_KEY: &str = "operator";

/// The Lease that says who leads.
pub const LEASE: &str = "wisp-operator";
/// The label of the operator's pod that leads; its Service selects by it.
pub const LEADER_LABEL: &str = "wisp.dev/leader";

/// In a revision's Secret: the Assignment.
pub const ASSIGNMENT_KEY: &str = "assignment";
/// In a revision's Secret: the control port's key.
pub const CONTROL_KEY: &str = "control-key";
/// The key of what a host that stands by has ready, in a pool's Secret.
pub const PRELOAD_KEY: &str = "preload";

/// The pool of a namespace that nobody asked for.
pub const DEFAULT_POOL: &str = "default";

/// The name of a function's revision, from the digest of all that makes its pods what they are.
#[must_use]
pub fn revision(function: &str, digest: &str) -> String {
    let short: String = digest.chars().take(10).collect();
    format!("{function}-{short}")
}

/// The name of a function's NetworkPolicy: people call theirs as what it is for.
#[must_use]
pub fn policy(function: &str) -> String {
    format!("wisp-{function}")
}

/// The labels of everything that belongs to a function.
#[must_use]
pub fn labels(function: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (
            "app.kubernetes.io/managed-by".to_owned(),
            "wisp-operator".to_owned(),
        ),
        ("app.kubernetes.io/name".to_owned(), function.to_owned()),
        (pod::FUNCTION.to_owned(), function.to_owned()),
    ])
}

/// The labels of everything that belongs to a revision.
#[must_use]
pub fn revision_labels(function: &str, revision: &str) -> BTreeMap<String, String> {
    let mut labels = labels(function);
    labels.insert(pod::REVISION.to_owned(), revision.to_owned());
    labels
}

/// What the pods of a revision are selected by.
#[must_use]
pub fn selector(function: &str, revision: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (pod::FUNCTION.to_owned(), function.to_owned()),
        (pod::REVISION.to_owned(), revision.to_owned()),
    ])
}

/// The name of a pool's Deployment and Secret.
#[must_use]
pub fn pool(pool: &str) -> String {
    format!("wisp-pool-{pool}")
}

/// The NetworkPolicy of a pool's pods: a name that no function's can be, as theirs have no dots.
#[must_use]
pub fn pool_policy(pool: &str) -> String {
    format!("wisp-pool.{pool}")
}

/// The labels of everything that belongs to a pool.
#[must_use]
pub fn pool_labels(pool: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (
            "app.kubernetes.io/managed-by".to_owned(),
            "wisp-operator".to_owned(),
        ),
        ("app.kubernetes.io/name".to_owned(), self::pool(pool)),
        (pod::POOL.to_owned(), pool.to_owned()),
    ])
}

/// The metadata of an object that belongs to `owner`, and goes with it.
#[must_use]
pub fn owned<O: Resource<DynamicType = ()>>(
    owner: &O,
    name: &str,
    labels: BTreeMap<String, String>,
) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: owner.namespace(),
        labels: Some(labels),
        owner_references: Some(vec![self::owner(owner)]),
        ..ObjectMeta::default()
    }
}

/// The reference that says that an object is `owner`'s.
#[must_use]
pub fn owner<O: Resource<DynamicType = ()>>(owner: &O) -> OwnerReference {
    OwnerReference {
        api_version: O::api_version(&()).into_owned(),
        kind: O::kind(&()).into_owned(),
        name: owner.name_any(),
        uid: owner.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Whose an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// The owner's.
    Ours,
    /// One's of the same kind and name that is no more: it goes by itself in a moment.
    Leftover,
    /// Somebody else's: it is left alone.
    Foreign,
}

/// Whose the object with this metadata is, as `owner` sees it.
#[must_use]
pub fn ownership<O: Resource<DynamicType = ()>>(owner: &O, meta: &ObjectMeta) -> Ownership {
    let controller = meta
        .owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true));
    match controller {
        Some(found) if Some(&found.uid) == owner.meta().uid.as_ref() => Ownership::Ours,
        Some(found) if found.kind == O::kind(&()) && found.name == owner.name_any() => {
            Ownership::Leftover
        }
        _ => Ownership::Foreign,
    }
}

/// The cluster-wide name of a Service, with the dot at the end that spares resolvers their search list.
#[must_use]
pub fn service_host(service: &str, namespace: &str, cluster_domain: &str) -> String {
    format!("{service}.{namespace}.svc.{cluster_domain}.")
}

#[cfg(test)]
mod tests {
    use wisp_api::Function;

    use super::*;

    #[test]
    fn the_longest_function_still_has_revisions_that_fit_a_label() {
        let name = revision(&"a".repeat(wisp_api::MAX_NAME), &"0".repeat(64));
        assert_eq!(name.len(), 63);
        assert!(wisp_contract::assignment::is_dns_label(&name));
    }

    #[test]
    fn only_what_the_function_controls_is_its_own() {
        let mut function = Function::new("a", Default::default());
        function.metadata.uid = Some("1".into());
        let mut meta = owned(&function, "x", labels("a"));
        assert_eq!(ownership(&function, &meta), Ownership::Ours);
        function.metadata.uid = Some("2".into());
        assert_eq!(ownership(&function, &meta), Ownership::Leftover);
        meta.owner_references = None;
        assert_eq!(ownership(&function, &meta), Ownership::Foreign);
    }
}
