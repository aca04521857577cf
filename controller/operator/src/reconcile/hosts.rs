//! Whose a host name is that several Functions claim.

use std::sync::Arc;

use wisp_api::Function;
use wisp_contract::FunctionId;

/// The hosts of `function` that an older Function has, and which. Older is who was created earlier; at the same second,
/// who comes first by namespace and name.
#[must_use]
pub fn taken(function: &Function, all: &[Arc<Function>]) -> Vec<(String, FunctionId)> {
    let owner = |host: &String| {
        let claims = all.iter().filter(|other| other.spec.hosts.contains(host));
        let oldest = claims.min_by_key(|other| age(other))?;
        let is_older = age(oldest) < age(function);
        is_older.then(|| oldest.id().ok().map(|id| (host.clone(), id)))?
    };
    function.spec.hosts.iter().filter_map(owner).collect()
}

/// The Functions, other than `function`, that claim one of its hosts.
pub fn rivals<'a>(
    hosts: &'a [String],
    all: &'a [Arc<Function>],
) -> impl Iterator<Item = FunctionId> + 'a {
    let shares = |other: &&Arc<Function>| other.spec.hosts.iter().any(|host| hosts.contains(host));
    all.iter()
        .filter(shares)
        .filter_map(|other| other.id().ok())
}

fn age(function: &Function) -> impl Ord + use<> {
    let meta = &function.metadata;
    (
        meta.creation_timestamp.clone(),
        meta.namespace.clone(),
        meta.name.clone(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(name: &str, created: &str, hosts: &[&str]) -> Arc<Function> {
        Arc::new(
            serde_json::from_value(serde_json::json!({
                "apiVersion": "wisp.dev/v1alpha1", "kind": "Function",
                "metadata": {"name": name, "namespace": "n", "creationTimestamp": created},
                "spec": {"hosts": hosts},
            }))
            .unwrap(),
        )
    }

    #[test]
    fn the_older_keeps_a_host_and_the_name_decides_between_twins() {
        let all = [
            function("young", "2026-01-02T00:00:00Z", &["a.example", "b.example"]),
            function("old", "2026-01-01T00:00:00Z", &["a.example"]),
            function("twin", "2026-01-02T00:00:00Z", &["b.example", "c.example"]),
        ];
        let names = |of: usize| {
            let taken = taken(&all[of], &all).into_iter();
            taken
                .map(|(host, owner)| format!("{host} {owner}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(names(0), ["a.example n/old", "b.example n/twin"]);
        assert!(names(1).is_empty() && names(2).is_empty());
        let hosts = ["c.example".to_owned()];
        assert_eq!(
            rivals(&hosts, &all)
                .map(|id| id.to_string())
                .collect::<Vec<_>>(),
            ["n/twin"]
        );
    }
}
