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
            try_apply(&api, name, written, None, &parameters).await
        } else {
            let api: Api<ConfigMap> = Api::namespaced(client, namespace);
            try_apply(&api, name, written, None, &parameters).await
        };
        let what = || format!("apply the {} {namespace}/{name}", object.kind);
        asked.map_err(|error| cluster.refused(what(), error))?;
    }
    for function in functions {
        let api = cluster.functions(function.id.namespace());
        let (name, written) = (function.id.name(), &function.written);
        try_apply(&api, name, written, Some(function), &parameters)
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
    function: Option<&Planned>,
    parameters: &PatchParams,
) -> kube::Result<()>
where
    K: Clone + Debug + DeserializeOwned,
{
    match within(api.patch(name, parameters, &Patch::Apply(written))).await {
        Err(kube::Error::Api(status)) if !tells(&status, &stand_ins(function)) => Ok(()),
        applied => applied.map(drop),
    }
}

/// The fields of a function in which another image stands than will be applied.
fn stand_ins(function: Option<&Planned>) -> Vec<String> {
    let Some(function) = function else {
        return Vec::new();
    };
    let component = function.component.iter();
    let component = component.map(|_| ".spec.component.image".to_owned());
    let models = function.models.iter();
    let models = models.map(|model| format!(".spec.models[name={:?}].source.image", model.name));
    component.chain(models).collect()
}

/// Whether what a dry run is refused with is what the real one would be, `stand_ins` being the fields that will be others.
fn tells(status: &Status, stand_ins: &[String]) -> bool {
    let message = &status.message;
    // A policy may be one of images, and this one was never pushed.
    let is_policy = message.contains("denied the request")
        || message.contains("ValidatingAdmissionPolicy") && message.contains("denied request");
    if is_policy && !stand_ins.is_empty() {
        return false;
    }
    match status.code {
        // A webhook on the way that has effects of its own isn't asked.
        400 => !message.contains("does not support dry run"),
        // Who has applied the same image shares its field; that it is the same is known once it is pushed.
        409 => {
            let details = status.details.iter();
            let mut causes = details.flat_map(|details| &details.causes);
            causes.any(|cause| !stand_ins.contains(&cause.field))
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::plan::{LocalModel, Origin};
    use super::*;

    /// Would fail if a deployment that the cluster would take were refused, or one that it wouldn't were begun.
    #[test]
    fn a_dry_run_tells_all_but_what_only_the_real_one_can() {
        let model = r#".spec.models[name="m"].source.image"#;
        let component = ".spec.component.image";
        let tells_of = |pushed: &[&str], code: u16, message: &str, fields: &[&str]| {
            let causes = fields.iter().map(|field| json!({"field": field}));
            let status = json!({
                "code": code, "message": message,
                "details": {"causes": causes.collect::<Vec<Value>>()},
            });
            let pushed: Vec<String> = pushed.iter().map(|&field| field.to_owned()).collect();
            super::tells(&serde_json::from_value(status).unwrap(), &pushed)
        };
        let tells = |code, message: &str| tells_of(&[component], code, message, &[]);
        assert!(tells(404, "namespaces \"a\" not found"));
        assert!(tells(403, "functions is forbidden"));
        assert!(tells(400, "the body is no object"));
        let webhook = "admission webhook \"w\" does not support dry run";
        assert!(!tells(400, webhook));

        let conflict = |pushed: &[&str], fields: &[&str]| tells_of(pushed, 409, "conflict", fields);
        assert!(!conflict(&[component, model], &[component, model]));
        assert!(conflict(&[component, model], &[component, ".spec.env"]));
        assert!(conflict(&[component], &[component, model]));
        assert!(conflict(&[model], &[component]));
        assert!(conflict(&[component], &[".spec.component.sha256"]));

        // They look at images, perhaps, and this one was never pushed.
        for (code, message) in [
            (
                403,
                "admission webhook \"w\" denied the request: no such image",
            ),
            (
                422,
                "functions.wisp.dev \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: unsigned",
            ),
        ] {
            assert!(!tells(code, message), "{message}");
            assert!(tells_of(&[], code, message, &[]), "{message}");
        }
    }

    /// Would fail if a conflict in what is pushed were told by another name than the cluster's.
    #[test]
    fn what_is_pushed_is_known_by_its_path() {
        let planned = |component, models| Planned {
            id: "a/b".parse().unwrap(),
            written: json!({}),
            component,
            models,
        };
        let model = LocalModel {
            index: 0,
            name: "m".to_owned(),
            file: "m.onnx".into(),
            sha256: None,
        };
        let pushed = planned(Some(Origin::File("f.wasm".into())), vec![model]);
        assert_eq!(
            stand_ins(Some(&pushed)),
            [
                ".spec.component.image",
                r#".spec.models[name="m"].source.image"#
            ]
        );
        assert!(stand_ins(Some(&planned(None, Vec::new()))).is_empty());
    }
}
