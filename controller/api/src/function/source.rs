//! Where components and models come from.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;

/// Where the Wasm component comes from: exactly one source.
#[derive(JsonSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "[has(self.image), has(self.url), has(self.configMap), has(self.persistentVolumeClaim), has(self.file)].filter(x, x).size() == 1", "message": "exactly one of image, url, configMap, persistentVolumeClaim must be given"},
    {"rule": "!has(self.file)", "message": "file is for `wisp dev` and `wisp deploy` alone: push the component to a registry and name it by image"},
    {"rule": "!has(self.url) || has(self.sha256)", "message": "url needs sha256, the digest of what is to be found there"}
]))]
pub struct ComponentSource {
    /// An OCI Wasm artifact, such as `registry.example.com/vision/digits:1.4`. A tag is pinned to a digest once per spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Secrets of type kubernetes.io/dockerconfigjson in the Function's namespace, with the credentials to pull `image`, and the images of models.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub pull_secrets: Vec<LocalObjectReference>,
    /// An http or https URL of the component; needs `sha256`. Loopback, link-local, multicast and clouds' metadata addresses are not fetched from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048), pattern("^https?://"))]
    pub url: Option<String>,
    /// The SHA-256 of the component's bytes, 64 lower-case hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71), pattern("^[0-9a-f]{64}$"))]
    pub sha256: Option<String>,
    /// A key of a ConfigMap's binaryData or data, for components below a megabyte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapSource>,
    /// A file on a PersistentVolumeClaim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<PersistentVolumeClaimSource>,
    /// A local file, relative to this manifest, for `wisp dev`, and for `wisp deploy`, which pushes it and names the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub file: Option<String>,
}

/// An object in the Function's namespace.
#[derive(JsonSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalObjectReference {
    /// The object's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A key of a ConfigMap in the Function's namespace.
#[derive(JsonSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigMapSource {
    /// The ConfigMap's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key within it.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// A file on a PersistentVolumeClaim in the Function's namespace.
#[derive(JsonSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PersistentVolumeClaimSource {
    /// The claim's name.
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: String,
    /// The file's path within the volume, relative, without `..`.
    #[schemars(length(min = 1, max = 4096))]
    pub path: String,
}

/// A file in an OCI image that nodes pull and mount, read-only: for models that are too large to be copied to every replica.
#[derive(JsonSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageVolumeSource {
    /// The image, such as `registry.example.com/models/llama@sha256:…`. Nodes pull it with the Secrets in `component.pullSecrets`.
    #[schemars(length(min = 1, max = 512))]
    pub reference: String,
    /// The file's path within the image, relative, without `..`.
    #[schemars(length(min = 1, max = 4096))]
    pub path: String,
}

/// A model, loaded once per replica and shared by all its instances.
#[derive(JsonSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Model {
    /// The name that the component opens the model by: letters, digits, `.`, `_`, `-` and `/`.
    #[schemars(
        length(min = 1, max = 128),
        pattern(r"^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$")
    )]
    pub name: String,
    /// The file's format: `onnx`, or `autodetect` by its first bytes.
    #[serde(default)]
    pub format: ModelFormat,
    /// Where the model comes from.
    pub source: ModelSource,
    /// Where it computes: `cpu`; `gpu`, which never falls back; or `auto`, which takes a GPU where there is one and says in the status what it got.
    #[serde(default)]
    pub device: Device,
    /// How requests of different instances are computed together.
    #[serde(default)]
    pub batching: Batching,
}

/// Where a model comes from: exactly one source.
#[derive(JsonSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "[has(self.image), has(self.url), has(self.configMap), has(self.persistentVolumeClaim), has(self.imageVolume), has(self.file)].filter(x, x).size() == 1", "message": "exactly one of image, url, configMap, persistentVolumeClaim, imageVolume must be given"},
    {"rule": "!has(self.file)", "message": "file is for `wisp dev` and `wisp deploy` alone: put the model where the cluster reaches it, in an image, at a url, or on a persistentVolumeClaim"},
    {"rule": "!has(self.url) || has(self.sha256)", "message": "url needs sha256, the digest of what is to be found there"}
]))]
pub struct ModelSource {
    /// An OCI image or artifact that holds the model, such as `registry.example.com/models/mnist:1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// An http or https URL of the model; needs `sha256`. Loopback, link-local, multicast and clouds' metadata addresses are not fetched from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048), pattern("^https?://"))]
    pub url: Option<String>,
    /// The SHA-256 of the model's bytes, 64 lower-case hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71), pattern("^[0-9a-f]{64}$"))]
    pub sha256: Option<String>,
    /// A key of a ConfigMap's binaryData or data, for models below a megabyte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapSource>,
    /// A file on a PersistentVolumeClaim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<PersistentVolumeClaimSource>,
    /// A file in an image that is mounted as a volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_volume: Option<ImageVolumeSource>,
    /// A local file, relative to this manifest, for `wisp dev`, and for `wisp deploy`, which pushes it and names the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub file: Option<String>,
}

/// A model's file format.
#[derive(JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "a variant's doc comment would become a schema of its own, which structural schemas don't admit; the field tells"
)]
pub enum ModelFormat {
    #[default]
    Autodetect,
    Onnx,
}

/// The device a model is asked to run on.
#[derive(JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "a variant's doc comment would become a schema of its own, which structural schemas don't admit; the field tells"
)]
pub enum Device {
    #[default]
    Auto,
    Cpu,
    Gpu,
}

/// How requests of different, isolated instances are computed together, along dimension 0 where that is dynamic.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "duration(self.maxDelay) <= duration('1s')", "message": "maxDelay must be at most 1s", "messageExpression": "'maxDelay must be at most 1s, not ' + self.maxDelay"}
]))]
pub struct Batching {
    /// The most items in one batch; 1 turns batching off.
    #[schemars(range(min = 1, max = 4096))]
    pub max_size: u32,
    /// The longest a request waits for company: at most 1s.
    pub max_delay: Duration,
}

impl Default for Batching {
    /// What the host's configuration has by default.
    fn default() -> Self {
        let batching = wisp_contract::config::Batching::default();
        Self {
            max_size: batching.max_size.get(),
            max_delay: Duration(batching.max_delay),
        }
    }
}
