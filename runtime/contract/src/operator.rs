//! What gateways and replicas ask of the operator: paths and bodies of its port. Every request carries a key in
//! [`crate::headers::KEY`]; what goes wrong comes back as a [`crate::Problem`].

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::assignment::FunctionId;
use crate::stats::FunctionStats;

/// `POST`, an [`Ensure`]: sees to it that a function has a replica, waits until it serves, and answers [`Ensured`].
pub const ENSURE: &str = "/v1/ensure";

/// `POST`, a [`Report`]: what a gateway saw. Answered with 204.
pub const REPORT: &str = "/v1/report";

/// `GET` of this and a SHA-256: the artifact with that digest, for the key that [`crate::keys::Root::artifact`] makes.
pub const ARTIFACTS: &str = "/v1/artifacts/";

/// A request to wake a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ensure {
    /// The function.
    pub function: FunctionId,
}

/// A function is awake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ensured {
    /// Its replicas that serve: at least one.
    pub replicas: Vec<Replica>,
}

/// A replica that serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Replica {
    /// Its data port.
    pub address: SocketAddr,
    /// Requests that it takes at once.
    pub concurrency: u32,
}

/// What one gateway saw in one interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Report {
    /// The gateway: its pod's name.
    pub gateway: String,
    /// Whether it comes ahead of time, because requests had to wait.
    #[serde(default)]
    pub urgent: bool,
    /// Whether it is the gateway's last: it ends.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_last: bool,
    /// What it saw, of every function that had requests in flight, waiting or answered.
    pub functions: Vec<FunctionStats>,
}

/// Labels and annotations of the pods that serve functions or stand by: what the operator writes and the gateways read.
pub mod pod {
    use std::collections::BTreeMap;

    /// Label: the function's name; its namespace is the pod's.
    pub const FUNCTION: &str = "wisp.dev/function";
    /// Label: the revision's name.
    pub const REVISION: &str = "wisp.dev/revision";
    /// The container that hosts the function. Others may be beside it, as a mesh injects them.
    pub const CONTAINER: &str = "function";
    /// Annotation: the requests that the replica takes at once, a whole number.
    pub const CONCURRENCY: &str = "wisp.dev/concurrency";
    /// Label: the pool that the pod stands by in, until a function takes it.
    pub const POOL: &str = "wisp.dev/pool";
    /// Label: the pool that the pod was taken from.
    pub const CLAIMED_FROM: &str = "wisp.dev/claimed-from";
    /// Annotation: how often the pod's container had been started anew when it was taken, a whole number. One that was
    /// started anew since has lost its function.
    pub const CLAIMED_RESTARTS: &str = "wisp.dev/claimed-restarts";
    /// Annotation: the RuntimePool object's uid, which the key of the pod's control port is derived from, with the pod's
    /// namespace.
    pub const POOL_UID: &str = "wisp.dev/pool-uid";
    /// What the message begins with that a host leaves where it ends because it couldn't fetch all that its function is made of.
    pub const NOT_ALL_HERE: &str = "not all of the function is here";

    /// Whether a pod with these labels and annotations was taken from a pool and has lost its function since: its container
    /// was started anew, `restarts` times in all.
    #[must_use]
    pub fn has_forgotten(
        labels: &BTreeMap<String, String>,
        annotations: &BTreeMap<String, String>,
        restarts: i32,
    ) -> bool {
        let before = annotations.get(CLAIMED_RESTARTS);
        let before = before.and_then(|text| text.parse().ok()).unwrap_or(0);
        labels.contains_key(CLAIMED_FROM) && restarts > before
    }

    /// The port that requests for the function go to.
    pub const DATA_PORT: u16 = 8080;
    /// The port of the host's health, status and metrics.
    pub const CONTROL_PORT: u16 = 8081;
}
