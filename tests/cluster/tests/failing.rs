//! Does a test that fails learn why? Against the shared cluster, or the user's own where KUBECONFIG names one.

mod common;

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use common::{PATIENCE, pod};
use wisp_cluster::Cluster;

/// Would fail if a wait gave up without a word about what it waited for, saw last, and what happened last.
#[test]
fn a_wait_that_gives_up_says_what_it_saw() -> Result<()> {
    let Some(cluster) = Cluster::shared() else {
        return Ok(());
    };
    let namespace = cluster.namespace("waits")?;
    namespace.apply(&pod("lost", "registry.invalid/nobody/nothing:1", "", ""))?;
    namespace.wait("an event of the pull", &["events"], PATIENCE, |events| {
        let failed = events.values().any(|event| event["reason"] == "Failed");
        failed.then_some(())
    })?;
    let limit = Duration::from_millis(1);
    let never = |_: &wisp_cluster::Objects| None::<()>;
    let error = namespace
        .wait("a pod that runs", &["pods"], limit, never)
        .unwrap_err()
        .to_string();
    for part in [
        "a pod that runs",
        "lost: ",
        "Ready=False ContainersNotReady",
        "Failed",
        "registry.invalid",
    ] {
        ensure!(error.contains(part), "no {part:?} in:\n{error}");
    }
    Ok(())
}

/// Would fail if the traces of a failed test went with its namespace.
#[test]
fn what_a_failed_test_leaves_is_kept() -> Result<()> {
    let Some(cluster) = Cluster::shared() else {
        return Ok(());
    };
    let namespace = cluster.namespace("kept")?;
    let name = namespace.name().to_owned();
    namespace.kubectl(&["create", "configmap", "trace", "--from-literal=key=value"])?;
    let failing = thread::spawn(move || {
        let _namespace = namespace;
        panic!("on purpose, to see what is kept");
    });
    ensure!(failing.join().is_err());
    let folder = wisp_cluster::repository()
        .join("target/cluster-failures")
        .join(&name);
    let objects = std::fs::read_to_string(folder.join("objects.yaml"))?;
    ensure!(objects.contains("name: trace"), "{objects}");
    for file in ["pods.txt", "events.txt"] {
        ensure!(folder.join(file).exists(), "{file} is not kept");
    }
    if cluster.name().is_some() {
        for component in ["apiserver", "etcd", "kubelet-node1", "containerd-node2"] {
            let log = folder.join("components").join(format!("{component}.log"));
            ensure!(
                std::fs::metadata(&log)?.len() > 0,
                "{component} said nothing"
            );
        }
    }
    cluster.wait(
        "the namespace to go",
        &["namespaces"],
        PATIENCE,
        |namespaces| (!namespaces.contains_key(&name)).then_some(()),
    )?;
    std::fs::remove_dir_all(folder)?;
    Ok(())
}
