//! What was deployed wakes while neither the API server nor the registry answers. It has a cluster of its own, because it
//! takes both away from it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use wisp_cluster::{Cluster, Owned};
use wisp_e2e::{Installation, PATIENCE};
use wisp_integration::binary;

/// Longer than the operator's Lease lasts.
const OUTAGE: Duration = Duration::from_secs(16);

/// Parts of a cluster that don't answer, as long as this lives.
struct Stopped(Vec<Pid>);

impl Stopped {
    fn of(cluster: &Cluster, components: &[&str]) -> Result<Self> {
        let status = cluster.drive(&["status"])?;
        let pid = |component: &&str| {
            // etcd                 pid 20835      120 MiB
            let mut lines = status.lines().map(str::split_whitespace);
            let pid = lines.find_map(|mut words| {
                let is_it = words.next() == Some(component) && words.next() == Some("pid");
                is_it.then(|| words.next()?.parse().ok()).flatten()
            });
            pid.and_then(Pid::from_raw)
                .with_context(|| format!("there is no {component} in {status}"))
        };
        let stopped = Self(components.iter().map(pid).collect::<Result<_>>()?);
        for pid in &stopped.0 {
            kill_process(*pid, Signal::STOP)?;
        }
        Ok(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = kill_process(*pid, Signal::CONT);
        }
    }
}

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
        ensure!(began.elapsed() < PATIENCE, "{answer:?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
