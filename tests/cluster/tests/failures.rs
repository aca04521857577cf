//! Does a cluster fail and recover as a real one, and does it leave nothing behind? Each test has clusters of its own;
//! they take turns, because two at a time are enough for a small machine.

mod common;

use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Result, ensure};
use common::machine::{Record, ensure_same, snapshot};
use common::{PATIENCE, deployment, driver, eventually, get, testserver, wait_pods};
use wisp_cluster::{Cluster, Lease};

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
    let left_space = left.namespace("beside")?;
    let right_space = right.namespace("beside")?;
    let mut pods = Vec::new();
    for (cluster, space) in [(&left, &left_space), (&right, &right_space)] {
        space.apply(&deployment("web", &testserver(cluster)?, 1))?;
        let (address, _) = wait_pods(space, "web", 1)?.remove(0);
        get(&format!("{address}:8080"), "/")?;
        pods.push(address);
    }
    let theirs = ["get", "namespace", left_space.name()];
    assert!(right.kubectl(&theirs).is_err());
    drop(left_space);
    drop(left);
    get(&format!("{}:8080", pods[1]), "/")?;
    right_space.kubectl(&["scale", "deployment/web", "--replicas=2"])?;
    wait_pods(&right_space, "web", 2)?;
    Ok(())
}

/// Would fail if anything of a cluster that ran pods, volumes and services stayed on the machine.
#[test]
fn down_leaves_the_machine_as_it_was() -> Result<()> {
    let _turn = turn();
    let name = format!("t-trace-{}", std::process::id());
    let before = snapshot(&name)?;
    let Some(cluster) = Cluster::own("t-trace", 2) else {
        return Ok(());
    };
    assert_eq!(cluster.name(), Some(name.as_str()));
    {
        let namespace = cluster.namespace("trace")?;
        namespace.apply(&deployment("web", &testserver(&cluster)?, 4))?;
        wait_pods(&namespace, "web", 4)?;
    }
    let record = Record::read(&name)?;
    // The comparison sees what there is to see.
    let during = snapshot(&name)?;
    for (kind, text) in [
        ("route: ", record.network()),
        ("link: ", record.link()),
        ("cgroup: ", record.cgroup()),
    ] {
        ensure!(
            during
                .iter()
                .any(|line| line.starts_with(kind) && line.contains(&text)),
            "no {kind}{text} in {during:#?}"
        );
    }
    // Four pods, each with a sandbox and a server, beside the components.
    ensure!(record.processes()?.len() > 20);
    drop(cluster);
    assert_eq!(record.processes()?, Vec::<String>::new());
    ensure_same(&before, &snapshot(&name)?)
}

/// Would fail if a driver that was killed in the middle left something that the next one does not find.
#[test]
fn what_a_killed_driver_left_is_cleaned_by_the_next() -> Result<()> {
    let _turn = turn();
    if driver(&["check"]).is_err() {
        // Says why it is skipped, or fails where CI asks for it.
        ensure!(Cluster::own("t-killed", 1).is_none());
        return Ok(());
    }
    let name = format!("t-killed-{}", std::process::id());
    let before = snapshot(&name)?;
    let lease = Lease::take(&name, Duration::ZERO)?;
    let named = format!("--name={name}");
    let folder = wisp_cluster::cache()?.join("cluster/state").join(&name);
    // Killed when it has just reserved its place, when the control plane starts, and when the node does.
    for moment in ["state.json", "logs/apiserver.log", "logs/kubelet-node1.log"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_wisp-cluster"))
            .args(["up", &named, "--nodes=1"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        eventually(moment, || {
            ensure!(folder.join(moment).exists(), "{moment} is not there");
            Ok(())
        })?;
        child.kill()?;
        child.wait()?;
        ensure!(
            !Record::read(&name)?.is_ready(),
            "the driver came to its end before it was killed"
        );
    }
    driver(&["up", &named, "--nodes=1"])?;
    let nodes = ["kubectl", &named, "--", "get", "nodes", "--output=name"];
    assert_eq!(driver(&nodes)?.trim(), "node/node1");

    // Every process dies at once, as when the machine's memory ran out: nothing may leave in the meantime.
    let record = Record::read(&name)?;
    for pid in record.anchors() {
        ensure!(Command::new("kill").args(["-9", &pid]).status()?.success());
    }
    let pod = format!("{}65.5", record.network());
    eventually("the link to be gone", || {
        let output = Command::new("ip").args(["route", "get", &pod]).output()?;
        // The machine has a default route: without the one that refuses, this would leave by it.
        ensure!(!output.status.success(), "there is a route: {output:?}");
        Ok(())
    })?;
    driver(&["up", &named, "--nodes=1"])?;
    driver(&["down", &named])?;
    drop(lease);
    ensure_same(&before, &snapshot(&name)?)
}

/// Would fail if a cluster outlived the tests that used it.
#[test]
fn a_cluster_goes_with_the_process_that_used_it() -> Result<()> {
    let _turn = turn();
    if driver(&["check"]).is_err() {
        ensure!(Cluster::own("t-lease", 1).is_none());
        return Ok(());
    }
    let name = format!("t-lease-{}", std::process::id());
    let before = snapshot(&name)?;
    let lease = Lease::take(&name, Duration::ZERO)?;
    driver(&["up", "--name", &name, "--nodes=1"])?;
    let record = Record::read(&name)?;
    // The kernel lets go of it when a process dies, however it does.
    drop(lease);
    eventually("the cluster to be gone", || {
        ensure!(Record::read(&name).is_err(), "its record is there");
        Ok(())
    })?;
    assert_eq!(record.processes()?, Vec::<String>::new());
    ensure_same(&before, &snapshot(&name)?)
}
