//! An installation that runs is upgraded, to other values, by the commands that install.md tells.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use wisp_e2e::{Installation, Load, NAMESPACE, Space, installed, repository};

use crate::life::{STEADY, function};

/// Does what install.md says below "Upgrading", with other values on top.
fn upgrade(wisp: &Installation, values: &str) -> Result<()> {
    let repository = repository();
    let document = repository.join("controller/operator/docs/install.md");
    let document = std::fs::read_to_string(document)?;
    let (_, told) = document
        .split_once("## Upgrading\n")
        .context("install.md tells nothing of upgrading")?;
    let commands = told
        .split("```")
        .nth(1)
        .and_then(|block| block.strip_prefix("sh\n"))
        .context("no commands are told")?;
    let chart = repository.join("deploy/chart");
    let chart = chart.to_str().context("a path of UTF-8")?;
    // The images that run are those of the next version here.
    let tag = " --set image.tag=0.2.0";
    ensure!(commands.contains(tag), "{commands}");
    let commands = commands.replace(tag, "").replace("deploy/chart", chart);
    let mut done = Vec::new();
    for command in commands.lines() {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words.split_first().context("an empty line")? {
            (&"cargo", ["xtask", "images", ..]) => {}
            (&"kubectl", rest) => _ = wisp.cluster().kubectl(rest)?,
            (&"helm", rest) => {
                let more = ["--wait", "--timeout=5m", "--set", values];
                wisp.cluster().helm(&[rest, &more].concat())?;
            }
            _ => anyhow::bail!("what is to be done with `{command}`?"),
        }
        done.extend(words.first().map(ToString::to_string));
    }
    ensure!(done == ["cargo", "kubectl", "helm"], "{commands}");
    Ok(())
}

/// Waits until the namespace's default pool, and its and its function's NetworkPolicies, are as the values say.
fn follows(space: &Space, most: u64, has_policies: bool) -> Result<()> {
    space.wait("the default pool", &["runtimepools"], |pools| {
        let found = pools.get("default")?.pointer("/spec/maxReplicas")?;
        (*found == json!(most)).then_some(())
    })?;
    space.wait("the policies", &["networkpolicies"], |policies| {
        let mut ours = ["wisp-awake", "wisp-pool.default"].into_iter();
        ours.all(|name| policies.contains_key(name) == has_policies)
            .then_some(())
    })
}

/// Has other values reach what runs, and somebody write to the namespace's pool.
async fn changed(wisp: &Installation, space: &Space) -> Result<()> {
    upgrade(
        wisp,
        "networkPolicies.enabled=false,pools.default.maxReplicas=6",
    )?;
    follows(space, 6, false)?;
    space
        .until("asleep", "hello", |answer| answer.status == 200)
        .await?;
    // Who wrote to the pool by hand keeps what was written.
    let patch = "{\"spec\": {\"maxReplicas\": 7}}";
    space
        .kubectl(&["patch", "rp", "default", "--type=merge", "--patch", patch])
        .map(drop)
}

/// Would fail if an upgrade lost values, a request, or a function that sleeps; or if what its values say reached only functions
/// and pools that come later.
#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_reaches_what_runs_and_fails_no_request() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let _goes = wisp.without_operator().await;
    let space = wisp.space("upgrade")?;
    function(&space, "awake", "  scaling: {minReplicas: 1}\n").await?;
    function(&space, "asleep", "").await?;
    space
        .until("awake", "hello", |answer| answer.status == 200)
        .await?;
    follows(&space, 5, true)?;
    let images = || -> Result<Value> {
        let query = ["deployments", "--namespace", NAMESPACE];
        let every = wisp.cluster().wait("deployments", &query, STEADY, |all| {
            let image = |object: &Value| {
                let container = object.pointer("/spec/template/spec/containers/0");
                container.map(|container| container["image"].clone())
            };
            all.values().map(image).collect::<Option<Vec<_>>>()
        })?;
        Ok(json!(every))
    };
    let before = images()?;
    let path = space.path("awake", "hello");
    let load = Load::start(wisp.gateway(), &path, 2, STEADY, false);
    load.more(20).await?;

    let there = changed(wisp, &space).await;
    // Also where it failed: others need the installation as it was.
    let back = upgrade(
        wisp,
        "networkPolicies.enabled=true,pools.default.maxReplicas=5",
    );
    there?;
    back?;
    follows(&space, 7, true)?;
    ensure!(images()? == before, "{before} became {}", images()?);
    load.more(20).await?;
    load.stop().await?.none_failed()
}
