//! The objects that a Function is made of: a pure function of its spec and of what that resolves to.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::{
    ControllerRevision, Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{PodTemplateSpec, Secret, Service, ServiceSpec};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use wisp_api::Function;
use wisp_contract::assignment::{Assignment, FunctionId, TooLarge};
use wisp_contract::keys::Root;

use super::{assignment, network, pod, resources};
use crate::names;
use crate::pins::{self, SPEC_ANNOTATION, pins_in};
use crate::resolve::{self, Bytes, Resolved};

/// Annotation of a ControllerRevision: the digests of all of the store that it consists of, with commas between.
pub const ARTIFACTS_ANNOTATION: &str = "wisp.dev/artifacts";
/// Annotation of the same, of one that serves and has yet to show that it can: the revision that serves again if it can't.
pub const BEFORE_ANNOTATION: &str = "wisp.dev/before";

/// What is the same for all Functions.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The image of the replicas.
    pub runtime_image: String,
    /// The image of those that ask for GPUs.
    pub runtime_cuda_image: String,
    /// When nodes pull them.
    pub runtime_pull_policy: String,
    /// The Secrets they pull them with, which each Function's namespace has by these names.
    pub runtime_pull_secrets: Vec<String>,
    /// Where replicas reach the operator.
    pub operator: String,
    /// Where they reach this very process, as long as it leads.
    pub direct: String,
    /// The gateways' name in the cluster.
    pub gateway: String,
    /// Who may reach the replicas, where NetworkPolicies are made.
    pub network: Option<network::Peers>,
    /// What keys are derived from.
    pub root: Root,
}

/// The objects of a Function.
#[derive(Debug, Clone)]
pub struct Desired {
    /// The revision's name, which is also the name of the first three objects.
    pub revision: String,
    /// What the revision is; its `revision`, a number that orders them, is left to who applies it.
    pub record: ControllerRevision,
    /// What the replicas are told.
    pub assignment: Assignment,
    /// The same in a Secret, for those that start by themselves.
    pub secret: Secret,
    /// The replicas, without their number.
    pub deployment: Deployment,
    /// The function's name in the cluster.
    pub service: Service,
    /// Who may reach the replicas.
    pub policy: Option<NetworkPolicy>,
}

/// Why there are no objects.
#[derive(Debug, thiserror::Error)]
pub enum DesiredError {
    /// It has no id.
    #[error(transparent)]
    Id(#[from] wisp_contract::FunctionIdError),
    /// It has no configuration.
    #[error(transparent)]
    Config(#[from] wisp_api::ConfigError),
    /// It can't be written down.
    #[error("the Assignment can't be written as JSON")]
    Json(#[from] serde_json::Error),
    /// No replica could be started with it.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}

/// The objects of `function`, of which `resolved` is what it names.
///
/// # Errors
/// When its variables are more than a replica can be told, or when there is no configuration for it, which validation and
/// resolving rule out.
pub fn desired(
    function: &Function,
    resolved: &Resolved,
    settings: &Settings,
) -> Result<Desired, DesiredError> {
    let id = function.id()?;
    let uid = function.uid().unwrap_or_default();
    let config = assignment::config(function, resolved)?;
    let nameless = pod::template(function, resolved, "", settings);
    let digest = Sha256::new()
        .chain_update(serde_json::to_vec(&nameless)?)
        .chain_update(serde_json::to_vec(&assignment::identity(
            function, resolved,
        )?)?);
    let revision = names::revision(id.name(), &hex::encode(digest.finalize()));
    let mut assignment = assignment::assignment(
        &id,
        &uid,
        &revision,
        config,
        resolved,
        &settings.root,
        &settings.operator,
    );
    assignment.cpus = resources::cpus(&resources::resources(function, resolved));
    let told = serde_json::to_string(&assignment)?;
    assignment.fits_variable(&told)?;
    let labels = names::revision_labels(id.name(), &revision);
    let control = settings.root.control(&id, &uid);
    let secret = Secret {
        metadata: names::owned(function, &revision, labels),
        data: Some(BTreeMap::from([
            (
                names::ASSIGNMENT_KEY.to_owned(),
                ByteString(told.into_bytes()),
            ),
            (
                names::CONTROL_KEY.to_owned(),
                ByteString(control.0.into_bytes()),
            ),
        ])),
        type_: Some("wisp.dev/assignment".to_owned()),
        ..Secret::default()
    };
    Ok(Desired {
        record: record(function, resolved, &id, &revision, &settings.root)?,
        assignment,
        secret,
        deployment: deployment(function, resolved, &id, &revision, settings),
        service: service(function, &id, settings),
        policy: settings
            .network
            .as_ref()
            .map(|peers| network::policy(function, &id, peers)),
        revision,
    })
}

fn record(
    function: &Function,
    resolved: &Resolved,
    id: &FunctionId,
    revision: &str,
    root: &Root,
) -> Result<ControllerRevision, DesiredError> {
    let mut metadata = names::owned(
        function,
        revision,
        names::revision_labels(id.name(), revision),
    );
    let uid = function.metadata.uid.as_deref().unwrap_or_default();
    let spec = resolve::spec_digest(function);
    let mut notes = pins::notes(root, uid, spec, &resolved.pins())?;
    let artifacts = resolved.digests().join(",");
    notes.insert(ARTIFACTS_ANNOTATION.to_owned(), artifacts);
    metadata.annotations = Some(notes);
    let digest = |bytes: &Bytes| match bytes {
        Bytes::Stored(stored) => json!(format!("sha256:{}", stored.source)),
        Bytes::Volume(volume) => json!(format!("{}/{}", volume.origin(), volume.path())),
    };
    let models = resolved
        .models
        .iter()
        .map(|(name, bytes)| (name.clone(), digest(bytes)));
    let data = json!({
        "component": digest(&resolved.component),
        "models": models.collect::<serde_json::Map<_, _>>(),
    });
    Ok(ControllerRevision {
        metadata,
        data: RawExtension(data),
        revision: None,
    })
}

/// What a revision's record says of its component.
#[must_use]
pub fn component_of(record: &ControllerRevision) -> Option<String> {
    let component = record.data.0.get("component")?;
    component.as_str().map(str::to_owned)
}

/// Whether a revision was made of what `function` is now.
#[must_use]
pub fn is_of_spec(record: &ControllerRevision, function: &Function) -> bool {
    record.annotations().get(SPEC_ANNOTATION) == Some(&resolve::spec_digest(function))
}

/// What of the store a revision consists of, as far as its record says: an operator of an older version noted its sources alone.
#[must_use]
pub fn artifacts_in(record: &ControllerRevision) -> Vec<String> {
    let noted = record.annotations().get(ARTIFACTS_ANNOTATION);
    let noted = noted.map_or("", String::as_str).split(',');
    let pins = pins_in(record);
    let sources = pins.component.iter().chain(pins.models.values());
    let sources = sources.map(|pin| pin.sha256.as_str());
    let all = noted.chain(sources).filter(|digest| !digest.is_empty());
    all.map(str::to_owned).collect()
}

/// The revision that serves again if the one of this record can't, as long as that isn't known.
#[must_use]
pub fn before_in(record: &ControllerRevision) -> Option<&str> {
    record
        .annotations()
        .get(BEFORE_ANNOTATION)
        .map(String::as_str)
}

fn deployment(
    function: &Function,
    resolved: &Resolved,
    id: &FunctionId,
    revision: &str,
    settings: &Settings,
) -> Deployment {
    Deployment {
        metadata: names::owned(
            function,
            revision,
            names::revision_labels(id.name(), revision),
        ),
        spec: replicated(
            names::selector(id.name(), revision),
            pod::template(function, resolved, revision, settings),
        ),
        status: None,
    }
}

/// Pods of `template`, found again by `labels`, whose number is left to who scales. New ones come before old ones go; no
/// ReplicaSet is kept as history, for which there are ControllerRevisions.
#[must_use]
pub fn replicated(labels: BTreeMap<String, String>, template: PodTemplateSpec) -> DeploymentSpec {
    DeploymentSpec {
        replicas: None,
        revision_history_limit: Some(0),
        selector: LabelSelector {
            match_labels: Some(labels),
            match_expressions: None,
        },
        strategy: Some(DeploymentStrategy {
            type_: Some("RollingUpdate".to_owned()),
            rolling_update: Some(RollingUpdateDeployment {
                max_surge: Some(IntOrString::String("100%".to_owned())),
                max_unavailable: Some(IntOrString::Int(0)),
            }),
        }),
        template,
        ..DeploymentSpec::default()
    }
}

fn service(function: &Function, id: &FunctionId, settings: &Settings) -> Service {
    Service {
        metadata: names::owned(function, id.name(), names::labels(id.name())),
        spec: Some(ServiceSpec {
            type_: Some("ExternalName".to_owned()),
            external_name: Some(settings.gateway.clone()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

#[cfg(test)]
mod tests;
