//! Does the cluster behave as Kubernetes does? Against the shared cluster, or the user's own where KUBECONFIG names one:
//! so nothing here takes a pod's address to mean anything on this machine, and what only a cluster of ours has is asked of
//! no other.

mod common;

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use common::{
    PATIENCE, deployment, eventually, get, pod, request, testserver, two_nodes, wait_pods,
};
use wisp_cluster::{Cluster, Namespace};

fn service_address(namespace: &Namespace<'_>, service: &str) -> Result<String> {
    namespace.kubectl(&[
        "get",
        "service",
        service,
        "--output=jsonpath={.spec.clusterIP}",
    ])
}

/// Would fail if nodes could not reach each other's pods, or Services and DNS were not wired.
#[test]
fn a_deployment_on_two_nodes_answers_through_its_service_and_dns() -> Result<()> {
    let Some(cluster) = Cluster::shared() else {
        return Ok(());
    };
    if two_nodes(cluster)?.is_none() {
        return Ok(());
    }
    let image = testserver(cluster)?;
    let namespace = cluster.namespace("service")?;
    namespace.apply(&deployment("web", &image, 2))?;
    namespace.apply(&deployment("client", &image, 1))?;
    let web = wait_pods(&namespace, "web", 2)?;
    wait_pods(&namespace, "client", 1)?;
    ensure!(web[0].1 != web[1].1, "both pods are on one node: {web:?}");

    let forward = namespace.forward("deployment/client", 8080)?;
    let client = forward.address().to_string();
    let name = format!("web.{}.svc.cluster.local", namespace.name());
    let found = eventually("DNS", || get(&client, &format!("/lookup?name={name}")))?;
    assert_eq!(found, service_address(&namespace, "web")?);
    // Each answer is a pod's name: both must come, asked by short name from another pod.
    let mut answers = BTreeSet::new();
    eventually("answers of both pods", || {
        answers.insert(get(&client, "/get?url=http://web/")?);
        ensure!(answers.len() == 2, "only {answers:?} answered");
        Ok(())
    })?;
    // And each pod by its own address, on whichever node.
    for (address, _) in web {
        let answer = get(&client, &format!("/get?url=http://{address}:8080/"))?;
        assert!(answers.contains(&answer), "{answer} is none of {answers:?}");
    }
    if cluster.name().is_some() {
        // What is of no cluster has no address, and says so at once.
        let error = get(&client, "/lookup?name=example.com.").unwrap_err();
        assert!(error.to_string().contains("no such host"), "{error}");
    }
    Ok(())
}

/// Would fail if kube-proxy did not open the port on every node.
#[test]
fn a_node_port_answers_on_every_node() -> Result<()> {
    let Some(cluster) = Cluster::shared() else {
        return Ok(());
    };
    let namespace = cluster.namespace("nodeport")?;
    namespace.apply(&deployment("web", &testserver(cluster)?, 1))?;
    namespace.wait_available("web", PATIENCE)?;
    let port = namespace.kubectl(&[
        "get",
        "service",
        "web",
        "--output=jsonpath={.spec.ports[0].nodePort}",
    ])?;
    let nodes = cluster.kubectl(&[
        "get",
        "nodes",
        "--output=jsonpath={.items[*].status.addresses[?(@.type=='InternalIP')].address}",
    ])?;
    ensure!(!nodes.trim().is_empty(), "no node has an address");
    let forward = namespace.forward("deployment/web", 8080)?;
    let inside = forward.address().to_string();
    for node in nodes.split_whitespace() {
        let url = format!("/get?url=http://{node}:{port}/");
        let answer = eventually("the node port, from a pod", || get(&inside, &url))?;
        assert!(answer.starts_with("web-"), "{answer}");
        if cluster.name().is_some() {
            let answer = eventually("the node port", || get(&format!("{node}:{port}"), "/"))?;
            assert!(answer.starts_with("web-"), "{answer}");
        }
    }
    Ok(())
}

/// Would fail if the API server could not speak to the kubelets.
#[test]
fn logs_exec_and_port_forward_reach_the_pod() -> Result<()> {
    let Some(cluster) = Cluster::shared() else {
        return Ok(());
    };
    let namespace = cluster.namespace("reach")?;
    namespace.apply(&deployment("web", &testserver(cluster)?, 1))?;
    namespace.wait_available("web", PATIENCE)?;
    let logs = namespace.kubectl(&["logs", "deployment/web"])?;
    assert!(logs.contains("listens on :8080"), "{logs}");
    let error = namespace
        .kubectl(&["exec", "deployment/web", "--", "/testserver", "nonsense"])
        .unwrap_err()
        .to_string();
    assert!(error.contains("nonsense"), "{error}");
    let forward = namespace.forward("service/web", 80)?;
    assert!(get(&forward.address().to_string(), "/")?.starts_with("web-"));
    Ok(())
}

/// Would fail if image volumes were off, or the nodes could not pull what was pushed.
#[test]
fn an_image_mounts_as_a_volume() -> Result<()> {
    let Some(cluster) = Cluster::shared() else {
        return Ok(());
    };
    let image = testserver(cluster)?;
    let namespace = cluster.namespace("image")?;
    namespace.apply(&pod(
        "reader",
        &image,
        "    volumeMounts: [{name: model, mountPath: /model, readOnly: true}]",
        &format!("  volumes: [{{name: model, image: {{reference: \"{image}\"}}}}]"),
    ))?;
    wait_pods(&namespace, "reader", 1)?;
    let forward = namespace.forward("pod/reader", 8080)?;
    let reader = forward.address().to_string();
    let program = std::fs::read(wisp_cluster::testserver()?)?;
    let text = String::from_utf8_lossy(&program);
    ensure!(
        get(&reader, "/file?path=/model/testserver")? == text.trim(),
        "the volume holds another program than the image"
    );
    let error = request(&reader, "PUT", "/file?path=/model/x", "x").unwrap_err();
    assert!(
        error.to_string().contains("read-only file system"),
        "{error}"
    );
    Ok(())
}

/// Would fail if nodes asked anyone but the cluster's registry for an image.
#[test]
fn a_loaded_image_is_pulled_by_its_usual_name() -> Result<()> {
    let Some(cluster) = Cluster::shared() else {
        return Ok(());
    };
    if cluster.name().is_none() {
        wisp_skip::skip("nothing is loaded into the user's own cluster");
        return Ok(());
    }
    let namespace = cluster.namespace("load")?;
    let archive = common::archive()?.display().to_string();
    // It goes by the name that it has, `testserver:test`, which is short for docker.io/library/testserver:test.
    cluster.drive(&["load", &archive])?;
    cluster.drive(&["load", &archive, "--as", "registry.example/team/server:7"])?;
    namespace.apply(&pod("short", "testserver:test", "", ""))?;
    namespace.apply(&pod("long", "registry.example/team/server:7", "", ""))?;
    wait_pods(&namespace, "short", 1)?;
    wait_pods(&namespace, "long", 1)?;
    Ok(())
}

/// Would fail if claims were not served, or a volume did not outlive its pod and follow it to another node.
#[test]
fn a_persistent_volume_outlives_its_pod() -> Result<()> {
    let Some(cluster) = Cluster::shared() else {
        return Ok(());
    };
    let image = testserver(cluster)?;
    let namespace = cluster.namespace("volume")?;
    namespace.apply(
        r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
"#,
    )?;
    let user = |name: &str, node: &str| {
        // Another's volumes may stay where they were made first.
        let place = match cluster.name() {
            Some(_) => format!("  nodeSelector: {{kubernetes.io/hostname: {node}}}\n"),
            None => String::new(),
        };
        let volumes =
            "  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]".to_owned();
        pod(
            name,
            &image,
            "    volumeMounts: [{name: data, mountPath: /data}]",
            &(place + &volumes),
        )
    };
    let ask = |name: &str, method: &str, body: &str| {
        wait_pods(&namespace, name, 1)?;
        let forward = namespace.forward(&format!("pod/{name}"), 8080)?;
        let address = forward.address().to_string();
        request(&address, method, "/file?path=/data/note", body)
    };
    namespace.apply(&user("first", "node1"))?;
    ask("first", "PUT", "kept")?;
    namespace.kubectl(&["delete", "pod", "first", "--now"])?;
    namespace.apply(&user("second", "node2"))?;
    assert_eq!(ask("second", "GET", "")?, "kept");
    let volume = namespace.kubectl(&[
        "get",
        "persistentvolumeclaim",
        "data",
        "--output=jsonpath={.spec.volumeName}",
    ])?;
    namespace.kubectl(&[
        "delete",
        "pod/second",
        "persistentvolumeclaim/data",
        "--now",
    ])?;
    cluster.wait(
        "the volume to go with its claim",
        &["persistentvolumes"],
        PATIENCE,
        |volumes| (!volumes.contains_key(&volume)).then_some(()),
    )
}
