//! What may nobody in the cluster do? Against the shared cluster, or the user's own where KUBECONFIG names one.

mod common;

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use common::machine::Record;
use common::{deployment, get, nodes, testserver, two_nodes, wait_pods};
use wisp_cluster::Cluster;

/// Would fail if Pod Security were not enforced where a namespace asks for it.
#[test]
fn a_restricted_namespace_refuses_a_privileged_pod() -> Result<()> {
    let Some(cluster) = Cluster::shared() else {
        return Ok(());
    };
    let namespace = cluster.namespace("security")?;
    let wild = r#"
apiVersion: v1
kind: Pod
metadata: {name: wild}
spec:
  hostNetwork: true
  containers: [{name: c, image: x, securityContext: {privileged: true}}]
"#;
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
    let names = nodes(cluster)?;
    let first = names.first().context("no nodes")?;
    let result = labels_itself_alone(cluster, first);
    // Also where it failed: others need the nodes as they were.
    let nodes = [
        "label",
        "nodes",
        "--all",
        "test.wisp-",
        "node-restriction.kubernetes.io/x-",
    ];
    cluster.kubectl(&nodes)?;
    result
}

/// Checks that `first` may label itself, but no other node, and not in the name of others.
fn labels_itself_alone(cluster: &Cluster, first: &str) -> Result<()> {
    let label = |node: &str, label: &str| {
        let user = format!("--as=system:node:{first}");
        let groups = ["--as-group=system:nodes", "--as-group=system:authenticated"];
        cluster.kubectl(&[
            "label",
            "node",
            node,
            label,
            "--overwrite",
            &user,
            groups[0],
            groups[1],
        ])
    };
    // Its group alone makes it a node.
    label(first, "test.wisp=x")?;
    let refused = |node: &str, name: &str, reason: &str| {
        let error = match label(node, name) {
            Ok(_) => bail!("{node} was given the label {name}"),
            Err(error) => error.to_string(),
        };
        ensure!(error.contains(reason), "{error}");
        Ok(())
    };
    if let Some([_, second]) = two_nodes(cluster)? {
        refused(&second, "test.wisp=x", "only its own Node object")?;
    }
    // What the authorizer lets pass, the admission plugin refuses: nobody else may be spoken for in a label of nodes.
    refused(
        first,
        "node-restriction.kubernetes.io/x=y",
        "is not allowed to modify labels",
    )
}

/// Would fail if anything for a pod, a service or the outside could get out of the machine from inside the cluster, or
/// from the machine to an address of the cluster that nobody has.
#[test]
fn a_packet_to_an_address_without_a_pod_stays_on_the_machine() -> Result<()> {
    let Some(cluster) = Cluster::shared() else {
        return Ok(());
    };
    let Some(name) = cluster.name() else {
        wisp_skip::skip("what the user's own cluster sends where is the user's business");
        return Ok(());
    };
    let record = Record::read(name)?;
    let (network, link) = (record.network(), record.link());
    let namespace = cluster.namespace("stay")?;
    namespace.apply(&deployment("web", &testserver(cluster)?, 1))?;
    let pod = wait_pods(&namespace, "web", 1)?.remove(0).0;

    let table = format!("wisp_test_{}", std::process::id());
    let chain = |name: &str, side: &str, links: &str| {
        format!(
            "add chain ip {table} {name} {{ type filter hook postrouting priority 0; }}\n\
             add rule ip {table} {name} ip {side} {network}0.0/16 oifname {links} counter\n"
        )
    };
    let within = format!("\"{link}\"");
    // By the loopback device the machine tells itself, after seconds, that a node doesn't answer.
    let elsewhere = format!("!= {{ \"{link}\", \"lo\" }}");
    let rules = format!(
        "add table ip {table}\n{}{}{}",
        chain("stays", "daddr", &within),
        chain("leaves", "daddr", &elsewhere),
        chain("escapes", "saddr", &elsewhere)
    );
    nft(&rules)?;
    let nobody = [
        format!("{network}65.250:80"), // the first node's pods
        format!("{network}90.1:80"),   // the pods of no node
        format!("{network}140.9:80"),  // a service that is none
        format!("{network}0.77:80"),   // a node that is none
        format!("{network}200.1:80"),  // nothing at all
    ];
    let checked = (|| -> Result<String> {
        for address in &nobody {
            cannot_dial(&pod, address)?;
            let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
            // An error is right as well: some of these are refused at once.
            let _ = socket.send_to(b"x", address.as_str());
        }
        // Nor does a pod reach what lies outside; the machine has a route to every address.
        cannot_dial(&pod, "192.0.2.1:80")?;
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

/// Checks that the server in `pod` tried to reach `address` and could not: it says so itself, so that a packet was sent.
fn cannot_dial(pod: &str, address: &str) -> Result<()> {
    match get(&format!("{pod}:8080"), &format!("/dial?to={address}")) {
        Ok(said) => bail!("from the pod, {address} answers: {said}"),
        Err(error) => {
            let said = format!("{error:#}");
            ensure!(
                said.contains(" 502 ") && said.contains(&format!("dial tcp {address}: ")),
                "the pod did not dial {address}: {said}"
            );
            Ok(())
        }
    }
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
