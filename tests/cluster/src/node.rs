//! How is a node started? containerd, kubelet and kube-proxy in the node's namespaces, with a cgroup of its own.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::components::Component;
use crate::layout::{self, Layout};
use crate::namespace::{self, CLUSTER, OWN};
use crate::programs::Programs;
use crate::state::State;
use crate::{addons, cgroups, files, shell};

/// containerd's socket, in the node's own /run.
const SOCKET: &str = "/run/containerd/containerd.sock";

/// Makes the node's cgroup and writes its configuration.
pub(crate) fn prepare(layout: &Layout, number: u8) -> Result<()> {
    cgroups::make(&layout.cgroup(number))?;
    let own = layout.folder()?.join(layout::node(number));
    // hosts.toml for `_default` answers for every registry's name: an image is pulled by its usual name, from here.
    files::write(
        &own.join("registries/_default/hosts.toml"),
        &format!(
            "server = \"http://{0}\"\n[host.\"http://{0}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
            layout.registry()
        ),
    )?;
    files::write(
        &own.join("cni/10-nodes.conflist"),
        &serde_json::to_string_pretty(&json!({
            "cniVersion": "1.0.0", "name": "pods",
            "plugins": [
                {
                    "type": "bridge", "bridge": "pods", "isGateway": true, "hairpinMode": true, "ipMasq": false,
                    "ipam": {
                        "type": "host-local", "dataDir": "/run/ipam",
                        "ranges": [[{"subnet": layout.node_pods(number)}]], "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": true}},
            ],
        }))?,
    )?;
    files::write(&own.join("containerd.toml"), &containerd())?;
    files::write(
        &own.join("kubelet.json"),
        &serde_json::to_string_pretty(&kubelet(layout, number))?,
    )?;
    files::write(
        &own.join("proxy.json"),
        &serde_json::to_string_pretty(&proxy(layout, number))?,
    )?;
    // No pod asks anybody outside; CoreDNS has no upstream either.
    files::write(
        &own.join("resolv.conf"),
        "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
    )?;
    fs::create_dir_all(own.join("pod-logs"))?;
    Ok(())
}

fn containerd() -> String {
    format!(
        r#"version = 3
root = "{OWN}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]

[plugins.'io.containerd.cri.v1.images']
snapshotter = "overlayfs"

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{pause}"

[plugins.'io.containerd.cri.v1.images'.registry]
config_path = "{OWN}/registries"

[plugins.'io.containerd.cri.v1.runtime']
# Where the machine lacks CAP_SYS_RESOURCE, no process may lower its score.
restrict_oom_score_adj = true

[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "{OWN}/cni"
"#,
        pause = addons::BASE_IMAGE,
    )
}

fn kubelet(layout: &Layout, number: u8) -> serde_json::Value {
    let node = layout::node(number);
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false}, "webhook": {"enabled": true},
            "x509": {"clientCAFile": format!("{CLUSTER}/pki/ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": format!("{CLUSTER}/pki/kubelet-serving-{node}.crt"),
        "tlsPrivateKeyFile": format!("{CLUSTER}/pki/kubelet-serving-{node}.key"),
        "cgroupDriver": "cgroupfs", "cgroupRoot": format!("/{}", layout.cgroup(number)), "failCgroupV1": false,
        "clusterDNS": [layout.dns()], "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
        "resolvConf": format!("{OWN}/resolv.conf"), "podLogsDir": format!("{OWN}/pod-logs"),
        "failSwapOn": false, "oomScoreAdj": 0, "serializeImagePulls": false,
        // The machine's disk is nobody's but its owner's business: it must not evict test pods.
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "0%", "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        "nodeStatusUpdateFrequency": "4s", "nodeLeaseDurationSeconds": 12,
        "shutdownGracePeriod": "0s", "enableDebuggingHandlers": true,
        "healthzPort": 0,
    })
}

fn proxy(layout: &Layout, number: u8) -> serde_json::Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "mode": "nftables", "clusterCIDR": layout.pods(), "hostnameOverride": layout::node(number),
        "clientConnection": {"kubeconfig": format!("{CLUSTER}/pki/proxy.kubeconfig")},
        "oomScoreAdj": 0,
        // The kernel's connection table is the machine's: it keeps its limits.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "metricsBindAddress": "127.0.0.1:10249",
    })
}

/// Starts one component of a node.
pub(crate) fn start(programs: &Programs, state: &State, component: Component) -> Result<()> {
    let part = component.part();
    let (program, arguments) = match component {
        Component::Containerd(_) => (
            &programs.containerd,
            vec![
                "--config".to_owned(),
                format!("{OWN}/containerd.toml"),
                "--log-level=warn".into(),
            ],
        ),
        Component::Kubelet(number) => (
            &programs.kube,
            vec![
                "kubelet".to_owned(),
                format!("--config={OWN}/kubelet.json"),
                format!("--kubeconfig={CLUSTER}/pki/kubelet-{part}.kubeconfig"),
                format!("--root-dir={OWN}/kubelet"),
                format!("--hostname-override={part}"),
                format!("--node-ip={}", state.layout.node(number)),
                format!("--node-labels=wisp.test/node={number}"),
            ],
        ),
        Component::Proxy(_) => (
            &programs.kube,
            vec![
                "kube-proxy".to_owned(),
                format!("--config={OWN}/proxy.json"),
            ],
        ),
        other => bail!("{} belongs to the control plane", other.name()),
    };
    namespace::start(
        state,
        &part,
        &component.name(),
        program,
        &arguments,
        &programs.path,
    )
}

/// Waits for containerd and gives it the image that every pod starts with.
pub(crate) fn import(programs: &Programs, state: &State, number: u8, image: &Path) -> Result<()> {
    let anchor = state
        .anchors
        .get(&layout::node(number))
        .context("the node does not run")?;
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let mut command = namespace::inside(anchor, &programs.ctr);
        command
            .args([
                "--address",
                SOCKET,
                "--namespace",
                "k8s.io",
                "images",
                "import",
            ])
            .arg(image);
        // `ctr` itself waits for the socket, but not for every plugin behind it.
        let error = match shell::run(&mut command) {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        if Instant::now() > end {
            return Err(error.context(format!("containerd of node{number} takes no image")));
        }
        sleep(Duration::from_millis(30));
    }
}
