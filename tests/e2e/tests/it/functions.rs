//! Functions from `kubectl apply` to an answer and back to nothing.

use std::time::Duration;

use anyhow::{Result, ensure};
use wisp_e2e::{Load, Space, installed};
use wisp_integration::component;

/// The README's way: apply, wait, look, call.
///
/// Would fail if an applied Function never became Ready, had no URL, or were not woken by its first request.
#[tokio::test(flavor = "multi_thread")]
async fn an_applied_function_is_ready_asleep_and_woken_by_its_first_request() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let _operator = wisp.with_operator().await;
    let space = wisp.space("wake")?;
    let rest = "  scaling: {idleTimeout: 3s}\n  env: [{name: LEVEL, value: high}]\n";
    space.add("hello", rest).await?;
    space.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "fn/hello",
        "--timeout=120s",
    ])?;
    let columns = space.kubectl(&["get", "fn", "hello"])?;
    for word in [
        "URL", "READY", "REPLICAS", "DEVICE", "REVISION", "AGE", "True",
    ] {
        ensure!(columns.contains(word), "{columns}");
    }
    // Nothing runs until somebody asks.
    space.has_no_pod("hello")?;

    // Whoever comes while it sleeps is answered, however many: by one wake-up.
    let asked: Vec<_> = (0..200)
        .map(|_| {
            let (client, path) = (space.client(), space.path("hello", "env?LEVEL"));
            tokio::spawn(async move { client.get(&path).await })
        })
        .collect();
    for request in asked {
        let answer = request.await??;
        ensure!(
            answer.status == 200 && answer.text() == "high",
            "{answer:?}"
        );
    }
    let answer = space.get("hello", "hello").await?;
    for header in ["x-request-id", "server-timing"] {
        ensure!(
            answer.headers.contains_key(header),
            "no {header}: {answer:?}"
        );
    }
    // And back to nothing.
    space.pods("hello", 0)?;
    ensure!(space.get("hello", "hello").await?.status == 200);
    space.kubectl(&["delete", "fn", "hello"])?;
    space.pods("hello", 0)?;
    let gone = space
        .until("hello", "hello", |answer| answer.status == 404)
        .await?;
    ensure!(gone.problem().reason == "no-such-function", "{gone:?}");
    Ok(())
}

/// Would fail if a change of the spec, or a scaling up and down, cost a request.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_a_function_changes_and_scales() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let _operator = wisp.with_operator().await;
    let space = wisp.space("change")?;
    let image = space
        .push_component("hello", &component("fixture-p2"))
        .await?;
    let manifest = |level: &str, least: u32| {
        Space::function(
            "hello",
            &image,
            &format!(
                "  scaling: {{minReplicas: {least}}}\n  env: [{{name: LEVEL, value: {level}}}]\n"
            ),
        )
    };
    space.apply(&manifest("one", 1))?;
    space
        .until("hello", "env?LEVEL", |answer| answer.text() == "one")
        .await?;

    let path = space.path("hello", "env?LEVEL");
    let pause = Duration::from_millis(2);
    let load = Load::start(wisp.gateway(), &path, 4, pause, false);
    load.more(50).await?;
    space.apply(&manifest("two", 1))?;
    space
        .until("hello", "env?LEVEL", |answer| answer.text() == "two")
        .await?;
    space.kubectl(&["scale", "fn/hello", "--replicas=3"])?;
    space.pods("hello", 3)?;
    space.kubectl(&["scale", "fn/hello", "--replicas=1"])?;
    space.pods("hello", 1)?;
    load.more(50).await?;
    load.stop().await?.none_failed()
}

/// Would fail if a pod served whoever reaches its port.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_refuses_who_is_not_the_gateway() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let space = wisp.space("refuse")?;
    space.add("hello", "  scaling: {minReplicas: 1}\n").await?;
    space
        .until("hello", "hello", |answer| answer.status == 200)
        .await?;
    let of_function = ["pods", "--selector=wisp.dev/function=hello"];
    let pod = space.wait("a pod that serves", &of_function, |pods| {
        // Beside the one that answered another may be starting.
        let mut ready = pods.iter().filter(|(_, pod)| {
            pod.pointer("/status/containerStatuses/0/ready") == Some(&true.into())
        });
        ready.next().map(|(name, _)| name.clone())
    })?;
    for (port, path) in [(8080, "/hello"), (8081, "/status")] {
        let forward = space.forward(&format!("pod/{pod}"), port)?;
        let answer = wisp_integration::Client::new(forward.address())
            .get(path)
            .await?;
        ensure!(answer.status == 403, "{port}: {answer:?}");
    }
    Ok(())
}
