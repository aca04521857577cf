//! What a host says of itself: `GET /status` on its control port.

use serde::{Deserialize, Serialize};

use crate::assignment::FunctionId;
use crate::config::Tried;

/// A host's state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostStatus {
    /// Where it is in its life.
    pub phase: Phase,
    /// The function it was assigned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionId>,
    /// The Function object's uid, where its Assignment has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The revision it was assigned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The component's digest, in lower-case hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component_sha256: Option<String>,
    /// How long it took to become its function, once it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup: Option<Startup>,
    /// Its models.
    #[serde(default)]
    pub models: Vec<ModelStatus>,
    /// Requests that run.
    pub in_flight: u64,
    /// Requests that wait for a place.
    pub queued: u64,
}

impl HostStatus {
    /// Whether it tries a model while it serves: what it says of its models may be something else soon.
    #[must_use]
    pub fn tries_models(&self) -> bool {
        self.models.iter().any(|model| model.trying)
    }
}

/// How long a host took to become its function, from the Assignment on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Startup {
    /// Milliseconds to fetch what it runs.
    pub fetch_millis: f64,
    /// Milliseconds to load that: models, component, and an instance that shows that there can be any.
    pub load_millis: f64,
}

/// Where a host is in its life. It only ever moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Generic: no Assignment yet.
    Waiting,
    /// The component and the models are being loaded.
    Loading,
    /// Serving.
    Ready,
    /// Finishing what it has.
    Draining,
}

/// A loaded model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelStatus {
    /// The name guests open it by.
    pub name: String,
    /// What computes it, such as `onnxruntime 1.31.1`.
    pub backend: String,
    /// What it got: `cpu`, or `gpu` with the device's name.
    pub device: String,
    /// Why it isn't on the GPU, where `auto` was asked for and no GPU was to be had; or not on all GPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_reason: Option<String>,
    /// Whether requests of different instances are computed together.
    pub batched: bool,
    /// What trying it showed, where that was on a CPU: another host of this kind that is told doesn't try again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tried: Option<Tried>,
    /// Whether it is tried while it computes: `batched` and `tried` may be others soon.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub trying: bool,
    /// Inputs, as `name: type[dimensions]`.
    pub inputs: Vec<String>,
    /// Outputs, likewise.
    pub outputs: Vec<String>,
    /// How long it took to load.
    pub load_millis: u64,
}
