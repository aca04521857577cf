//! Would the cluster take what is going to be applied? It is asked before anything is built or pushed.

use std::fmt::Debug;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::core::Status;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::parameters;
use super::plan::{Beside, Planned};
use crate::args::Deploy;
use crate::cluster::{Cluster, ClusterError, within};

/// Lets the cluster apply all of it without keeping it. That takes the rights that applying takes, and no others; what it
/// refuses now, a missing namespace, missing rights, a quota, it would refuse then. `functions` are as they will be, but for
/// the digests of what is to be pushed.
///
/// # Errors
/// What the cluster says no with.
pub(super) async fn ask(
    beside: &[Beside],
    functions: &[Planned],
    cluster: &Cluster,
    args: &Deploy,
) -> Result<(), ClusterError> {
    let parameters = parameters(args).dry_run();
    for object in beside {
        let (client, namespace) = (cluster.client.clone(), &object.namespace);
        let (name, written) = (&object.name, &object.written);
        let asked = if object.kind == "Secret" {
            let api: Api<Secret> = Api::namespaced(client, namespace);
            try_apply(&api, name, written, &parameters).await
        } else {
            let api: Api<ConfigMap> = Api::namespaced(client, namespace);
            try_apply(&api, name, written, &parameters).await
        };
        let what = || format!("apply the {} {namespace}/{name}", object.kind);
        asked.map_err(|error| cluster.refused(what(), error))?;
    }
    for function in functions {
        let api = cluster.functions(function.id.namespace());
        try_apply(&api, function.id.name(), &function.written, &parameters)
            .await
            .map_err(|error| {
                cluster.refused(format!("apply the function {}", function.id), error)
            })?;
    }
    Ok(())
}

async fn try_apply<K>(
    api: &Api<K>,
    name: &str,
    written: &Value,
    parameters: &PatchParams,
) -> kube::Result<()>
where
    K: Clone + Debug + DeserializeOwned,
{
    match within(api.patch(name, parameters, &Patch::Apply(written))).await {
        Err(kube::Error::Api(status)) if !tells(&status) => Ok(()),
        applied => applied.map(drop),
    }
}

/// Whether what a dry run is refused with is what the real one would be.
fn tells(status: &Status) -> bool {
    match status.code {
        // A webhook on the way that has effects of its own isn't asked.
        400 => !status.message.contains("does not support dry run"),
        // Who has applied the same image shares its field; that it is the same is known once it is pushed.
        409 => {
            let details = status.details.iter();
            let mut causes = details.flat_map(|details| &details.causes);
            causes.any(|cause| {
                let is_of = |field: &str| cause.field.starts_with(field);
                !is_of(".spec.component") && !is_of(".spec.models")
            })
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    /// Would fail if a deployment that the cluster would take were refused, or one that it wouldn't were begun.
    #[test]
    fn a_dry_run_tells_all_but_what_only_the_real_one_can() {
        let tells = |code: u16, message: &str, fields: &[&str]| {
            let causes = fields.iter().map(|field| json!({"field": field}));
            let status = json!({
                "code": code, "message": message,
                "details": {"causes": causes.collect::<Vec<Value>>()},
            });
            super::tells(&serde_json::from_value(status).unwrap())
        };
        assert!(tells(404, "namespaces \"a\" not found", &[]));
        assert!(tells(403, "functions is forbidden", &[]));
        assert!(tells(400, "the body is no object", &[]));
        assert!(!tells(
            400,
            "admission webhook \"w\" does not support dry run",
            &[]
        ));
        let image = ".spec.component.image";
        assert!(!tells(409, "conflict", &[image, ".spec.models"]));
        assert!(tells(409, "conflict", &[image, ".spec.env"]));
    }
}
