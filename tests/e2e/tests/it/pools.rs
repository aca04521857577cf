//! Pods that stand by, and become a function's when it is woken.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::Value;
use wisp_e2e::{Emulated, PATIENCE, Space, installed, kill_host};
use wisp_integration::{arm64, component};

pub(crate) const POOL: &str = "/metadata/labels/wisp.dev~1pool";
pub(crate) const FUNCTION: &str = "/metadata/labels/wisp.dev~1function";
pub(crate) const CLAIMED_FROM: &str = "/metadata/labels/wisp.dev~1claimed-from";

pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Waits until a pool has as many pods ready as it should, and at least `least`.
pub(crate) fn stands_by(space: &Space, pool: &str, least: i64) -> Result<()> {
    let what = format!("{least} pods that stand by in {pool}");
    space.wait(&what, &["runtimepools.wisp.dev"], |pools| {
        let status = pools.get(pool)?.get("status")?;
        let count = |key: &str| status.get(key).and_then(Value::as_i64).unwrap_or(0);
        (count("readyReplicas") >= least.max(count("desiredReplicas"))).then_some(())
    })
}

pub(crate) fn pool(name: &str, min: u32, max: u32) -> String {
    format!(
        "apiVersion: wisp.dev/v1alpha1\nkind: RuntimePool\nmetadata: {{name: {name}}}\nspec: {{minReplicas: {min}, maxReplicas: {max}}}\n"
    )
}

/// Would fail if a namespace with a Function had no pool, a wake-up didn't take its pod, or the pod weren't the function's
/// from then on: by label, owner and resources; or if the pool outlived the last Function.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_stands_by_becomes_the_functions() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let _stays = wisp.with_operator().await;
    let space = wisp.space("pool")?;
    let image = space
        .push_component("hello", &component("fixture-p2"))
        .await?;
    let resources =
        "  pod: {resources: {requests: {memory: 96Mi, cpu: 50m}, limits: {memory: 300Mi}}}\n";
    space.apply(&Space::function("hello", &image, resources))?;
    space.condition("hello", "Ready", "True")?;
    stands_by(&space, "default", 1)?;
    let before = space.wait("the pool's pod", &["pods"], |pods| {
        let (name, pod) = pods.iter().next()?;
        (text(pod, POOL) == "default").then(|| name.clone())
    })?;

    let answer = space.get("hello", "hello").await?;
    ensure!(answer.status == 200, "{answer:?}");
    let pod = space.wait(
        "the function's pod",
        &["pods", "--selector=wisp.dev/function=hello"],
        |pods| {
            // What was asked for is there when the kubelet has done it.
            let (name, pod) = pods.iter().next()?;
            let has = pod.pointer("/status/containerStatuses/0/resources/limits/memory")?;
            (*name == before && has == "300Mi").then(|| pod.clone())
        },
    )?;
    ensure!(text(&pod, CLAIMED_FROM) == "default", "{pod}");
    ensure!(text(&pod, POOL).is_empty(), "{pod}");
    ensure!(
        text(&pod, "/metadata/ownerReferences/0/kind") == "Function",
        "{pod}"
    );
    ensure!(
        pod.pointer("/status/containerStatuses/0/restartCount") == Some(&0.into()),
        "resized in place: {pod}"
    );
    // Another takes its place, and it is the only replica.
    stands_by(&space, "default", 1)?;
    space.pods("hello", 1)?;
    let columns = space.kubectl(&["get", "rp"])?;
    for word in [
        "READY",
        "WANTED",
        "MIN",
        "MAX",
        "FUNCTIONS",
        "CLAIMS",
        "default",
    ] {
        ensure!(columns.contains(word), "{columns}");
    }

    space.kubectl(&["delete", "fn", "hello"])?;
    space.wait("no pod at all", &["pods"], |pods| {
        pods.is_empty().then_some(())
    })?;
    Ok(())
}

/// Would fail if a pod were given to two functions, one went without an answer because there were too few pods, a pool
/// that somebody asked for stood beside one that nobody did, or one that is of no use looked as if it were.
#[tokio::test(flavor = "multi_thread")]
async fn more_functions_than_pods_are_all_answered_each_by_pods_of_its_own() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let _stays = wisp.with_operator().await;
    let space = wisp.space("crowd")?;
    let image = space
        .push_component("hello", &component("fixture-p2"))
        .await?;
    space.apply(&pool("warm", 2, 3))?;
    let names: Vec<String> = (0..5).map(|index| format!("hello-{index}")).collect();
    for name in &names {
        // None falls asleep before the last of them is awake.
        let rest =
            format!("  env: [{{name: LEVEL, value: {name}}}]\n  scaling: {{idleTimeout: 5m}}\n");
        space.apply(&Space::function(name, &image, &rest))?;
    }
    for name in &names {
        space.condition(name, "Ready", "True")?;
    }
    stands_by(&space, "warm", 2)?;
    let asked = names.iter().map(|name| {
        let (client, path) = (space.client(), space.path(name, "env?LEVEL"));
        tokio::spawn(async move { client.get(&path).await })
    });
    for (name, asked) in names.iter().zip(asked.collect::<Vec<_>>()) {
        let answer = asked.await??;
        ensure!(
            answer.status == 200 && answer.text() == *name,
            "{name}: {answer:?}"
        );
    }
    // A function may have had another for a moment: one that started while a pod that stood by was claimed.
    space.wait("one pod of each function", &["pods"], |pods| {
        let owners: Vec<&str> = pods
            .values()
            .map(|pod| text(pod, FUNCTION))
            .filter(|function| !function.is_empty())
            .collect();
        let functions: BTreeSet<&str> = owners.iter().copied().collect();
        (functions.len() == names.len() && owners.len() == names.len()).then_some(())
    })?;
    // It has grown to what was wanted at once, up to its bound.
    stands_by(&space, "warm", 3)?;
    let pools = space.kubectl(&["get", "rp", "--output=name"])?;
    ensure!(pools.trim() == "runtimepool.wisp.dev/warm", "{pools}");

    // One whose pods nobody can take says so.
    let elsewhere = pool("elsewhere", 0, 1).replace(
        "maxReplicas: 1",
        "maxReplicas: 1, pod: {nodeSelector: {disk: ssd}}",
    );
    space.apply(&elsewhere)?;
    let known = [
        ("warm", 5, "True", "5 of"),
        ("elsewhere", 0, "False", "another pod.nodeSelector"),
    ];
    for (name, functions, status, message) in known {
        let what = format!("{functions} functions that can take pods of {name}");
        space.wait(&what, &["runtimepools.wisp.dev"], |pools| {
            let told = pools.get(name)?.get("status")?;
            let conditions = told.get("conditions")?.as_array()?;
            let claimable = conditions
                .iter()
                .find(|condition| text(condition, "/type") == "Claimable")?;
            let is_so = told.get("functions")? == functions
                && text(claimable, "/status") == status
                && text(claimable, "/message").contains(message);
            is_so.then_some(())
        })?;
    }
    Ok(())
}

/// Would fail if what a pool's spec says no more stayed in its pods.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_pool_asks_for_no_more_is_gone_from_its_pods() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let _stays = wisp.with_operator().await;
    let space = wisp.space("less")?;
    let plain = pool("less", 0, 1);
    let narrow = plain.replace(
        "maxReplicas: 1",
        "maxReplicas: 1, pod: {nodeSelector: {disk: ssd}}",
    );
    for (manifest, expected) in [(&narrow, "ssd"), (&plain, "")] {
        space.apply(manifest)?;
        let what = format!("a pool's pods for disks {expected:?}");
        space.wait(&what, &["deployments"], |deployments| {
            let deployment = deployments.get("wisp-pool-less")?;
            let found = text(deployment, "/spec/template/spec/nodeSelector/disk");
            (found == expected).then_some(())
        })?;
    }
    Ok(())
}

/// Would fail if a function on a node with a lesser processor than the operator's were compiled in its pod each time it is
/// woken, or got another revision when it is compiled for that node, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_lesser_processor_gets_code_of_its_own() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    if wisp_artifacts::Cpu::here().below().is_empty() {
        eprintln!("skipped: code for this machine has no levels");
        return Ok(());
    }
    let _stays = wisp.with_operator().await;
    let space = wisp.space("lesser")?;
    let image = space
        .push_component("hello", &component("fixture-p2"))
        .await?;
    space.apply(&pool("warm", 1, 1))?;
    let asleep = "  scaling: {idleTimeout: 5s}\n";
    space.apply(&Space::function("hello", &image, asleep))?;
    space.condition("hello", "Ready", "True")?;
    let revision = ["get", "fn", "hello", "--output=jsonpath={.status.revision}"];
    let first = space.kubectl(&revision)?;
    stands_by(&space, "warm", 1)?;
    let deployment = of_pool(&space)?;
    space.kubectl(&["set", "env", &deployment, "WISP_CPU_LEVEL=x86-64-v2"])?;
    is_given_code(&space, &deployment, "x86-64-v2").await?;
    let last = space.kubectl(&revision)?;
    ensure!(first == last, "{first}, then {last}");
    Ok(())
}

/// The Deployment of the pool `warm`.
fn of_pool(space: &Space) -> Result<String> {
    space.wait("the pool's Deployment", &["deployments"], |all| {
        let mut names = all.keys().filter(|name| name.contains("warm"));
        names.next().map(|name| format!("deployment/{name}"))
    })
}

/// Waits until the pool `warm`, whose `deployment` was changed, has pods that `show` so, and then until one that the function
/// `hello` is woken in needs not compile it.
async fn is_given_code(space: &Space, deployment: &str, show: &str) -> Result<()> {
    let patience = format!("--timeout={}s", PATIENCE.as_secs());
    space.kubectl(&["rollout", "status", deployment, &patience])?;
    // The first pods may come before the operator knows.
    let began = Instant::now();
    loop {
        stands_by(space, "warm", 1)?;
        let answer = space.get("hello", "hello").await?;
        ensure!(answer.status == 200, "{answer:?}");
        let pod = space.wait("the function's pod", &["pods"], |pods| {
            let mut ours = pods
                .iter()
                .filter(|(_, pod)| text(pod, FUNCTION) == "hello");
            ours.next().map(|(name, pod)| (name.clone(), pod.clone()))
        })?;
        let (name, pod) = pod;
        let container = pod.pointer("/spec/containers/0").map(Value::to_string);
        let is_new = container.is_some_and(|shown| shown.contains(show));
        // Where one of the old was claimed and ended, the function has one of its own by now.
        let is_claimed = text(&pod, CLAIMED_FROM) == "warm";
        if is_claimed && is_new {
            let log = space.kubectl(&["logs", &name])?;
            ensure!(log.contains("ready after"), "{log}");
            if !log.contains("compiled here") {
                return Ok(());
            }
        }
        let is_late = began.elapsed() > PATIENCE;
        ensure!(
            !is_late,
            "no pod of the pool that shows {show} and compiles nothing: {pod}"
        );
        space.pods("hello", 0)?;
    }
}

/// Would fail if the operator of one family of processors made no machine code for nodes of another, or a pod there
/// didn't get it before its function is woken.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_family_gets_code_of_its_own() -> Result<()> {
    let (Some(wisp), Some(arm)) = (installed(), arm64()) else {
        return Ok(());
    };
    if wisp.cluster().name().is_none() {
        wisp_skip::skip("what a cluster elsewhere emulates isn't known");
        return Ok(());
    }
    let Some(emulated) = Emulated::start(wisp, &arm)? else {
        return Ok(());
    };
    let _stays = wisp.with_operator().await;
    let space = wisp.space("arm")?;
    let image = space
        .push_component("hello", &component("fixture-p2"))
        .await?;
    // qemu keeps account of every page that a host reserves.
    let resources =
        "  pod: {resources: {requests: {cpu: 100m, memory: 256Mi}, limits: {memory: 6Gi}}}\n";
    space.apply(&format!(
        "apiVersion: wisp.dev/v1alpha1\nkind: RuntimePool\nmetadata: {{name: warm}}\nspec:\n  minReplicas: 1\n  maxReplicas: 1\n{resources}"
    ))?;
    let asleep = "  scaling: {idleTimeout: 5s}\n";
    space.apply(&Space::function(
        "hello",
        &image,
        &format!("{asleep}{resources}"),
    ))?;
    space.condition("hello", "Ready", "True")?;
    stands_by(&space, "warm", 1)?;
    let deployment = of_pool(&space)?;
    let patch = serde_json::json!([
        {"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": emulated.image},
        // ONNX Runtime doesn't understand what this machine's sysfs says of the processor.
        {"op": "add", "path": "/spec/template/spec/containers/0/volumeMounts",
         "value": [{"name": "no-cpus", "mountPath": "/sys/devices/system/cpu"}]},
        {"op": "add", "path": "/spec/template/spec/volumes", "value": [{"name": "no-cpus", "emptyDir": {}}]},
    ])
    .to_string();
    space.kubectl(&["patch", &deployment, "--type=json", "--patch", &patch])?;
    is_given_code(&space, &deployment, &emulated.image).await
}

/// Kills the host of a function, over and over. Would fail if a client were answered by one that came back without its
/// function, lost what it sent, or weren't served by another pod.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_finds_another_pod_where_a_host_died() -> Result<()> {
    const KILLS: usize = 4;
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let _stays = wisp.with_operator().await;
    let space = wisp.space("dies")?;
    let image = space
        .push_component("hello", &component("fixture-p2"))
        .await?;
    space.apply(&pool("warm", 2, 2))?;
    let rest = "  scaling: {idleTimeout: 5m}\n";
    space.apply(&Space::function("hello", &image, rest))?;
    space.condition("hello", "Ready", "True")?;
    stands_by(&space, "warm", 2)?;
    let path = space.path("hello", "echo");
    let mut killed = BTreeSet::new();
    for round in 0..=KILLS {
        let sent = format!("round {round}");
        // The first wakes it; the others come when the pod of the one before has just died.
        let answer = space.client().post(&path, sent.clone()).await?;
        ensure!(
            answer.status == 200 && answer.text() == sent,
            "{sent}: {answer:?}"
        );
        if round == KILLS {
            break;
        }
        stands_by(&space, "warm", 2)?;
        let selector = ["pods", "--selector=wisp.dev/function=hello"];
        let pod = space.wait("the pod that serves", &selector, |pods| {
            let serves = |pod: &&Value| {
                // One that died isn't marked as such at once.
                !killed.contains(text(pod, "/metadata/uid"))
                    && pod.pointer("/metadata/deletionTimestamp").is_none()
            };
            pods.values().find(serves).cloned()
        })?;
        // Its Deployment may have been faster than the pool. Such a pod comes back with its function.
        if round > 0 && text(&pod, CLAIMED_FROM) != "warm" {
            break;
        }
        ensure!(text(&pod, CLAIMED_FROM) == "warm", "{pod}");
        if !kill_host(&pod)? {
            ensure!(round == 0, "no process of {pod}");
            wisp_skip::skip("the cluster's processes are another machine's");
            return Ok(());
        }
        killed.insert(text(&pod, "/metadata/uid").to_owned());
    }
    Ok(())
}
