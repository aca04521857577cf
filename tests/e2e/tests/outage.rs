//! What was deployed wakes while neither the API server nor the registry answers. It has a cluster of its own, because it
//! takes both away from it.

use std::time::Duration;

use anyhow::{Result, ensure};
use wisp_cluster::{Cluster, Owned};
use wisp_e2e::{Installation, PATIENCE, Stopped};
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
    space.wait("two pods that stand by", &["rp"], |pools| {
        pools
            .values()
            .any(|pool| pool["status"]["readyReplicas"] == 2)
            .then_some(())
    })?;

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
    let began = std::time::Instant::now();
    loop {
        let answer = space.get("three", "hello").await?;
        if answer.status == 200 {
            return Ok(());
        }
        let is_not_yet = answer.status == 503;
        ensure!(is_not_yet && began.elapsed() < PATIENCE, "{answer:?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
