//! Does a cluster fail and recover as a real one, and does it leave nothing behind? Each test has clusters of its own;
//! they take turns, because the machine is compared before and after.

mod common;

use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard};

use anyhow::{Context, Result, ensure};
use common::{
    PATIENCE, deployment, driver, eventually, get, octet, programs_running, snapshot, testserver,
    wait_pods,
};
use wisp_cluster::Cluster;

fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Would fail if a node were not really separate: its death must be noticed by others, and only by its silence.
#[test]
fn a_killed_node_becomes_not_ready_and_its_pods_move() -> Result<()> {
    let _turn = turn();
    let Some(cluster) = Cluster::own("t-kill", 2) else {
        return Ok(());
    };
    let namespace = cluster.namespace("kill")?;
    namespace.apply(&deployment("web", &testserver(&cluster)?, 2))?;
    let before = wait_pods(&namespace, "web", 2)?;
    ensure!(
        before[0].1 != before[1].1,
        "both pods are on one node: {before:?}"
    );

    cluster.drive(&["kill-node", "2"])?;
    let ready = |objects: &wisp_cluster::Objects, node: &str| {
        let conditions = objects
            .get(node)?
            .pointer("/status/conditions")?
            .as_array()?
            .clone();
        let condition = conditions
            .into_iter()
            .find(|condition| condition["type"] == "Ready")?;
        condition["status"].as_str().map(str::to_owned)
    };
    cluster.wait("node2 to be not ready", &["nodes"], PATIENCE, |nodes| {
        (ready(nodes, "node2")? == "Unknown" && ready(nodes, "node1")? == "True").then_some(())
    })?;
    namespace.wait(
        "both pods on node1",
        &["pods", "--selector=app=web"],
        PATIENCE,
        |objects| {
            let pods = common::ready_pods(objects);
            (pods.len() == 2 && pods.iter().all(|(_, node)| node == "node1")).then_some(())
        },
    )?;
    let service = namespace.kubectl(&[
        "get",
        "service",
        "web",
        "--output=jsonpath={.spec.clusterIP}",
    ])?;
    eventually("the service", || get(&format!("{service}:80"), "/"))?;

    cluster.drive(&["start-node", "2"])?;
    namespace.kubectl(&["scale", "deployment/web", "--replicas=4"])?;
    let after = wait_pods(&namespace, "web", 4)?;
    ensure!(
        after.iter().any(|(_, node)| node == "node2"),
        "nothing runs on node2 again: {after:?}"
    );
    for (address, _) in after {
        get(&format!("{address}:8080"), "/")?;
    }
    Ok(())
}

/// Would fail if the API server's data or the pods depended on its process.
#[test]
fn a_restart_of_the_api_server_loses_nothing() -> Result<()> {
    let _turn = turn();
    let Some(cluster) = Cluster::own("t-restart", 1) else {
        return Ok(());
    };
    let namespace = cluster.namespace("restart")?;
    namespace.apply(&deployment("web", &testserver(&cluster)?, 1))?;
    let (address, _) = wait_pods(&namespace, "web", 1)?.remove(0);
    namespace.kubectl(&["create", "configmap", "kept", "--from-literal=key=value"])?;
    let identity = [
        "get",
        "pods",
        "--selector=app=web",
        "--output=jsonpath={.items[*].metadata.uid} {.items[*].status.containerStatuses[*].containerID}",
    ];
    let pods = namespace.kubectl(&identity)?;
    for arguments in [
        &["restart", "apiserver", "--hard"][..],
        &["restart", "apiserver"],
        &["restart", "etcd", "--hard"],
    ] {
        cluster.drive(arguments)?;
        assert_eq!(
            namespace.kubectl(&["get", "configmap", "kept", "--output=jsonpath={.data.key}"])?,
            "value"
        );
        assert_eq!(namespace.kubectl(&identity)?, pods);
        get(&format!("{address}:8080"), "/")?;
    }
    // And it goes on working: controllers, scheduler and kubelet found it again.
    namespace.kubectl(&["scale", "deployment/web", "--replicas=2"])?;
    wait_pods(&namespace, "web", 2)?;
    Ok(())
}

/// Would fail if two clusters shared an address, a cgroup, a link or a file.
#[test]
fn a_second_cluster_stands_beside_the_first() -> Result<()> {
    let _turn = turn();
    let Some(left) = Cluster::own("t-left", 1) else {
        return Ok(());
    };
    let Some(right) = Cluster::own("t-right", 1) else {
        return Ok(());
    };
    ensure!(
        left.registry()? != right.registry()?,
        "both have {}",
        left.registry()?
    );
    let run = |cluster: &Cluster| -> Result<(String, String)> {
        let namespace = cluster.namespace("beside")?;
        namespace.apply(&deployment("web", &testserver(cluster)?, 1))?;
        let (address, _) = wait_pods(&namespace, "web", 1)?.remove(0);
        get(&format!("{address}:8080"), "/")?;
        Ok((namespace.name().to_owned(), address))
    };
    let (left_name, _) = run(&left)?;
    let right_space = right.namespace("beside")?;
    right_space.apply(&deployment("web", &testserver(&right)?, 1))?;
    let (address, _) = wait_pods(&right_space, "web", 1)?.remove(0);
    assert!(right.kubectl(&["get", "namespace", &left_name]).is_err());
    drop(left);
    get(&format!("{address}:8080"), "/")?;
    right_space.kubectl(&["scale", "deployment/web", "--replicas=2"])?;
    wait_pods(&right_space, "web", 2)?;
    Ok(())
}

/// Would fail if anything of a cluster that ran pods, volumes and services stayed on the machine.
#[test]
fn down_leaves_the_machine_as_it_was() -> Result<()> {
    let _turn = turn();
    driver(&["down", "--name=test"])?;
    let before = snapshot()?;
    let running = programs_running()?;
    let Some(cluster) = Cluster::own("t-trace", 2) else {
        return Ok(());
    };
    {
        let namespace = cluster.namespace("trace")?;
        namespace.apply(&deployment("web", &testserver(&cluster)?, 4))?;
        wait_pods(&namespace, "web", 4)?;
    }
    let network = format!("10.{}.", octet(&cluster)?);
    let during = snapshot()?;
    // The comparison sees what there is to see.
    ensure!(
        during
            .iter()
            .any(|line| line.starts_with("route: ") && line.contains(&network)),
        "no route in {during:?}"
    );
    ensure!(
        during
            .iter()
            .any(|line| line.starts_with("cgroup: ") && line.contains("wisp-t-trace-node1"))
    );
    ensure!(programs_running()?.len() > running.len() + 10);
    drop(cluster);
    assert_eq!(programs_running()?, running);
    let after = snapshot()?;
    let left: Vec<&String> = after.iter().filter(|line| !before.contains(line)).collect();
    let gone: Vec<&String> = before.iter().filter(|line| !after.contains(line)).collect();
    assert!(
        left.is_empty() && gone.is_empty(),
        "left behind: {left:#?}\ngone: {gone:#?}"
    );
    Ok(())
}

/// Would fail if a driver that was killed in the middle left something that the next one does not find.
#[test]
fn what_a_killed_driver_left_is_cleaned_by_the_next() -> Result<()> {
    let _turn = turn();
    driver(&["down", "--name=test"])?;
    if driver(&["check"]).is_err() {
        // Says why it is skipped, or fails where CI asks for it.
        ensure!(Cluster::own("t-killed", 1).is_none());
        return Ok(());
    }
    let before = snapshot()?;
    let running = programs_running()?;
    let folder = wisp_cluster::cache()?.join("cluster/state/t-killed");
    // Killed when it has just reserved its place, when the control plane starts, and when the node does.
    for moment in ["state.json", "logs/apiserver.log", "logs/kubelet-node1.log"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_wisp-cluster"))
            .args(["up", "--name=t-killed", "--nodes=1"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        eventually(moment, || {
            ensure!(folder.join(moment).exists(), "{moment} is not there");
            Ok(())
        })?;
        child.kill()?;
        child.wait()?;
        let state = std::fs::read_to_string(folder.join("state.json"))
            .context("the driver wrote no record")?;
        ensure!(
            state.contains("\"ready\": false"),
            "the driver came to its end before it was killed"
        );
    }
    driver(&["up", "--name=t-killed", "--nodes=1"])?;
    let kubeconfig = folder.join("kubeconfig");
    let nodes = driver(&[
        "kubectl",
        "--name=t-killed",
        "--",
        "get",
        "nodes",
        "--output=name",
    ])?;
    assert_eq!(nodes.trim(), "node/node1", "with {}", kubeconfig.display());

    // Every process dies at once, as when the machine's memory ran out: nothing may leave in the meantime.
    let registry = driver(&["status", "--name=t-killed"])?;
    let second = registry
        .split("https://10.")
        .nth(1)
        .and_then(|rest| rest.split('.').next())
        .context("no address")?;
    let state: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("state.json"))?)?;
    for anchor in state["anchors"].as_object().context("no anchors")?.values() {
        let pid = anchor["outside"]["pid"].to_string();
        ensure!(Command::new("kill").args(["-9", &pid]).status()?.success());
    }
    eventually("the link to be gone", || {
        let output = Command::new("ip")
            .args(["route", "get", &format!("10.{second}.65.5")])
            .output()?;
        // The machine has a default route: without the one that refuses, this would leave by it.
        ensure!(!output.status.success(), "there is a route: {output:?}");
        Ok(())
    })?;
    driver(&["up", "--name=t-killed", "--nodes=1"])?;
    driver(&["down", "--name=t-killed"])?;
    assert_eq!(programs_running()?, running);
    let after = snapshot()?;
    let left: Vec<&String> = after.iter().filter(|line| !before.contains(line)).collect();
    assert!(left.is_empty(), "left behind: {left:#?}");
    Ok(())
}
