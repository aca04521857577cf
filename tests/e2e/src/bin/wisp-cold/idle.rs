//! What pods cost that only stand by, as the kubelets tell.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use jiff::Timestamp;
use serde_json::{Value, json};
use wisp_e2e::PATIENCE;
use wisp_load::{Aim, Row, Sample};

use crate::bench::Bench;
use crate::cases::NAMES;

/// Pods whose CPU time is measured together.
const PODS: u32 = 20;
/// Their start isn't counted.
const START: Duration = Duration::from_secs(30);
/// For how long. A kubelet looks at a container every ten to fifteen seconds, and tells when it did, in whole seconds.
const SPAN: Duration = Duration::from_secs(120);

/// What a container used when its kubelet looked last.
#[derive(Debug, Clone, Copy)]
struct Used {
    at: Timestamp,
    cpu_seconds: f64,
    mebibytes: f64,
}

impl Used {
    /// None as long as the kubelet hasn't looked.
    fn of(container: &Value) -> Option<Self> {
        let cpu = &container["cpu"];
        let bytes = container["memory"]["workingSetBytes"].as_f64()?;
        Some(Self {
            at: cpu["time"].as_str()?.parse().ok()?,
            cpu_seconds: cpu["usageCoreNanoSeconds"].as_f64()? / 1e9,
            mebibytes: bytes / f64::from(1 << 20),
        })
    }
}

/// By the pods' uids and the containers' names.
type Usage = BTreeMap<(String, String), Used>;

/// Memory of one, and CPU of twenty.
pub(crate) async fn rows(bench: &Bench<'_>) -> Result<Vec<Row>> {
    let [.., case] = NAMES;
    if !case.contains(&bench.options.only) {
        return Ok(Vec::new());
    }
    // Pods have ready what functions of their namespace need: here there is little of that, whatever ran before.
    bench.space.kubectl(&["delete", "fn", "--all", "--wait"])?;
    bench
        .pool("idle", json!({"minReplicas": PODS, "maxReplicas": PODS}))
        .await?;
    tokio::time::sleep(START).await;
    let first = usage(bench).await?;
    tokio::time::sleep(SPAN).await;
    let second = usage(bench).await?;
    let cores = cores(&first, &second);
    let all = cores.len();
    ensure!(
        all == PODS as usize,
        "{all} of {PODS} pods stood by all the time"
    );
    let cpu = Sample(vec![cores.iter().sum::<f64>() * 100.0]);
    let memory = Sample(second.values().map(|used| used.mebibytes).collect());
    Ok(vec![
        Bench::row(case, "memory of one", &memory, "MiB").aiming(Aim::Below(15.0)),
        Bench::row(case, "CPU of 20, of a core", &cpu, "%").aiming(Aim::Below(1.0)),
    ])
}

/// What the pods use that stand by, once the kubelets tell of all.
async fn usage(bench: &Bench<'_>) -> Result<Usage> {
    let began = Instant::now();
    loop {
        let standing = bench.standing().await?;
        let mut all = Usage::new();
        for summary in summaries(bench).await? {
            all.extend(read(&summary, &standing));
        }
        if all.len() == PODS as usize {
            return Ok(all);
        }
        ensure!(
            began.elapsed() < PATIENCE,
            "{} pods stand by, and the kubelets tell of {} containers of theirs: both should be {PODS}",
            standing.len(),
            all.len()
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// What each node's kubelet tells,
/// <https://kubernetes.io/docs/reference/instrumentation/node-metrics/#summary-api-source>.
async fn summaries(bench: &Bench<'_>) -> Result<Vec<Value>> {
    let nodes = bench.api.get("/api/v1/nodes").await?;
    let mut summaries = Vec::new();
    for node in nodes["items"].as_array().into_iter().flatten() {
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        let path = format!("/api/v1/nodes/{name}/proxy/stats/summary");
        summaries.push(bench.api.get(&path).await?);
    }
    Ok(summaries)
}

/// What the pods of these uids use, by a kubelet's summary.
fn read(summary: &Value, uids: &BTreeSet<String>) -> Usage {
    let pods = summary["pods"].as_array().into_iter().flatten();
    let mut usage = Usage::new();
    for pod in pods {
        let uid = pod["podRef"]["uid"].as_str().unwrap_or_default();
        if !uids.contains(uid) {
            continue;
        }
        for container in pod["containers"].as_array().into_iter().flatten() {
            let name = container["name"].as_str().unwrap_or_default();
            let key = (uid.to_owned(), name.to_owned());
            usage.extend(Used::of(container).map(|used| (key, used)));
        }
    }
    usage
}

/// What part of a core each container used that both tell of, between the moments at which it was looked at.
fn cores(first: &Usage, second: &Usage) -> Vec<f64> {
    let each = second.iter().filter_map(|(container, last)| {
        let before = first.get(container)?;
        let span = last.at.duration_since(before.at).as_secs_f64();
        (span > 0.0).then(|| (last.cpu_seconds - before.cpu_seconds) / span)
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(pods: &[(&str, &str, u64)]) -> Value {
        let pods = pods.iter().map(|(uid, time, nanos)| {
            json!({"podRef": {"uid": uid, "namespace": "cold"}, "containers": [{
                "name": "runtime",
                "cpu": {"time": time, "usageCoreNanoSeconds": nanos},
                "memory": {"workingSetBytes": 1 << 20},
            }]})
        });
        json!({"pods": pods.collect::<Vec<_>>()})
    }

    /// Would fail if CPU time were divided by anything but the time in which it was used, or another pod's, or that of one that
    /// came or went meanwhile, were counted.
    #[test]
    fn cpu_time_is_of_the_span_that_the_kubelet_tells() {
        let standing = BTreeSet::from(["a", "b", "gone", "new"].map(str::to_owned));
        let first = summary(&[
            ("a", "2026-01-01T00:00:00Z", 1_000_000_000),
            ("b", "2026-01-01T00:00:09Z", 2_000_000_000),
            ("gone", "2026-01-01T00:00:00Z", 3_000_000_000),
            ("other", "2026-01-01T00:00:00Z", 0),
        ]);
        let second = summary(&[
            ("a", "2026-01-01T00:01:40Z", 2_000_000_000),
            ("b", "2026-01-01T00:00:59Z", 3_000_000_000),
            ("new", "2026-01-01T00:01:00Z", 9_000_000_000),
            ("other", "2026-01-01T00:01:00Z", 9_000_000_000),
        ]);
        let (first, second) = (read(&first, &standing), read(&second, &standing));
        assert_eq!((first.len(), second.len()), (3, 3));
        assert_eq!(cores(&first, &second), [0.01, 0.02]);
    }
}
