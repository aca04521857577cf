//! The Function resource: what a person applies, and what wisp says of it.

mod env;
mod limits;
mod pod;
mod scaling;
mod source;
mod status;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use env::{EnvVar, KeySelector, ValueSource};
pub use limits::{InstanceMode, Instances, KeyValue, Limits, Outbound};
pub use pod::Pod;
pub use scaling::{Scaling, Target};
pub use source::{
    Batching, ComponentSource, ConfigMapSource, Device, ImageVolumeSource, LocalObjectReference,
    Model, ModelFormat, ModelSource, PersistentVolumeClaimSource,
};
pub use status::{ComponentStatus, FunctionStatus, HostStatus, RevisionStatus};

/// The longest name of a Function: its revisions' names, a dash and ten characters longer, must fit into labels.
pub const MAX_NAME: usize = 52;

/// The annotation by which a person asks for another attempt at what a Function or RuntimePool names: each new value is one. It
/// alters no pod.
pub const REQUESTED_AT: &str = "wisp.dev/requested-at";

/// What a Function is to be.
#[derive(CustomResource, JsonSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "wisp.dev",
    version = "v1alpha1",
    kind = "Function",
    namespaced,
    doc = "A Function is a Wasm component that answers HTTP requests on replicas that come and go with its load, down to none.",
    status = "FunctionStatus",
    derive = "PartialEq",
    shortname = "fn",
    category = "wisp",
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(name = "Device", type_ = "string", json_path = ".status.device"),
    printcolumn(name = "Revision", type_ = "string", json_path = ".status.revision"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason",
        priority = 1
    ),
    scale(
        spec_replicas_path = ".spec.scaling.minReplicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,50}[a-z0-9])?$')")
        .message("metadata.name must start with a letter, hold only a-z, 0-9 and -, not end with -, and be at most 52 characters long")
)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.component)", "message": "component is required: name one of image, url, configMap, persistentVolumeClaim"},
    {
        "rule": "!has(self.scaling.target) || !has(self.scaling.target.concurrency) || self.scaling.target.concurrency <= self.limits.concurrency",
        "message": "scaling.target.concurrency must be at most limits.concurrency"
    }
]))]
#[serde(rename_all = "camelCase")]
pub struct FunctionSpec {
    /// The Wasm component that answers the requests. `wisp dev` takes what it builds from the folder's Cargo project where this is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<ComponentSource>,

    /// The models that the component may open by name with wasi-nn, loaded once per replica before it is Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub models: Vec<Model>,

    /// How many replicas there are.
    #[serde(default)]
    pub scaling: Scaling,

    /// Bounds on what one request, and all requests together, may use in one replica.
    #[serde(default)]
    pub limits: Limits,

    /// How long an instance of the component lives.
    #[serde(default)]
    pub instances: Instances,

    /// Environment variables, which the component reads through wasi:cli and wasi:config.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub env: Vec<EnvVar>,

    /// Where the component may send HTTP requests: nowhere by default.
    #[serde(default)]
    pub outbound: Outbound,

    /// The key-value stores that the component may open by name with wasi:keyvalue. In a cluster each replica has its own, which begins empty and is gone with its pod, as when the Function sleeps; and a Function with stores takes no pod of a RuntimePool, so that each wake-up takes as long as Kubernetes needs to start a pod. Under `wisp dev` all replicas share them, and they stay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub key_value: Vec<KeyValue>,

    /// Host names that lead to this Function, beside its own URL. Lower case, without a port. Of Functions that claim one who has it keeps it. A name below an own domain of the gateways, or of Services, is of the namespace that it holds, and `<name>.<namespace>` of the Function that is called so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        inner(
            length(min = 1, max = 253),
            pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
        )
    )]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub hosts: Vec<String>,

    /// What the replicas' Kubernetes pods ask for beyond what `limits` implies. It has no meaning for `wisp dev`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
}
