//! What the cluster's own tests share.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod machine;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use wisp_cluster::{Cluster, Namespace, images};

/// Longer than anything takes on an idle machine; on a busy one, patience costs nothing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// The test server's image, pushed to the cluster's registry.
pub(crate) fn testserver(cluster: &Cluster) -> Result<String> {
    cluster.push(&image()?)
}

/// The test server's image as an archive.
pub(crate) fn archive() -> Result<PathBuf> {
    Ok(image()?.archive)
}

fn image() -> Result<images::Image> {
    static IMAGE: Mutex<Option<images::Image>> = Mutex::new(None);
    let mut image = IMAGE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(image) = &*image {
        return Ok(image.clone());
    }
    let source = wisp_cluster::repository().join("tests/cluster/images/testserver");
    let programs = images::Programs::default().with("testserver", wisp_cluster::testserver()?);
    let output = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let built = images::build(&source, &programs, "test", output)?;
    Ok(image.insert(built).clone())
}

/// A Deployment of the test server and a Service of the same name in front of it, as restricted namespaces want it.
pub(crate) fn deployment(name: &str, image: &str, replicas: u32) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
      - {{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {{matchLabels: {{app: {name}}}}}}}
      securityContext: {{runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}
      containers:
      - name: server
        image: {image}
        ports: [{{containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 1}}
        securityContext: {{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {{drop: [ALL]}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  type: NodePort
  selector: {{app: {name}}}
  ports: [{{port: 80, targetPort: 8080}}]
"#
    )
}

/// A restricted pod of the test server with more in its container and its spec.
pub(crate) fn pod(name: &str, image: &str, container: &str, spec: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {{runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
  - name: server
    image: {image}
    readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 1}}
    securityContext: {{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {{drop: [ALL]}}}}
{container}
{spec}
"#
    )
}

/// The address and the node of each pod that is Ready and stays, for a label.
pub(crate) fn ready_pods(objects: &wisp_cluster::Objects) -> Vec<(String, String)> {
    let text = |object: &serde_json::Value, path: &str| {
        object
            .pointer(path)
            .and_then(serde_json::Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    objects
        .values()
        .filter(|pod| pod.pointer("/metadata/deletionTimestamp").is_none())
        .filter(|pod| {
            pod.pointer("/status/conditions")
                .and_then(serde_json::Value::as_array)
                .is_some_and(|conditions| {
                    conditions.iter().any(|condition| {
                        condition["type"] == "Ready" && condition["status"] == "True"
                    })
                })
        })
        .map(|pod| (text(pod, "/status/podIP"), text(pod, "/spec/nodeName")))
        .collect()
}

/// Waits for so many Ready pods with the label `app=NAME`.
pub(crate) fn wait_pods(
    namespace: &Namespace<'_>,
    app: &str,
    count: usize,
) -> Result<Vec<(String, String)>> {
    let selector = format!("app={app}");
    namespace.wait(
        &format!("{count} ready pods of {app}"),
        &["pods", "--selector", &selector],
        PATIENCE,
        |objects| {
            let pods = ready_pods(objects);
            (pods.len() == count).then_some(pods)
        },
    )
}

/// The body that `address` answers `GET PATH` with; an error if the status is not 200.
pub(crate) fn get(address: &str, path: &str) -> Result<String> {
    request(address, "GET", path, "")
}

/// See [`get`].
pub(crate) fn request(address: &str, method: &str, path: &str, body: &str) -> Result<String> {
    let limit = Duration::from_secs(10);
    let mut stream = TcpStream::connect_timeout(&address.parse()?, limit)?;
    stream.set_read_timeout(Some(limit))?;
    // Of this version, because it knows no chunks.
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nhost: test\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = Vec::new();
    // A forwarded connection may end in a reset, after the whole answer.
    if let Err(error) = stream.read_to_end(&mut answer)
        && answer.is_empty()
    {
        return Err(error.into());
    }
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    ensure!(
        head.starts_with("HTTP/1.0 200 "),
        "{method} {path}: {} {body}",
        head.lines().next().unwrap_or_default()
    );
    Ok(body.trim().to_owned())
}

/// Tries until it works: what kube-proxy and DNS make of a change is true a moment after the API server says so.
pub(crate) fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(found) => return Ok(found),
            Err(error) if Instant::now() > end => {
                return Err(error.context(format!("waited {PATIENCE:?} for {what}")));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// The driver, as a program.
pub(crate) fn driver(arguments: &[&str]) -> Result<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_wisp-cluster"))
        .args(arguments)
        .output()?;
    if !output.status.success() {
        bail!(
            "wisp-cluster {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The names of the nodes.
pub(crate) fn nodes(cluster: &Cluster) -> Result<Vec<String>> {
    let names = cluster.kubectl(&[
        "get",
        "nodes",
        "--output=jsonpath={.items[*].metadata.name}",
    ])?;
    Ok(names.split_whitespace().map(str::to_owned).collect())
}

/// Two nodes, where the cluster has them; it says so where not.
pub(crate) fn two_nodes(cluster: &Cluster) -> Result<Option<[String; 2]>> {
    let names = nodes(cluster)?;
    match names.as_slice() {
        [first, second, ..] => Ok(Some([first.clone(), second.clone()])),
        _ => {
            ensure!(
                cluster.name().is_none(),
                "our own has only the nodes {names:?}"
            );
            wisp_skip::skip("the cluster has one node");
            Ok(None)
        }
    }
}
