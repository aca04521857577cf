//! Pods of a pool that nobody takes any more, where there is no room for others beside them.

use anyhow::{Result, ensure};
use serde_json::Value;
use wisp_e2e::{Space, installed};
use wisp_integration::component;

use crate::pools::{CLAIMED_FROM, FUNCTION, POOL, pool, stands_by, text};

/// What the function's pods have, and those of the pool come to have.
const LABELLED: &str = "pod: {labels: {team: vision}}";

/// Waits until the namespace has one pod, which is the pool's, stands by, and has this label or none; gives its name.
fn only_pod(space: &Space, team: &str) -> Result<String> {
    let what = format!("a pod of the pool and of the team {team:?} alone");
    space.wait(&what, &["pods"], |pods| {
        let (name, pod) = pods.iter().next().filter(|_| pods.len() == 1)?;
        let is_it = text(pod, POOL) == "warm" && text(pod, "/metadata/labels/team") == team;
        let is_ready = pod.pointer("/status/containerStatuses/0/ready") == Some(&true.into());
        (is_it && is_ready).then(|| name.clone())
    })
}

/// Would fail if the pod of a pool that was changed, which nobody takes any more, kept the only room that its namespace has:
/// no other would come, neither the pool's nor the function's own, and the function couldn't be woken.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_nobody_takes_any_more_gives_its_room_to_the_next() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let _stays = wisp.with_operator().await;
    let space = wisp.space("room")?;
    space.apply(
        "{apiVersion: v1, kind: ResourceQuota, metadata: {name: one}, spec: {hard: {pods: '1'}}}",
    )?;
    // Until it is counted, no pod is admitted at all.
    space.wait("the quota", &["resourcequotas"], |quotas| {
        let most = quotas.get("one")?.pointer("/status/hard/pods")?;
        (*most == "1").then_some(())
    })?;
    let image = space
        .push_component("hello", &component("fixture-p2"))
        .await?;
    let plain = pool("warm", 1, 1);
    space.apply(&plain)?;
    space.apply(&Space::function(
        "hello",
        &image,
        &format!("  {LABELLED}\n"),
    ))?;
    space.condition("hello", "Ready", "True")?;
    stands_by(&space, "warm", 1)?;
    let before = only_pod(&space, "")?;

    let changed = plain.replace("maxReplicas: 1", &format!("maxReplicas: 1, {LABELLED}"));
    space.apply(&changed)?;
    let after = only_pod(&space, "vision")?;
    ensure!(after != before, "{after} was changed");
    space.wait("a pool that says so", &["runtimepools.wisp.dev"], |pools| {
        let pool = pools.get("warm")?;
        let seen = pool.pointer("/status/observedGeneration")?;
        let is_seen = Some(seen) == pool.pointer("/metadata/generation");
        let ready = pool
            .pointer("/status/readyReplicas")
            .and_then(Value::as_i64);
        (is_seen && ready == Some(1)).then_some(())
    })?;
    // For its own pod there is no room.
    let answer = space.get("hello", "hello").await?;
    ensure!(answer.status == 200, "{answer:?}");
    let (name, pod) = space.wait("the function's pod", &["pods"], |pods| {
        let mut ours = pods
            .iter()
            .filter(|(_, pod)| text(pod, FUNCTION) == "hello");
        ours.next().map(|(name, pod)| (name.clone(), pod.clone()))
    })?;
    ensure!(name == after && text(&pod, CLAIMED_FROM) == "warm", "{pod}");
    Ok(())
}
