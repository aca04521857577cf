//! What a replica's pod asks for.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, ResourceRequirements, Toleration, TopologySpreadConstraint,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The CEL rule that names are of labels or annotations, as Kubernetes has it.
const QUALIFIED_NAMES: &str = "self.all(name, name.indexOf('/') <= 253 && name.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?$'))";

/// What the replicas' pods ask for, beyond what `limits` implies. The fields are those of a Kubernetes PodSpec, labels and annotations those of its metadata.
#[derive(JsonSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "!has(self.gpu) || !has(self.resources) || !has(self.resources.limits) || !('nvidia.com/gpu' in self.resources.limits) || string(self.resources.limits['nvidia.com/gpu']) == string(self.gpu)",
        "message": "gpu must be what resources.limits says of nvidia.com/gpu, where that says anything"
    }
]))]
#[serde(rename_all = "camelCase", default)]
pub struct Pod {
    /// Labels of the pods, beside those that wisp gives them. None may be of wisp.dev, kubernetes.io, k8s.io or a domain below, except app.kubernetes.io.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend(
        "maxProperties" = 32,
        "additionalProperties" = {"type": "string", "maxLength": 63},
        "x-kubernetes-validations" = [
            {
                "rule": QUALIFIED_NAMES,
                "message": "the name of a label must be at most 63 letters, digits, -, _ and ., first and last a letter or digit; before it there may be a domain in lower case and /"
            },
            {
                "rule": "self.all(name, self[name].matches('^([A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?)?$'))",
                "message": "the value of a label must be at most 63 letters, digits, -, _ and ., first and last a letter or digit"
            },
            {
                "rule": "self.all(name, name.startsWith('app.kubernetes.io/') || !name.matches('^([^/]*[.])?(wisp[.]dev|kubernetes[.]io|k8s[.]io)/'))",
                "message": "labels of wisp.dev, kubernetes.io, k8s.io and of domains below are reserved, but for those of app.kubernetes.io"
            },
            {
                "rule": "!self.exists(name, name in ['app.kubernetes.io/managed-by', 'app.kubernetes.io/name', 'pod-template-hash'])",
                "message": "the labels app.kubernetes.io/managed-by, app.kubernetes.io/name and pod-template-hash are set by wisp and Kubernetes"
            }
        ]
    ))]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the pods, beside those that wisp gives them, of which those of prometheus.io may be given otherwise. None may be of wisp.dev, kubernetes.io, k8s.io or a domain below.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend(
        "maxProperties" = 32,
        "additionalProperties" = {"type": "string", "maxLength": 4096},
        "x-kubernetes-validations" = [
            {
                "rule": QUALIFIED_NAMES,
                "message": "the name of an annotation must be at most 63 letters, digits, -, _ and ., first and last a letter or digit; before it there may be a domain in lower case and /"
            },
            {
                "rule": "!self.exists(name, name.matches('^([^/]*[.])?(wisp[.]dev|kubernetes[.]io|k8s[.]io)/'))",
                "message": "annotations of wisp.dev, kubernetes.io, k8s.io and of domains below are reserved"
            }
        ]
    ))]
    pub annotations: BTreeMap<String, String>,
    /// Requests and limits of the container; derived from the Function's limits where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Whole GPUs per replica, as the resource nvidia.com/gpu. Pods with any of NVIDIA's resources have the image with CUDA.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 16))]
    pub gpu: Option<u32>,
    /// Labels that a node must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes that the pods tolerate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Which nodes, and which pods' company, the pods prefer or demand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// How the pods spread over zones and nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// The RuntimeClass that runs the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub runtime_class_name: Option<String>,
    /// The ServiceAccount of the pods. Its token is never mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// The PriorityClass of the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
}
