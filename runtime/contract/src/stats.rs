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
    /// Zeros, which nobody reads: operators of an earlier version take no report without them.
    #[serde(skip_deserializing)]
    pub latency: [u64; 15],
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What operators of an earlier version take.
    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase")]
    #[expect(dead_code, reason = "that they are there is enough")]
    struct Earlier {
        function: FunctionId,
        seconds: f64,
        concurrency: f64,
        queue: f64,
        in_flight: u32,
        queued: u32,
        requests: u64,
        answers: [u64; 5],
        latency: [u64; 15],
    }

    /// Would fail if gateways and operators of two versions, as there are during an upgrade, didn't understand each other.
    #[test]
    fn reports_are_understood_by_another_version() {
        let stats = FunctionStats {
            function: "a/b".parse().unwrap(),
            seconds: 1.0,
            concurrency: 0.5,
            queue: 0.0,
            in_flight: 1,
            queued: 0,
            requests: 3,
            answers: [0, 3, 0, 0, 0],
            latency: Default::default(),
        };
        let mut sent = serde_json::to_value(&stats).unwrap();
        serde_json::from_value::<Earlier>(sent.clone()).unwrap();
        // Those of other versions, with their counts or without.
        for latency in [
            json!([0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            json!([3]),
        ] {
            sent["latency"] = latency;
            let taken = serde_json::from_value::<FunctionStats>(sent.clone());
            assert_eq!(taken.unwrap(), stats);
        }
        sent.as_object_mut().unwrap().remove("latency");
        let taken = serde_json::from_value::<FunctionStats>(sent);
        assert_eq!(taken.unwrap(), stats);
    }
}
