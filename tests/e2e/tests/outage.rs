//! What was deployed wakes while neither the API server nor the registry answers. It has a cluster of its own, because it
//! takes both away from it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use wisp_cluster::{Cluster, Owned};
use wisp_e2e::{Installation, NAMESPACE, PATIENCE, Space, Stopped, repository};
use wisp_integration::binary;

/// Longer than the operator's Lease lasts.
const OUTAGE: Duration = Duration::from_secs(16);

/// Would fail if a wake-up asked the API server or the registry for anything, if the operator stepped down without
/// another that leads, if a request were left without an answer, or if what happened meanwhile were not made good.
#[tokio::test]
async fn what_was_deployed_wakes_without_the_api_server_and_the_registry() -> Result<()> {
    let Some(cluster) = Cluster::own("outage", 1) else {
        return Ok(());
    };
    let cluster: &'static Owned = Box::leak(Box::new(cluster));
    let wisp: &'static Installation =
        Box::leak(Box::new(Installation::of(cluster, binary, "debug")?));
    let space = wisp.space("outage")?;
    space.apply(
        "apiVersion: wisp.dev/v1alpha1\nkind: RuntimePool\nmetadata: {name: two}\nspec: {minReplicas: 2, maxReplicas: 2}\n",
    )?;
    for name in ["one", "two", "three"] {
        space.add(name, "").await?;
        space.condition(name, "Ready", "True")?;
    }
    two_stand_by(&space)?;

    let outage = Stopped::of(cluster, &["apiserver", "registry"])?;
    tokio::time::sleep(OUTAGE).await;
    for name in ["one", "two"] {
        let answer = space.get(name, "hello").await?;
        ensure!(answer.status == 200, "{name}: {answer:?}");
    }
    // No pod is left, and none can be made.
    let refused = tokio::time::timeout(PATIENCE, space.get("three", "hello")).await??;
    ensure!(refused.status == 503, "{refused:?}");
    ensure!(refused.headers.contains_key("retry-after"), "{refused:?}");
    ensure!(refused.text().contains("\"reason\""), "{refused:?}");
    drop(outage);

    for name in ["one", "two"] {
        let selector = format!("--selector=wisp.dev/function={name}");
        space.wait(
            "a pod that is the function's",
            &["pods", &selector],
            |pods| (!pods.is_empty()).then_some(()),
        )?;
    }
    woken(&space, "three").await?;
    on_a_volume(wisp, &space, cluster).await
}

fn two_stand_by(space: &Space) -> Result<()> {
    space.wait("two pods that stand by", &["rp"], |pools| {
        let mut ready = pools
            .values()
            .filter_map(|pool| pool.pointer("/status/readyReplicas"));
        ready.any(|count| *count == 2).then_some(())
    })
}

/// Asks until there is an answer: what was away is only just back.
async fn woken(space: &Space, name: &str) -> Result<()> {
    let began = std::time::Instant::now();
    loop {
        let answer = space.get(name, "hello").await?;
        if answer.status == 200 {
            return Ok(());
        }
        let is_not_yet = answer.status == 503;
        ensure!(is_not_yet && began.elapsed() < PATIENCE, "{answer:?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// An upgrade puts the operator's store on a volume. Another operator finds there what the one before it had, while the registry
/// is away, and has it for pods that never saw it.
async fn on_a_volume(wisp: &Installation, space: &Space, cluster: &Owned) -> Result<()> {
    let chart = repository().join("deploy/chart");
    cluster.helm(&[
        "upgrade",
        "wisp",
        chart.to_str().context("a path of UTF-8")?,
        "--namespace",
        NAMESPACE,
        "--reuse-values",
        "--set=operator.store.persistence=true",
        "--wait",
        "--timeout=5m",
    ])?;
    let claims = cluster.kubectl(&["get", "pvc", "--namespace", NAMESPACE])?;
    ensure!(claims.contains("Bound"), "{claims}");
    for name in ["one", "two", "three"] {
        woken(space, name).await?;
    }
    // What fetches for those that were asked fetches for all: each has been wanted from this store.
    let outage = Stopped::of(cluster, &["registry"])?;
    let before = wisp.leader(|_| true)?;
    let before = before.pointer("/metadata/name").and_then(|it| it.as_str());
    let before = before.context("a pod without a name")?;
    cluster.kubectl(&["delete", "pod", "--namespace", NAMESPACE, before])?;
    wisp.leader(|name| name != before)?;
    for name in ["one", "two", "three"] {
        space.pods(name, 0)?;
    }
    let old = space.kubectl(&["get", "pods", "--output=name"])?;
    space.kubectl(&["delete", "pods", "--all", "--wait"])?;
    two_stand_by(space)?;
    for name in ["one", "two"] {
        let answer = space.get(name, "hello").await?;
        ensure!(answer.status == 200, "{name}: {answer:?}");
    }
    let pods = space.kubectl(&["get", "pods", "--output=name"])?;
    ensure!(
        !pods.lines().any(|pod| old.lines().any(|it| it == pod)),
        "{pods} is no other than {old}"
    );
    drop(outage);
    Ok(())
}
