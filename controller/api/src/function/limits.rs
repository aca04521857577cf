//! What the component may use.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ValueSource;
use crate::duration::Duration;
use crate::quantity::Bytes;

/// Bounds on what one request, and all requests together, may use in one replica.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "duration(self.timeout) >= duration('1ms') && duration(self.timeout) <= duration('1h')", "message": "timeout must be between 1ms and 1h", "messageExpression": "'timeout must be between 1ms and 1h, not ' + self.timeout"},
    {"rule": "quantity(string(self.memory)).compareTo(quantity('64Ki')) >= 0 && quantity(string(self.memory)).compareTo(quantity('4Gi')) <= 0", "message": "memory must be between 64Ki and 4Gi", "messageExpression": "'memory must be between 64Ki and 4Gi, not ' + string(self.memory)"},
    {"rule": "quantity(string(self.queueBytes)).compareTo(quantity('0')) >= 0 && quantity(string(self.queueBytes)).compareTo(quantity('64Gi')) <= 0", "message": "queueBytes must be between 0 and 64Gi", "messageExpression": "'queueBytes must be between 0 and 64Gi, not ' + string(self.queueBytes)"},
    {"rule": "quantity(string(self.requestBody)).compareTo(quantity('0')) >= 0 && quantity(string(self.requestBody)).compareTo(quantity('64Gi')) <= 0", "message": "requestBody must be between 0 and 64Gi", "messageExpression": "'requestBody must be between 0 and 64Gi, not ' + string(self.requestBody)"},
    {"rule": "quantity(string(self.logRate)).compareTo(quantity('1Ki')) >= 0 && quantity(string(self.logRate)).compareTo(quantity('1Gi')) <= 0", "message": "logRate must be between 1Ki and 1Gi", "messageExpression": "'logRate must be between 1Ki and 1Gi, not ' + string(self.logRate)"},
    {"rule": "quantity(string(self.tensors)).compareTo(quantity('1Ki')) >= 0 && quantity(string(self.tensors)).compareTo(quantity('64Gi')) <= 0", "message": "tensors must be between 1Ki and 64Gi", "messageExpression": "'tensors must be between 1Ki and 64Gi, not ' + string(self.tensors)"}
]))]
pub struct Limits {
    /// The longest a request may take, from its head to the response's last byte: 1ms to 1h.
    pub timeout: Duration,
    /// The linear memory of one instance: 64Ki to 4Gi.
    pub memory: Bytes,
    /// The most requests in flight in one replica.
    #[schemars(range(min = 1, max = 10_000))]
    pub concurrency: u32,
    /// The most requests that wait for a place beyond those in flight.
    #[schemars(range(min = 0, max = 100_000))]
    pub queue: u32,
    /// The most body bytes that all waiting requests declare together: at most 64Gi.
    pub queue_bytes: Bytes,
    /// The most bytes of one request's body: at most 64Gi.
    pub request_body: Bytes,
    /// The most bytes that one replica's instances may log per second, 1Ki to 1Gi; what exceeds it is dropped, and counted. A line counts as what it takes as JSON, and 128 bytes more.
    pub log_rate: Bytes,
    /// The most bytes of tensors that one instance may hold: 1Ki to 64Gi.
    pub tensors: Bytes,
    /// The most resource handles that one instance may hold.
    #[schemars(range(min = 16, max = 1_000_000))]
    pub handles: u32,
    /// The most elements that all tables of one instance may have together.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub table_elements: u32,
}

impl Default for Limits {
    /// What the host's configuration has by default.
    fn default() -> Self {
        let limits = wisp_contract::config::Limits::default();
        let count = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        Self {
            timeout: Duration(limits.timeout),
            memory: Bytes(limits.memory.get()),
            concurrency: count(limits.concurrency.get()),
            queue: count(limits.queue),
            queue_bytes: Bytes(limits.queue_bytes),
            request_body: Bytes(limits.request_body),
            log_rate: Bytes(limits.log_rate.get()),
            tensors: Bytes(limits.tensors.get()),
            handles: count(limits.handles.get()),
            table_elements: count(limits.table_elements.get()),
        }
    }
}

/// How long an instance of the component lives.
#[derive(JsonSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.mode == 'reuse' || !(has(self.maxRequests) || has(self.maxConcurrent) || has(self.idleTimeout))", "message": "maxRequests, maxConcurrent and idleTimeout need mode reuse"},
    {"rule": "!has(self.idleTimeout) || (duration(self.idleTimeout) >= duration('1ms') && duration(self.idleTimeout) <= duration('24h'))", "message": "idleTimeout must be between 1ms and 24h", "messageExpression": "'idleTimeout must be between 1ms and 24h, not ' + self.idleTimeout"}
]))]
pub struct Instances {
    /// `fresh`: an isolated instance for every request. `reuse`: instances serve one request after another, and what a request leaves in memory the next one sees.
    pub mode: InstanceMode,
    /// With `reuse`, the requests that one instance serves before it is dropped. Default: 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub max_requests: Option<u32>,
    /// With `reuse`, the requests that one instance serves at once; only WASI 0.3 components without models serve more than one. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_concurrent: Option<u32>,
    /// With `reuse`, how long an instance waits for its next request: 1ms to 24h. Default: 10s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Duration>,
}

/// Whether instances are reused.
#[derive(JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "a variant's doc comment would become a schema of its own, which structural schemas don't admit; the field tells"
)]
pub enum InstanceMode {
    #[default]
    Fresh,
    Reuse,
}

/// Where the component may send HTTP requests.
#[derive(JsonSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Outbound {
    /// Origins such as `https://api.example.com`, `https://*.example.com` or `http://10.0.0.7:8080`. Private, loopback and link-local addresses are refused unless an entry names the address itself; a private one also where it names a Service of the cluster, such as `http://digits` within its namespace, or `http://digits.vision.svc`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(min = 8, max = 300), pattern(r"^https?://[^/@?#\s]+$"))
    )]
    pub allow: Vec<String>,
    /// Where certificates, PEM, are kept of the authorities that servers of `https://` origins may have theirs from, beside those of Mozilla's list, such as a company's own. Each key may hold several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub certificate_authorities: Vec<ValueSource>,
}

/// A key-value store, which lasts as long as its pod does; under `wisp dev` it is a file that stays.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "quantity(string(self.maxSize)).compareTo(quantity('1Ki')) >= 0 && quantity(string(self.maxSize)).compareTo(quantity('64Gi')) <= 0", "message": "maxSize must be between 1Ki and 64Gi", "messageExpression": "'maxSize must be between 1Ki and 64Gi, not ' + string(self.maxSize)"}
]))]
pub struct KeyValue {
    /// The name that the component opens the store by: a DNS label, such as `default`.
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// What all entries count at the most, each its value, its key twice and 64 bytes: 1Ki to 64Gi.
    #[serde(default = "KeyValue::default_max_size")]
    pub max_size: Bytes,
}

impl KeyValue {
    const fn default_max_size() -> Bytes {
        Bytes::mebi(64)
    }
}
