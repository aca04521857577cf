//! What a gateway saw of a function: what replicas are counted by.

use serde::{Deserialize, Serialize};

use crate::assignment::FunctionId;

/// What one gateway saw of one function in one interval, usually a second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FunctionStats {
    /// The function.
    pub function: FunctionId,
    /// The interval's length.
    pub seconds: f64,
    /// Requests in flight in replicas, averaged over the interval by time.
    pub concurrency: f64,
    /// Requests that waited for a place or a replica, averaged over the interval by time.
    pub queue: f64,
    /// Requests in flight at the interval's end.
    pub in_flight: u32,
    /// Requests that waited at the interval's end.
    pub queued: u32,
    /// Requests that came.
    pub requests: u64,
    /// Answers by status class: 1xx to 5xx. What failed without an answer counts as 5xx.
    pub answers: [u64; 5],
    /// How long the answers took, from the request's head to the last byte: one count per bound of
    /// [`LATENCY_BOUNDS`], and one for what took longer.
    pub latency: [u64; LATENCY_BOUNDS.len() + 1],
}

/// Upper bounds of the latency counts, in seconds.
pub const LATENCY_BOUNDS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
