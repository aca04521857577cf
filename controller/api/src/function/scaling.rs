//! How many replicas there are.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;

/// How many replicas there are.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.minReplicas <= self.maxReplicas", "message": "minReplicas must be at most maxReplicas"},
    {"rule": "duration(self.idleTimeout) >= duration('1s') && duration(self.idleTimeout) <= duration('24h')", "message": "idleTimeout must be between 1s and 24h", "messageExpression": "'idleTimeout must be between 1s and 24h, not ' + self.idleTimeout"}
]))]
pub struct Scaling {
    /// The fewest replicas, kept also while nobody asks; 0 lets the Function sleep when idle.
    #[schemars(range(min = 0, max = 1000))]
    pub min_replicas: u32,
    /// The most replicas, whatever the load.
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: u32,
    /// What one replica is meant to carry.
    pub target: Target,
    /// How long the Function is without requests before it has only minReplicas.
    pub idle_timeout: Duration,
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            min_replicas: 0,
            max_replicas: 20,
            target: Target::default(),
            idle_timeout: Duration::from_secs(30),
        }
    }
}

/// What one replica is meant to carry.
#[derive(JsonSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Target {
    /// Requests in flight in one replica, on average over a minute, at most limits.concurrency. Default: 70 % of limits.concurrency.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub concurrency: Option<u32>,
}

impl Scaling {
    /// The requests in flight that one replica is meant to carry, given what it can carry at most
    /// (`limits.concurrency`): what was asked for, else 70 % of that, and at least 1.
    #[must_use]
    pub fn target_concurrency(&self, limit: u32) -> u32 {
        let default = u32::try_from(u64::from(limit) * 7 / 10).unwrap_or(limit);
        self.target.concurrency.unwrap_or(default).max(1)
    }
}
