//! Models that a pool's pods have loaded before a function takes them.

use anyhow::{Result, ensure};
use wisp_e2e::{Space, installed, repository};
use wisp_integration::component;

use crate::pools::{CLAIMED_FROM, FUNCTION, stands_by, text};

fn pool(name: &str, models: &str) -> String {
    format!(
        "apiVersion: wisp.dev/v1alpha1\nkind: RuntimePool\nmetadata: {{name: {name}}}\nspec: {{minReplicas: 1, maxReplicas: 1, models: [{models}]}}\n"
    )
}

fn model(source: &str) -> String {
    format!("{{name: seen, source: {{{source}}}}}")
}

/// Would fail if a function took a pod without its model while one stands by that has it, or one that has models of
/// others; or if a pool whose models can't be had didn't say which and why.
#[tokio::test(flavor = "multi_thread")]
async fn a_function_takes_a_pod_that_has_its_models() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let _stays = wisp.with_operator().await;
    let space = wisp.space("kept")?;
    let digits = space.push_component("digits", &component("digits")).await?;
    let hello = space
        .push_component("hello", &component("fixture-p2"))
        .await?;
    let file = repository().join("examples/digits/mnist.onnx");
    let image = space.push_model("mnist", file).await?;

    let volume = model("persistentVolumeClaim: {claimName: files, path: m.onnx}");
    let refused = space.apply(&pool("volume", &volume));
    ensure!(
        format!("{refused:?}").contains("models of a pool come from image, url or configMap"),
        "{refused:?}"
    );
    space.apply(&pool("a-plain", ""))?;
    space.apply(&pool("b-kept", &model(&format!("image: '{image}'"))))?;
    let missing = image.replace("mnist", "missing");
    space.apply(&pool("c-broken", &model(&format!("image: '{missing}'"))))?;

    let models = format!("  models: [{{name: mnist, source: {{image: '{image}'}}}}]\n");
    space.apply(&Space::function("digits", &digits, &models))?;
    space.apply(&Space::function("hello", &hello, ""))?;
    for name in ["digits", "hello"] {
        space.condition(name, "Ready", "True")?;
    }
    for name in ["a-plain", "b-kept"] {
        stands_by(&space, name, 1)?;
    }
    space.wait(
        "a pool that says what it lacks",
        &["runtimepools.wisp.dev"],
        |pools| {
            let condition = pools.get("c-broken")?.pointer("/status/conditions/0")?;
            let message = condition.get("message")?.as_str()?;
            (condition.get("status")? == "False" && message.contains(&missing)).then_some(())
        },
    )?;

    let seven = std::fs::read(repository().join("examples/digits/seven.png"))?;
    let answer = space
        .client()
        .post(&space.path("digits", ""), seven)
        .await?;
    ensure!(
        answer.status == 200 && answer.json()["digit"] == 7,
        "{answer:?}"
    );
    let answer = space.get("hello", "hello").await?;
    ensure!(answer.status == 200, "{answer:?}");
    for (function, pool) in [("digits", "b-kept"), ("hello", "a-plain")] {
        let from = space.wait("the function's pod", &["pods"], |pods| {
            let mut ours = pods.values().filter(|pod| text(pod, FUNCTION) == function);
            ours.next().map(|pod| text(pod, CLAIMED_FROM).to_owned())
        })?;
        ensure!(from == pool, "{function} is in a pod of {from}");
    }
    Ok(())
}
