//! Does the cluster behave as Kubernetes does? Against the shared cluster, or the user's own where KUBECONFIG names one.

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use common::{PATIENCE, deployment, eventually, get, octet, pod, request, testserver, wait_pods};
use wisp_cluster::Cluster;

/// Would fail if nodes could not reach each other's pods, or Services and DNS were not wired.
#[test]
fn a_deployment_on_two_nodes_answers_through_its_service_and_dns() -> Result<()> {
    let Some(cluster) = Cluster::shared() else {
        return Ok(());
    };
    let image = testserver(cluster)?;
    let namespace = cluster.namespace("service")?;
    namespace.apply(&deployment("web", &image, 2))?;
    namespace.apply(&deployment("client", &image, 1))?;
    let web = wait_pods(&namespace, "web", 2)?;
    let client = wait_pods(&namespace, "client", 1)?.remove(0).0;
    ensure!(web[0].1 != web[1].1, "both pods are on one node: {web:?}");

    let name = format!("web.{}.svc.cluster.local", namespace.name());
    let address = namespace.kubectl(&[
        "get",
        "service",
        "web",
        "--output=jsonpath={.spec.clusterIP}",
    ])?;
    let found = eventually("DNS", || {
        get(&format!("{client}:8080"), &format!("/lookup?name={name}"))
    })?;
    assert_eq!(found, address);
    // Each answer is a pod's name: both must come, asked by short name from another pod.
    let mut answers = std::collections::BTreeSet::new();
    eventually("answers of both pods", || {
        answers.insert(get(&format!("{client}:8080"), "/get?url=http://web/")?);
        ensure!(answers.len() == 2, "only {answers:?} answered");
        Ok(())
    })?;
    // What is of no cluster has no address, and says so at once.
    let error = get(&format!("{client}:8080"), "/lookup?name=example.com.")
        .unwrap_err()
        .to_string();
    assert!(error.contains("no such host"), "{error}");
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
    ensure!(
        nodes.split_whitespace().count() >= 2,
        "only the nodes {nodes:?}"
    );
    for node in nodes.split_whitespace() {
        let answer = eventually("the node port", || get(&format!("{node}:{port}"), "/"))?;
        assert!(answer.starts_with("web-"), "{answer}");
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

    let mut forward = cluster
        .kubectl_command()
        .args([
            "--namespace",
            namespace.name(),
            "port-forward",
            "deployment/web",
            ":8080",
            "--address=127.0.0.1",
        ])
        .stdout(Stdio::piped())
        .spawn()?;
    let answer = (|| {
        let mut line = String::new();
        // Kept to the end: kubectl dies when nobody reads what it says.
        let mut output = BufReader::new(forward.stdout.take().context("no output")?);
        output.read_line(&mut line)?;
        // Forwarding from 127.0.0.1:40001 -> 8080
        let address = line
            .split_whitespace()
            .nth(2)
            .with_context(|| format!("it said {line:?}"))?;
        get(address, "/")
    })();
    forward.kill()?;
    forward.wait()?;
    assert!(answer?.starts_with("web-"));
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
        &format!("  volumes: [{{name: model, image: {{reference: {image}}}}}]"),
    ))?;
    let address = wait_pods(&namespace, "reader", 1)?.remove(0).0;
    let program = std::fs::read(wisp_cluster::testserver()?)?.len();
    let size = namespace.kubectl(&["get", "pod", "reader", "--output=jsonpath={.status.phase}"])?;
    assert_eq!(size, "Running");
    // Not text, so only its beginning is looked at: an ELF file of this size is there.
    ensure!(
        program > 100_000,
        "the test server has only {program} bytes"
    );
    let error = request(
        &format!("{address}:8080"),
        "PUT",
        "/file?path=/model/x",
        "x",
    )
    .unwrap_err()
    .to_string();
    assert!(error.contains("read-only file system"), "{error}");
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
        "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}}",
    )?;
    let user = |node: u8| {
        pod(
            &format!("user{node}"),
            &image,
            "    volumeMounts: [{name: data, mountPath: /data}]",
            &format!(
                "  nodeName: node{node}\n  volumes: [{{name: data, persistentVolumeClaim: {{claimName: data}}}}]"
            ),
        )
    };
    namespace.apply(&user(1))?;
    let first = wait_pods(&namespace, "user1", 1)?.remove(0).0;
    request(
        &format!("{first}:8080"),
        "PUT",
        "/file?path=/data/note",
        "kept",
    )?;
    namespace.kubectl(&["delete", "pod", "user1", "--now"])?;
    namespace.apply(&user(2))?;
    let second = wait_pods(&namespace, "user2", 1)?.remove(0).0;
    assert_eq!(
        get(&format!("{second}:8080"), "/file?path=/data/note")?,
        "kept"
    );
    let volume = namespace.kubectl(&[
        "get",
        "persistentvolumeclaim",
        "data",
        "--output=jsonpath={.spec.volumeName}",
    ])?;
    namespace.kubectl(&["delete", "pod/user2", "persistentvolumeclaim/data", "--now"])?;
    cluster.wait(
        "the volume to go with its claim",
        &["persistentvolumes"],
        PATIENCE,
        |volumes| (!volumes.contains_key(&volume)).then_some(()),
    )
}

/// Would fail if Pod Security were not enforced where a namespace asks for it.
#[test]
fn a_restricted_namespace_refuses_a_privileged_pod() -> Result<()> {
    let Some(cluster) = Cluster::shared() else {
        return Ok(());
    };
    let namespace = cluster.namespace("security")?;
    let wild = "{apiVersion: v1, kind: Pod, metadata: {name: wild}, spec: {hostNetwork: true, containers: [{name: c, image: x, securityContext: {privileged: true}}]}}";
    let error = namespace.apply(wild).unwrap_err().to_string();
    assert!(
        error.contains("violates PodSecurity \"restricted"),
        "{error}"
    );
    Ok(())
}

/// Would fail if RBAC or NodeRestriction were off.
#[test]
fn nobody_may_do_what_no_role_allows() -> Result<()> {
    let Some(cluster) = Cluster::shared() else {
        return Ok(());
    };
    let namespace = cluster.namespace("rights")?;
    let account = format!("system:serviceaccount:{}:default", namespace.name());
    let error = namespace
        .kubectl(&["get", "secrets", "--as", &account])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("cannot list resource \"secrets\""),
        "{error}"
    );
    // A node may label itself, but no other node; its group alone makes it a node.
    let label = |node: &str| {
        cluster.kubectl(&[
            "label",
            "node",
            node,
            "test.wisp=x",
            "--overwrite",
            "--as=system:node:node1",
            "--as-group=system:nodes",
            "--as-group=system:authenticated",
        ])
    };
    label("node1")?;
    let error = label("node2").unwrap_err().to_string();
    assert!(error.contains("only its own Node object"), "{error}");
    // What the authorizer lets pass, the admission plugin refuses: nobody else may be spoken for in a label of nodes.
    let error = cluster
        .kubectl(&[
            "label",
            "node",
            "node1",
            "node-restriction.kubernetes.io/x=y",
            "--as=system:node:node1",
            "--as-group=system:nodes",
            "--as-group=system:authenticated",
        ])
        .unwrap_err()
        .to_string();
    assert!(error.contains("is not allowed to modify labels"), "{error}");
    cluster.kubectl(&["label", "node", "node1", "test.wisp-"])?;
    Ok(())
}

/// Would fail if anything for a pod, a service or the outside could get out of the machine from inside the cluster, or
/// from the machine to an address of the cluster that nobody has.
#[test]
fn a_packet_to_an_address_without_a_pod_stays_on_the_machine() -> Result<()> {
    let Some(cluster) = Cluster::shared() else {
        return Ok(());
    };
    let Ok(octet) = octet(cluster) else {
        return Ok(());
    };
    let namespace = cluster.namespace("stay")?;
    namespace.apply(&deployment("web", &testserver(cluster)?, 1))?;
    let pod = wait_pods(&namespace, "web", 1)?.remove(0).0;

    let table = format!("wisp_test_{}", std::process::id());
    let link = format!("wisp{}", octet - 200);
    let chain = |name: &str, side: &str, test: &str| {
        format!(
            "add chain ip {table} {name} {{ type filter hook postrouting priority 0; }}\n\
             add rule ip {table} {name} ip {side} 10.{octet}.0.0/16 oifname {test} \"{link}\" counter\n"
        )
    };
    let rules = format!(
        "add table ip {table}\n{}{}{}",
        chain("stays", "daddr", "=="),
        chain("leaves", "daddr", "!="),
        chain("escapes", "saddr", "!=")
    );
    nft(&rules)?;
    let nobody = [
        format!("10.{octet}.65.250:80"), // the first node's pods
        format!("10.{octet}.90.1:80"),   // the pods of no node
        format!("10.{octet}.140.9:80"),  // a service that is none
        format!("10.{octet}.0.77:80"),   // a node that is none
        format!("10.{octet}.200.1:80"),  // nothing at all
    ];
    let checked = (|| -> Result<String> {
        for address in &nobody {
            let from_pod = get(&format!("{pod}:8080"), &format!("/dial?to={address}"));
            ensure!(from_pod.is_err(), "from the pod, {address} answers");
            let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
            // An error is right as well: some of these are refused at once.
            let _ = socket.send_to(b"x", address.as_str());
        }
        // Nor does a pod reach what lies outside; the machine has a route to every address.
        let outside = get(&format!("{pod}:8080"), "/dial?to=192.0.2.1:80");
        ensure!(outside.is_err(), "a pod reaches the outside");
        let output = Command::new("nft")
            .args(["list", "table", "ip", &table])
            .output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    })();
    nft(&format!("delete table ip {table}"))?;
    let counted = checked?;
    let packets = |chain: &str| -> Option<u64> {
        let after = counted.split(&format!("chain {chain}")).nth(1)?;
        after
            .split("packets ")
            .nth(1)?
            .split(' ')
            .next()?
            .parse()
            .ok()
    };
    assert_eq!(
        (packets("leaves"), packets("escapes")),
        (Some(0), Some(0)),
        "{counted}"
    );
    // The counter counts: what is for the cluster did pass its link.
    assert!(packets("stays").is_some_and(|count| count > 0), "{counted}");
    Ok(())
}

fn nft(rules: &str) -> Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()?;
    std::io::Write::write_all(
        &mut child.stdin.take().context("no input")?,
        rules.as_bytes(),
    )?;
    ensure!(child.wait()?.success(), "nft refuses {rules}");
    Ok(())
}
