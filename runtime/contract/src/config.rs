//! A function's configuration as its host reads it: every default filled in, every quantity in base units.

use std::collections::BTreeMap;
use std::fmt;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::serde_millis;

/// What to run and within which limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FunctionConfig {
    /// The Wasm component.
    pub component: Component,
    /// The models that the component may open by name.
    #[serde(default)]
    pub models: Vec<Model>,
    /// Bounds on what one request and all requests together may use.
    #[serde(default)]
    pub limits: Limits,
    /// How long an instance lives.
    #[serde(default)]
    pub instances: Instances,
    /// Environment variables, which `wasi:config` shows too.
    #[serde(default)]
    pub env: Env,
    /// Where the component may send HTTP requests.
    #[serde(default)]
    pub outbound: Outbound,
    /// The key-value stores that the component may open.
    #[serde(default)]
    pub key_value: Vec<KeyValueStore>,
}

/// Where the component's bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Component {
    /// A Wasm component. It is compiled into the host's artifact cache, or mapped from there when it was before.
    pub file: PathBuf,
    /// Checked against the file's bytes where given, in lower-case hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// One model, loaded once per process before the host is Ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Model {
    /// The name guests open it by.
    pub name: String,
    /// The file's format.
    #[serde(default)]
    pub format: ModelFormat,
    /// The model's bytes.
    pub file: PathBuf,
    /// Checked against the file's bytes where given, in lower-case hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Where it computes.
    #[serde(default)]
    pub device: Device,
    /// How requests of different instances are joined.
    #[serde(default)]
    pub batching: Batching,
    /// What other hosts found when they tried the model on a CPU. Where none was of this one's kind, it is tried
    /// while it is loaded, which takes as long as some thirty rows do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trials: Vec<Tried>,
}

/// What a host found when it tried a model on a CPU. It counts on hosts of the same kind: what pays with other
/// instructions, or more cores, is another thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tried {
    /// The instructions that the host's processor has, such as `x86-64-v3`.
    pub processor: String,
    /// How many cores the host had.
    pub cores: NonZeroUsize,
    /// What it found.
    pub trial: Trial,
}

impl Tried {
    /// Whether this was found by a host of the same kind as `other` was.
    #[must_use]
    pub fn is_of_the_kind_of(&self, other: &Tried) -> bool {
        (&self.processor, self.cores) == (&other.processor, other.cores)
    }
}

/// What trying a model on a CPU showed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Trial {
    /// Requests can be joined, and that pays.
    Joined,
    /// They can't, or it doesn't; with the reason.
    Alone(String),
    /// Likewise, and one that is alone is answered sooner by all cores together than by one.
    Spread(String),
}

/// A model's file format.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ModelFormat {
    /// By the file's first bytes.
    #[default]
    Autodetect,
    /// ONNX, <https://onnx.ai/onnx/repo-docs/IR.html>.
    Onnx,
}

/// The device a model is asked to run on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Device {
    /// A GPU where there is one, else the CPU; the status says which.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU, or the function doesn't become Ready.
    Gpu,
}

/// Dynamic batching: requests of different, isolated instances computed together along dimension 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Batching {
    /// The most items in one batch; 1 turns batching off. It only ever happens where dimension 0 of every input and
    /// output is dynamic.
    pub max_size: NonZeroU32,
    /// The longest a request waits for company, in milliseconds on the wire. The batcher waits less wherever it can.
    #[serde(with = "serde_micros")]
    pub max_delay: Duration,
}

impl Default for Batching {
    fn default() -> Self {
        Self {
            max_size: NonZeroU32::MIN.saturating_add(31),
            max_delay: Duration::from_millis(2),
        }
    }
}

/// Bounds on what one request and all requests together may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// From the request's head to the response's last byte, in milliseconds on the wire.
    #[serde(with = "serde_millis")]
    pub timeout: Duration,
    /// Linear memory of one instance, in bytes.
    pub memory: NonZeroU64,
    /// Requests in flight in one replica.
    pub concurrency: NonZeroUsize,
    /// Requests that wait for a place beyond that.
    pub queue: usize,
    /// Declared body bytes of all waiting requests together.
    pub queue_bytes: u64,
    /// Bytes of one request's body.
    pub request_body: u64,
    /// Bytes that one replica's guests may log per second, where a line counts as what it takes as JSON, and 128 bytes more; what exceeds it is
    /// dropped, and counted.
    pub log_rate: NonZeroU64,
    /// Bytes of tensors that one instance may hold.
    pub tensors: NonZeroU64,
    /// Resource handles that one instance may hold.
    pub handles: NonZeroUsize,
    /// Elements of all tables of one instance.
    pub table_elements: NonZeroUsize,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: u64 = 1 << 20;
        Self {
            timeout: Duration::from_secs(10),
            memory: NonZeroU64::MIN.saturating_add(64 * MIB - 1),
            concurrency: NonZeroUsize::MIN.saturating_add(63),
            queue: 256,
            queue_bytes: 64 * MIB,
            request_body: 8 * MIB,
            log_rate: NonZeroU64::MIN.saturating_add(MIB - 1),
            tensors: NonZeroU64::MIN.saturating_add(256 * MIB - 1),
            handles: NonZeroUsize::MIN.saturating_add(1023),
            table_elements: NonZeroUsize::MIN.saturating_add(99_999),
        }
    }
}

/// How long an instance lives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "mode")]
pub enum Instances {
    /// A fresh, isolated instance for every request.
    #[default]
    Fresh,
    /// Instances that serve one request after another: what a request leaves in memory the next one sees.
    #[serde(rename_all = "camelCase")]
    Reuse {
        /// Requests that one instance serves before it is dropped.
        max_requests: NonZeroU32,
        /// Requests that one instance serves at once. Only WASI 0.3 components serve more than one.
        max_concurrent: NonZeroU32,
        /// How long an instance waits for its next request, in milliseconds on the wire.
        #[serde(with = "serde_millis")]
        idle_timeout: Duration,
    },
}

/// Environment variables. Its `Debug` shows names only: values may be secrets.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Env(pub BTreeMap<String, String>);

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Where the component may send HTTP requests. Nowhere by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Outbound {
    /// Origins: `https://api.example.com`, `https://*.example.com`, `http://10.0.0.7:8080`. Loopback, link-local,
    /// private and metadata addresses are refused, whatever name resolves to them, unless an entry names the address
    /// itself, or `localhost`; private ones also where it names a Service of a Kubernetes cluster: `http://digits` within
    /// its namespace, `http://digits.vision.svc`, or the same with `.cluster.local`.
    #[serde(default)]
    pub allow: Vec<String>,
    /// Certificates, PEM, of the authorities that servers may have theirs from, beside Mozilla's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificate_authorities: Vec<String>,
}

/// A key-value store that the component may open. It lasts as long as its file, which several hosts may have open at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyValueStore {
    /// The name guests open it by.
    pub name: String,
    /// The database's file, made when it isn't there.
    pub file: PathBuf,
    /// What all entries count at the most: each its value, its key twice, and 64 bytes.
    pub max_bytes: NonZeroU64,
}

/// Durations below a millisecond on the wire: milliseconds as a JSON number with a fraction.
mod serde_micros {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(
        duration: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(duration.as_secs_f64() * 1e3)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        let millis = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(millis / 1e3).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_survives_the_wire() {
        let config = FunctionConfig {
            component: Component {
                file: "a.wasm".into(),
                sha256: None,
            },
            models: vec![Model {
                name: "mnist".into(),
                format: ModelFormat::Onnx,
                file: "mnist.onnx".into(),
                sha256: None,
                device: Device::Cpu,
                trials: Vec::new(),
                batching: Batching {
                    max_delay: Duration::from_micros(1500),
                    ..Batching::default()
                },
            }],
            limits: Limits {
                timeout: Duration::from_secs(3),
                ..Limits::default()
            },
            instances: Instances::Reuse {
                max_requests: NonZeroU32::MIN,
                max_concurrent: NonZeroU32::MIN,
                idle_timeout: Duration::from_secs(1),
            },
            env: Env(BTreeMap::from([("TOKEN".into(), "hunter2".into())])),
            outbound: Outbound {
                allow: vec!["https://example.com".into()],
                certificate_authorities: vec!["-----BEGIN CERTIFICATE-----".into()],
            },
            key_value: Vec::new(),
        };
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(
            serde_json::from_str::<FunctionConfig>(&json).unwrap(),
            config
        );
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn only_the_component_is_required_and_unknown_keys_are_errors() {
        serde_json::from_str::<FunctionConfig>(r#"{"component": {"file": "a.wasm"}}"#).unwrap();
        let error = serde_json::from_str::<FunctionConfig>(
            r#"{"component": {"file": "a.wasm"}, "modles": []}"#,
        )
        .unwrap_err();
        assert!(error.to_string().contains("modles"), "{error}");
    }
}
