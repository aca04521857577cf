//! What pods cost that only stand by, as the kubelets tell.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use wisp_e2e::PATIENCE;
use wisp_load::{Aim, Row, Sample};

use crate::bench::Bench;
use crate::cases::NAMES;

/// Pods whose CPU time is measured together.
const PODS: u32 = 20;
/// For how long.
const SPAN: Duration = Duration::from_secs(30);

/// What all of them used so far.
struct Usage {
    at: Instant,
    cpu_seconds: f64,
    /// MiB of each.
    memory: Vec<f64>,
}

/// Memory of one, and CPU of twenty.
pub(crate) async fn rows(bench: &Bench<'_>) -> Result<Vec<Row>> {
    let [.., case] = NAMES;
    if !case.contains(&bench.options.only) {
        return Ok(Vec::new());
    }
    bench
        .pool("idle", json!({"minReplicas": PODS, "maxReplicas": PODS}))
        .await?;
    // Their start isn't counted.
    tokio::time::sleep(SPAN).await;
    let first = usage(bench).await?;
    tokio::time::sleep(SPAN).await;
    let second = usage(bench).await?;
    let span = (second.at - first.at).as_secs_f64();
    let cpu = Sample(vec![
        (second.cpu_seconds - first.cpu_seconds) / span * 100.0,
    ]);
    bench
        .pool("warm", json!({"minReplicas": 2, "maxReplicas": 4}))
        .await?;
    Ok(vec![
        Bench::row(case, "memory of one", &Sample(second.memory), "MiB").aiming(Aim::Below(15.0)),
        Bench::row(case, "CPU of 20, of a core", &cpu, "%").aiming(Aim::Below(1.0)),
    ])
}

async fn usage(bench: &Bench<'_>) -> Result<Usage> {
    let began = Instant::now();
    loop {
        let usage = read(bench).await?;
        if usage.memory.len() >= PODS as usize {
            return Ok(usage);
        }
        ensure!(
            began.elapsed() < PATIENCE,
            "the kubelets tell of {} pods",
            usage.memory.len()
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn read(bench: &Bench<'_>) -> Result<Usage> {
    let nodes = bench.api.get("/api/v1/nodes").await?;
    let mut usage = Usage {
        at: Instant::now(),
        cpu_seconds: 0.0,
        memory: Vec::new(),
    };
    for node in nodes["items"].as_array().into_iter().flatten() {
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        let path = format!("/api/v1/nodes/{name}/proxy/stats/summary");
        let summary = bench.api.get(&path).await?;
        let pods = summary["pods"].as_array().cloned().unwrap_or_default();
        let ours = pods
            .iter()
            .filter(|pod| pod["podRef"]["namespace"] == bench.space.name())
            .flat_map(|pod| pod["containers"].as_array().into_iter().flatten());
        for container in ours {
            let number = |value: &Value| value.as_f64().unwrap_or_default();
            usage.cpu_seconds += number(&container["cpu"]["usageCoreNanoSeconds"]) / 1e9;
            let bytes = number(&container["memory"]["workingSetBytes"]);
            usage.memory.push(bytes / f64::from(1 << 20));
        }
    }
    Ok(usage)
}
