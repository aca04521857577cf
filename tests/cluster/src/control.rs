//! How is each part of the control plane started?

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::components::Component;
use crate::kubectl::Kubectl;
use crate::layout::{self, Layout};
use crate::namespace::{self, CLUSTER, OWN};
use crate::programs::Programs;
use crate::state::State;
use crate::{files, shell};

/// How long a wait may take for what is there within seconds on an idle machine, as the API server is after 3: a busy one is
/// no reason to fail.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
/// Seconds without a heartbeat after which a node counts as not ready.
const NODE_GRACE: &str = "12s";
/// Seconds that pods stay on a node that is not ready.
const EVICTION: &str = "5";

/// Writes keys, certificates and kubeconfigs.
pub(crate) fn write_keys(programs: &Programs, layout: &Layout) -> Result<()> {
    let folder = layout.folder()?;
    let keys = folder.join("pki");
    let mut command = Command::new(&programs.kube);
    command
        .arg("certs")
        .arg(format!("--dir={}", keys.display()));
    command
        .arg(format!("--name=wisp-{}", layout.name))
        .arg(format!("--server={}", layout.server()));
    command.arg(format!(
        "--server-ip={},{}",
        layout.control(),
        layout.kubernetes_service()
    ));
    for number in layout.numbers() {
        command
            .arg(format!("--node={}", layout::node(number)))
            .arg(format!("--node-ip={}", layout.node(number)));
    }
    shell::run(&mut command)?;
    fs::copy(keys.join("admin.kubeconfig"), folder.join("kubeconfig"))
        .context("cannot write the kubeconfig")?;
    Ok(())
}

/// Writes the registry's configuration.
pub(crate) fn write_configuration(layout: &Layout) -> Result<()> {
    let folder = layout.folder()?;
    files::write(
        &folder.join("registry.yaml"),
        &format!(
            "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\n\
             storage:\n  filesystem: {{rootdirectory: {OWN}/images}}\n  delete: {{enabled: true}}\n\
             http: {{addr: \"{}\"}}\n",
            layout.registry()
        ),
    )
}

/// Starts one component of the control plane.
pub(crate) fn start(programs: &Programs, state: &State, component: Component) -> Result<()> {
    let layout = &state.layout;
    let pki = |file: &str| format!("{CLUSTER}/pki/{file}");
    let (program, arguments): (PathBuf, Vec<String>) = match component {
        Component::Etcd => (
            programs.etcd.clone(),
            vec![
                format!("--data-dir={OWN}/etcd"),
                "--listen-client-urls=http://127.0.0.1:2379".into(),
                "--advertise-client-urls=http://127.0.0.1:2379".into(),
                "--listen-peer-urls=http://127.0.0.1:2380".into(),
                // The data outlives every process of the cluster, not the machine: nothing is lost without fsync.
                "--unsafe-no-fsync".into(),
                "--snapshot-count=5000".into(),
                "--log-level=warn".into(),
            ],
        ),
        Component::Registry => (
            programs.registry.clone(),
            vec!["serve".into(), format!("{CLUSTER}/registry.yaml")],
        ),
        Component::ApiServer => (
            programs.kube.clone(),
            vec![
                "kube-apiserver".into(),
                "--etcd-servers=http://127.0.0.1:2379".into(),
                format!("--advertise-address={}", layout.control()),
                "--secure-port=6443".into(),
                format!("--service-cluster-ip-range={}", layout.services()),
                format!("--tls-cert-file={}", pki("apiserver.crt")),
                format!("--tls-private-key-file={}", pki("apiserver.key")),
                format!("--client-ca-file={}", pki("ca.crt")),
                format!("--kubelet-client-certificate={}", pki("kubelet-client.crt")),
                format!("--kubelet-client-key={}", pki("kubelet-client.key")),
                format!("--kubelet-certificate-authority={}", pki("ca.crt")),
                "--kubelet-preferred-address-types=InternalIP".into(),
                format!(
                    "--requestheader-client-ca-file={}",
                    pki("front-proxy-ca.crt")
                ),
                "--requestheader-allowed-names=front-proxy-client".into(),
                "--requestheader-username-headers=X-Remote-User".into(),
                "--requestheader-group-headers=X-Remote-Group".into(),
                "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
                format!("--proxy-client-cert-file={}", pki("front-proxy-client.crt")),
                format!("--proxy-client-key-file={}", pki("front-proxy-client.key")),
                "--enable-aggregator-routing=true".into(),
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
                format!("--service-account-key-file={}", pki("service-account.key")),
                format!(
                    "--service-account-signing-key-file={}",
                    pki("service-account.key")
                ),
                "--authorization-mode=Node,RBAC".into(),
                "--enable-admission-plugins=NodeRestriction".into(),
                "--allow-privileged=true".into(),
                "--anonymous-auth=true".into(),
                "--profiling=false".into(),
                format!("--default-not-ready-toleration-seconds={EVICTION}"),
                format!("--default-unreachable-toleration-seconds={EVICTION}"),
                "--endpoint-reconciler-type=lease".into(),
                // Else it would wait a minute for its watchers to go by themselves.
                "--shutdown-watch-termination-grace-period=1s".into(),
            ],
        ),
        Component::ControllerManager => (
            programs.kube.clone(),
            vec![
                "kube-controller-manager".into(),
                format!("--kubeconfig={}", pki("controller-manager.kubeconfig")),
                format!(
                    "--authentication-kubeconfig={}",
                    pki("controller-manager.kubeconfig")
                ),
                format!(
                    "--authorization-kubeconfig={}",
                    pki("controller-manager.kubeconfig")
                ),
                "--bind-address=127.0.0.1".into(),
                "--leader-elect=false".into(),
                "--use-service-account-credentials=true".into(),
                // Each controller makes itself an account first: with the usual 20 requests a second, that takes 4 s.
                "--kube-api-qps=200".into(),
                "--kube-api-burst=400".into(),
                format!("--root-ca-file={}", pki("ca.crt")),
                format!(
                    "--service-account-private-key-file={}",
                    pki("service-account.key")
                ),
                format!("--cluster-signing-cert-file={}", pki("ca.crt")),
                format!("--cluster-signing-key-file={}", pki("ca.key")),
                // Each node's range follows from its number, so that routes stand before the node does.
                "--allocate-node-cidrs=false".into(),
                format!("--node-monitor-grace-period={NODE_GRACE}"),
                "--node-monitor-period=2s".into(),
                "--profiling=false".into(),
            ],
        ),
        Component::Scheduler => (
            programs.kube.clone(),
            vec![
                "kube-scheduler".into(),
                format!("--kubeconfig={}", pki("scheduler.kubeconfig")),
                format!(
                    "--authentication-kubeconfig={}",
                    pki("scheduler.kubeconfig")
                ),
                format!("--authorization-kubeconfig={}", pki("scheduler.kubeconfig")),
                "--bind-address=127.0.0.1".into(),
                "--leader-elect=false".into(),
                "--profiling=false".into(),
            ],
        ),
        Component::Provisioner => (
            programs.kube.clone(),
            vec![
                "provisioner".into(),
                format!("--kubeconfig={}", pki("provisioner.kubeconfig")),
                format!("--folder={CLUSTER}/volumes"),
            ],
        ),
        Component::Containerd(_) | Component::Kubelet(_) | Component::Proxy(_) => {
            bail!("{} belongs to a node", component.name())
        }
    };
    namespace::start(
        state,
        "control",
        &component.name(),
        &program,
        &arguments,
        &programs.path,
    )
}

/// The end of a component's log.
pub(crate) fn last_words(state: &State, component: Component) -> Result<String> {
    let log = layout::log(&state.layout.folder()?, &component.name());
    let log = fs::read_to_string(log).unwrap_or_default();
    let tail: Vec<&str> = log.lines().rev().take(15).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    Ok(tail.join("\n"))
}

/// Waits until the API server serves everything.
///
/// # Errors
/// When it is not ready after [`PATIENCE`]; the error holds the end of its log.
pub(crate) fn wait_ready(state: &State, kubectl: &Kubectl) -> Result<()> {
    let address: SocketAddr = format!("{}:6443", state.layout.control()).parse()?;
    let end = Instant::now() + PATIENCE;
    loop {
        // kubectl takes its time to start; so first see whether anybody listens at all.
        let mut last = String::new();
        if TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_ok() {
            match kubectl.run(["get", "--raw=/readyz", "--request-timeout=30s"]) {
                Ok(_) => return Ok(()),
                Err(error) => last = format!("{error:#}"),
            }
        }
        if Instant::now() > end {
            bail!(
                "the API server is not ready after {} s: {last}\n{}",
                PATIENCE.as_secs(),
                last_words(state, Component::ApiServer)?
            );
        }
        sleep(Duration::from_millis(30));
    }
}
