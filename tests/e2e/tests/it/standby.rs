//! An operator that stands by for the one that leads.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use wisp_e2e::{Installation, Load, NAMESPACE, Space, installed};

use crate::life::{STEADY, function, roll_out, system};
use crate::pools::text;

/// Has so many operators, and gives their pods.
fn scale(wisp: &Installation, count: usize) -> Result<Vec<String>> {
    let replicas = format!("--replicas={count}");
    let deployment = "deployment/wisp-operator";
    wisp.cluster()
        .kubectl(&["-n", NAMESPACE, "scale", deployment, &replicas])?;
    roll_out(wisp, "operator")?;
    let what = format!("{count} operators");
    system(wisp, "operator", &what, |pods| pods.len() == count)
}

/// Has the one that leads end, and the other one lead.
async fn take_over(wisp: &Installation, space: &Space) -> Result<()> {
    let pods = scale(wisp, 2)?;
    let first = wisp.leader(|_| true)?;
    let first = text(&first, "/metadata/name");
    let mut others = pods.iter().filter(|pod| *pod != first);
    let other = others.next().context("there is no other")?;
    let path = space.path("awake", "hello");
    let load = Load::start(wisp.gateway(), &path, 2, STEADY, false);
    load.more(20).await?;

    // Nobody takes the place of the one that goes but the one that is there.
    let cheap = "controller.kubernetes.io/pod-deletion-cost=-1";
    let annotate = ["-n", NAMESPACE, "annotate", "pod", first, cheap];
    wisp.cluster().kubectl(&annotate)?;
    let left = scale(wisp, 1)?;
    ensure!(left == [other.as_str()], "{left:?} instead of {other}");
    wisp.leader(|pod| pod == other)?;
    let holder = "--output=jsonpath={.spec.holderIdentity}";
    let lease = ["-n", NAMESPACE, "get", "lease", "wisp-operator", holder];
    let holder = wisp.cluster().kubectl(&lease)?;
    ensure!(holder.starts_with(other), "{holder} instead of {other}");

    // It does all that the first one did.
    space
        .until("asleep", "hello", |answer| answer.status == 200)
        .await?;
    change(space, "new").await?;
    load.more(20).await?;
    load.stop().await?.none_failed()
}

/// Has the operator that leads do its work.
async fn change(space: &Space, level: &str) -> Result<()> {
    let env = json!({"spec": {"env": [{"name": "LEVEL", "value": level}]}});
    let patch = ["patch", "fn", "awake", "--type=merge", "--patch"];
    space.kubectl(&[&patch[..], &[&env.to_string()]].concat())?;
    space
        .until("awake", "env?LEVEL", |answer| answer.text() == level)
        .await?;
    Ok(())
}

/// Has an operator lead while the Lease is that of one that is gone, for a thousand years.
async fn succeed(wisp: &Installation, space: &Space) -> Result<()> {
    scale(wisp, 0)?;
    let lease = json!({"spec": {
        "holderIdentity": "wisp-operator-gone_1", "renewTime": "2999-01-01T00:00:00.000000Z",
    }});
    let patch = ["patch", "lease", "wisp-operator", "--type=merge", "--patch"];
    wisp.cluster()
        .kubectl(&[&["-n", NAMESPACE], &patch[..], &[&lease.to_string()]].concat())?;
    scale(wisp, 1)?;
    wisp.leader(|_| true)?;
    change(space, "newer").await
}

/// Would fail if an operator that stands by weren't ready, led beside another, or didn't lead once that one goes; or if
/// one that was killed were waited for.
#[tokio::test(flavor = "multi_thread")]
async fn who_stands_by_leads_when_the_leader_goes() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let _operator = wisp.without_operator().await;
    let space = wisp.space("standby")?;
    function(&space, "awake", "  scaling: {minReplicas: 1}\n").await?;
    function(&space, "asleep", "").await?;
    space
        .until("awake", "hello", |answer| answer.status == 200)
        .await?;
    let mut result = take_over(wisp, &space).await;
    if result.is_ok() {
        result = succeed(wisp, &space).await;
    }
    // Also where it failed: others need the installation as it was.
    wisp.cluster()
        .kubectl(&["-n", NAMESPACE, "delete", "lease", "wisp-operator"])?;
    scale(wisp, 1)?;
    wisp.leader(|_| true)?;
    result
}
