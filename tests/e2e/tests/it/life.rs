//! No request fails for what happens to functions, pods, gateways and the operator while they are asked.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use wisp_e2e::{Installation, Load, NAMESPACE, PATIENCE, Space, installed};

/// Between two requests of a client that is always there.
pub(crate) const STEADY: Duration = Duration::from_millis(10);

/// A function `name` of the test component, which is ready.
pub(crate) async fn function(space: &Space, name: &str, rest: &str) -> Result<()> {
    space.add(name, rest).await?;
    space.condition(name, "Ready", "True")?;
    Ok(())
}

/// The pods of a part of the installation, once `is` what is waited for.
pub(crate) fn system(
    wisp: &Installation,
    part: &str,
    what: &str,
    is: impl Fn(&[String]) -> bool,
) -> Result<Vec<String>> {
    let selector = format!("--selector=app.kubernetes.io/component={part}");
    let query = ["pods", "--namespace", NAMESPACE, &selector];
    wisp.cluster().wait(what, &query, PATIENCE, |pods| {
        let names: Vec<String> = pods.keys().cloned().collect();
        is(&names).then_some(names)
    })
}

pub(crate) fn roll_out(wisp: &Installation, part: &str) -> Result<String> {
    let deployment = format!("deployment/wisp-{part}");
    let patience = format!("--timeout={}s", PATIENCE.as_secs());
    wisp.cluster().kubectl(&[
        "--namespace",
        NAMESPACE,
        "rollout",
        "status",
        &deployment,
        &patience,
    ])
}

/// Would fail if a request that comes just as the last pod goes were lost: sent to a pod that ends, or waiting for a
/// wake-up that found that pod still there.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_when_it_comes_as_the_function_goes_to_sleep() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let _operator = wisp.with_operator().await;
    let space = wisp.space("doze")?;
    let mut load = Load::default();
    for name in ["a", "b", "c"] {
        function(&space, name, "  scaling: {idleTimeout: 1s}\n").await?;
        // The operator decides once a second: from just before it takes the pod away to just after it has gone.
        let offset = u64::from(name.as_bytes()[0] - b'a') * 70;
        let pauses = (0..10).map(|step| Duration::from_millis(900 + offset + step * 210));
        load.join(
            wisp.gateway(),
            &space.path(name, "hello"),
            pauses.collect(),
            false,
        );
    }
    load.more(45).await?;
    load.stop().await?.none_failed()?;
    // Else nothing was tried.
    let ended = [
        "get",
        "events",
        "--field-selector=reason=Killing",
        "--output=name",
    ];
    ensure!(!space.kubectl(&ended)?.is_empty(), "they never slept");
    Ok(())
}

/// Would fail if the autoscaler didn't make as many pods as the requests in flight need, took away a pod that still answers, or
/// if a client's connection were closed under its request then.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_replicas_come_and_go_with_the_load() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let _operator = wisp.with_operator().await;
    let space = wisp.space("crowd")?;
    let scaling = |most: u32| {
        format!(
            "  scaling: {{maxReplicas: {most}, target: {{concurrency: 2}}}}\n  limits: {{concurrency: 4, memory: 4Mi}}\n"
        )
    };
    function(&space, "crowd", &scaling(3)).await?;
    space.pods("crowd", 0)?;
    let path = space.path("crowd", "sleep?200");
    // Eight in flight, where one replica is meant to carry two.
    let load = Load::start(wisp.gateway(), &path, 8, Duration::ZERO, true);
    space.pods("crowd", 3)?;
    space.wait("three that serve", &["functions.wisp.dev"], |functions| {
        let ready = functions.get("crowd")?.pointer("/status/readyReplicas")?;
        (*ready == 3).then_some(())
    })?;
    load.more(40).await?;
    // All are busy as one of them goes.
    let patch = "{\"spec\": {\"scaling\": {\"maxReplicas\": 2}}}";
    space.kubectl(&["patch", "fn", "crowd", "--type=merge", "--patch", patch])?;
    space.pods("crowd", 2)?;
    load.more(40).await?;
    load.stop().await?.none_cut_off()
}

/// Would fail if a gateway that ends turned away who still comes, cut what it answers, or closed a connection under a request
/// whose client was always there to be told before; or one that begins took requests before it knew the functions.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_the_gateway_is_replaced() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    if !wisp.is_routed() {
        wisp_skip::skip("a forwarded port ends with the gateway's pod");
        return Ok(());
    }
    let space = wisp.space("roll")?;
    function(&space, "hello", "  scaling: {minReplicas: 1}\n").await?;
    space
        .until("hello", "hello", |answer| answer.status == 200)
        .await?;
    let before = system(wisp, "gateway", "the gateway", |pods| !pods.is_empty())?;
    let (gateway, path) = (wisp.gateway(), space.path("hello", "hello"));
    let mut load = Load::start(gateway, &path, 2, STEADY, true);
    for path in [&path, &space.path("hello", "stream?40")] {
        load.join(gateway, path, vec![STEADY], false);
    }
    load.more(100).await?;
    wisp.cluster().kubectl(&[
        "--namespace",
        NAMESPACE,
        "rollout",
        "restart",
        "deployment/wisp-gateway",
    ])?;
    roll_out(wisp, "gateway")?;
    system(wisp, "gateway", "the end of the one before", |pods| {
        !pods.is_empty() && pods.iter().all(|pod| !before.contains(pod))
    })?;
    load.more(100).await?;
    load.stop().await?.none_cut_off()
}

/// What keeps a function's pod from being placed, and from being one of a pool, until there is a pod with this label.
const ANCHORED: &str = "  pod: {affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [\
    {labelSelector: {matchLabels: {app: anchor}}, topologyKey: kubernetes.io/hostname}]}}}\n";

/// Has that pod. It needs no more than a place on a node: its image is none.
fn anchor(wisp: &Installation, space: &Space) -> Result<String> {
    let registry = wisp.cluster().registry()?;
    space.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: anchor, labels: {{app: anchor}}}}\nspec:\n\
        \x20 securityContext: {{runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}\n\
        \x20 containers:\n  - name: none\n    image: {registry}/none:1\n\
        \x20   securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}\n"
    ))
}

/// Would fail if what serves depended on the operator, or a function that sleeps weren't woken once there is one again,
/// also by a request that came before.
#[tokio::test(flavor = "multi_thread")]
async fn the_operator_may_go_at_any_time() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let _operator = wisp.without_operator().await;
    let space = wisp.space("orphan")?;
    function(&space, "awake", "  scaling: {minReplicas: 1}\n").await?;
    function(&space, "asleep", "").await?;
    function(&space, "waking", ANCHORED).await?;
    space
        .until("awake", "hello", |answer| answer.status == 200)
        .await?;
    let load = Load::start(
        wisp.gateway(),
        &space.path("awake", "hello"),
        2,
        STEADY,
        false,
    );
    load.more(20).await?;
    let before = system(wisp, "operator", "the operator", |pods| !pods.is_empty())?;
    // One is being woken when the operator goes, the other is asked for when it has gone.
    let waking = tokio::spawn({
        let (client, path) = (space.client(), space.path("waking", "hello"));
        async move { client.get(&path).await }
    });
    // Its pod is there, and can't be placed: so long the wake-up goes on.
    space.pods("waking", 1)?;
    let mut arguments = vec!["--namespace", NAMESPACE, "delete", "pod", "--wait=false"];
    arguments.extend(before.iter().map(String::as_str));
    wisp.cluster().kubectl(&arguments)?;
    ensure!(
        !waking.is_finished(),
        "it was no longer being woken: {:?}",
        waking.await
    );
    anchor(wisp, &space)?;
    let first = space.get("asleep", "hello").await?;
    // Where nobody comes for longer than a client should wait, it is told to come again.
    ensure!(
        first.status == 200 || (first.status == 503 && first.headers.contains_key("retry-after")),
        "{first:?}"
    );
    space
        .until("asleep", "hello", |answer| answer.status == 200)
        .await?;
    let waking = waking.await??;
    ensure!(
        waking.status == 200
            || (waking.status == 503 && waking.headers.contains_key("retry-after")),
        "{waking:?}"
    );
    space
        .until("waking", "hello", |answer| answer.status == 200)
        .await?;
    let after = system(wisp, "operator", "another operator", |pods| {
        !pods.is_empty() && pods.iter().all(|pod| !before.contains(pod))
    })?;
    roll_out(wisp, "operator")?;
    load.more(20).await?;
    load.stop().await?.none_failed()?;
    // The new one does all that the old one did.
    let patch = "{\"spec\": {\"env\": [{\"name\": \"LEVEL\", \"value\": \"new\"}]}}";
    space.kubectl(&["patch", "fn", "awake", "--type=merge", "--patch", patch])?;
    space
        .until("awake", "env?LEVEL", |answer| answer.text() == "new")
        .await
        .with_context(|| format!("after {after:?} came"))?;
    Ok(())
}

/// Would fail if a HorizontalPodAutoscaler couldn't read or set a Function's scale: then none of those who scale Kubernetes'
/// objects from outside, KEDA among them, could.
#[tokio::test(flavor = "multi_thread")]
async fn an_autoscaler_from_outside_raises_the_fewest_replicas() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let space = wisp.space("hpa")?;
    function(
        &space,
        "hello",
        "  scaling: {minReplicas: 1}\n  limits: {memory: 4Mi}\n",
    )
    .await?;
    // Nobody serves its metric, so it does what it can do without one: it raises what is below its own minimum.
    space.apply(
        "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: hello}\nspec:\n\
        \x20 scaleTargetRef: {apiVersion: wisp.dev/v1alpha1, kind: Function, name: hello}\n\
        \x20 minReplicas: 2\n  maxReplicas: 3\n  metrics:\n\
        \x20 - {type: External, external: {metric: {name: jobs}, target: {type: AverageValue, averageValue: '1'}}}\n",
    )?;
    space.pods("hello", 2)?;
    space.wait("what it was set to", &["functions.wisp.dev"], |functions| {
        let least = functions
            .get("hello")?
            .pointer("/spec/scaling/minReplicas")?;
        (*least == 2).then_some(())
    })?;
    space.wait("what it sees", &["horizontalpodautoscalers"], |scalers| {
        let scaler = scalers.get("hello")?;
        (*scaler.pointer("/status/currentReplicas")? == 2).then_some(())
    })
}
