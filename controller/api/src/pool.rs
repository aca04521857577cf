//! The RuntimePool resource: hosts that stand by without a function, so that whoever wakes one needs no new pod.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::function::{LocalObjectReference, Model, Pod};

/// What a RuntimePool is to be.
#[derive(CustomResource, JsonSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "wisp.dev",
    version = "v1alpha1",
    kind = "RuntimePool",
    namespaced,
    doc = "A RuntimePool keeps pods that wait for a function of its namespace: one that is woken takes a pod of the pool, which serves within milliseconds, and the pool makes another.",
    status = "RuntimePoolStatus",
    derive = "PartialEq",
    shortname = "rp",
    category = "wisp",
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(name = "Wanted", type_ = "integer", json_path = ".status.desiredReplicas"),
    printcolumn(name = "Min", type_ = "integer", json_path = ".spec.minReplicas"),
    printcolumn(name = "Max", type_ = "integer", json_path = ".spec.maxReplicas"),
    printcolumn(name = "Functions", type_ = "integer", json_path = ".status.functions"),
    printcolumn(name = "Claims", type_ = "integer", json_path = ".status.claims"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,50}[a-z0-9])?$')")
        .message("metadata.name must start with a letter, hold only a-z, 0-9 and -, not end with -, and be at most 52 characters long")
)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.minReplicas <= self.maxReplicas", "message": "minReplicas must be at most maxReplicas"},
    {
        "rule": "!has(self.models) || self.models.all(model, !has(model.source.persistentVolumeClaim) && !has(model.source.imageVolume))",
        "message": "models of a pool come from image, url or configMap: its pods have no volumes"
    }
]))]
#[serde(rename_all = "camelCase", default)]
pub struct RuntimePoolSpec {
    /// The fewest pods that stand by.
    #[schemars(range(min = 0, max = 1000))]
    pub min_replicas: u32,
    /// The most pods that stand by. Between both, there are as many as functions were woken in a few seconds of late.
    #[schemars(range(min = 0, max = 1000))]
    pub max_replicas: u32,
    /// Models that the pods have loaded before a function takes them, such as a Function has them in its own `models`. A function that names the same bytes for the same device takes a pod that has them, and doesn't wait for its models to load.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub models: Vec<Model>,
    /// Secrets of type kubernetes.io/dockerconfigjson in the pool's namespace, to pull the models' images with.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub pull_secrets: Vec<LocalObjectReference>,
    /// What the pods ask for. A function takes pods of a pool whose `pod` is as its own, but for `resources`, which follow the function once it has the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
}

impl Default for RuntimePoolSpec {
    fn default() -> Self {
        Self {
            min_replicas: 1,
            max_replicas: 10,
            models: Vec::new(),
            pull_secrets: Vec::new(),
            pod: None,
        }
    }
}

/// What wisp says of a RuntimePool.
#[derive(JsonSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RuntimePoolStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pods that should stand by, after how often functions were woken of late.
    pub desired_replicas: i32,
    /// Pods that are there, ready or not.
    pub replicas: i32,
    /// Pods that a function could take now.
    pub ready_replicas: i32,
    /// Pods that functions have taken since the operator began to lead.
    pub claims: i32,
    /// Functions of the namespace that can take pods of the pool; why others can't is in the condition Claimable.
    pub functions: i32,
    /// Ready, and Claimable.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
