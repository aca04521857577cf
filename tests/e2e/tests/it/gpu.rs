//! Functions that ask for GPUs: their pods go where there are any, and who waits is told where there are none. The node's
//! GPUs are said to be there, as <https://kubernetes.io/docs/tasks/administer-cluster/extended-resource-node/> has it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use wisp_e2e::{PATIENCE, Space, installed, repository};
use wisp_integration::{Answer, component};

use crate::pools::{FUNCTION, text};

const GPU: &str = "nvidia.com/gpu";

/// Says how many GPUs a node has.
fn say(space: &Space, node: &str, count: u32) -> Result<()> {
    let there = json!({GPU: count.to_string()});
    let status = json!({"status": {"capacity": there, "allocatable": there}}).to_string();
    let patch = [
        "patch",
        "node",
        node,
        "--subresource=status",
        "--type=merge",
    ];
    space.kubectl(&[&patch[..], &["--patch", &status]].concat())?;
    space.wait("a node with GPUs", &["nodes"], |nodes| {
        let gpus = nodes
            .get(node)?
            .get("status")?
            .get("allocatable")?
            .get(GPU)?;
        (gpus.as_str()?.parse() == Ok(count)).then_some(())
    })
}

/// Has `function` recognise a handwritten seven.
async fn seven(space: &Space, function: &str) -> Result<Answer> {
    let image = std::fs::read(repository().join("examples/digits/seven.png"))?;
    space.client().post(&space.path(function, ""), image).await
}

/// Has the functions asked for while `node` has no GPU, and while it has two.
async fn with_and_without(space: &Space, node: &str) -> Result<()> {
    say(space, node, 0)?;
    let answer = seven(space, "auto").await?;
    let problem = answer.problem();
    ensure!(
        answer.status == 503 && problem.detail.contains(&format!("Insufficient {GPU}")),
        "{answer:?}"
    );

    say(space, node, 2)?;
    // Nobody has to do anything else: the pod that waits is placed.
    let began = Instant::now();
    let answer = loop {
        let answer = seven(space, "auto").await?;
        if answer.status != 503 || began.elapsed() > PATIENCE {
            break answer;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    ensure!(
        answer.status == 200 && answer.json()["digit"] == 7,
        "{answer:?}"
    );
    let pod = space.wait("the function's pod", &["pods"], |pods| {
        let mut ours = pods.values().filter(|pod| text(pod, FUNCTION) == "auto");
        ours.next().cloned()
    })?;
    let limit = "/spec/containers/0/resources/limits/nvidia.com~1gpu";
    ensure!(
        text(&pod, "/spec/nodeName") == node && text(&pod, limit) == "1",
        "{pod}"
    );
    space.wait("where it computes", &["functions.wisp.dev"], |functions| {
        (text(functions.get("auto")?, "/status/device") == "cpu").then_some(())
    })?;

    let answer = seven(space, "gpu").await?;
    let detail = answer.problem().detail;
    ensure!(
        answer.status == 503 && detail.contains("`mnist`") && detail.contains("GPU"),
        "{answer:?}"
    );
    Ok(())
}

/// Would fail if a pod that asks for a GPU were not given one, ran where there is none, or it were not told what is
/// missing; if `auto` hid that it computes on the CPU; or if `gpu` did.
#[tokio::test(flavor = "multi_thread")]
async fn functions_with_gpus_go_where_they_are_and_say_what_they_compute_on() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    if wisp.cluster().name().is_none() {
        wisp_skip::skip("the nodes of a cluster that is given are somebody's");
        return Ok(());
    }
    let _stays = wisp.with_operator().await;
    let space = wisp.space("gpu")?;
    let digits = space.push_component("digits", &component("digits")).await?;
    let file = repository().join("examples/digits/mnist.onnx");
    let model = space.push_model("mnist", file).await?;
    for device in ["auto", "gpu"] {
        let rest = format!(
            "  models: [{{name: mnist, source: {{image: '{model}'}}, device: {device}}}]\n  pod: {{gpu: 1}}\n"
        );
        space.apply(&Space::function(device, &digits, &rest))?;
        space.condition(device, "Ready", "True")?;
    }

    let node = space.wait("a node", &["nodes"], |nodes| nodes.keys().last().cloned())?;
    let result = with_and_without(&space, &node).await;
    // Also where it failed: pods of other tests would be placed by GPUs that aren't there.
    say(&space, &node, 0)?;
    result
}
