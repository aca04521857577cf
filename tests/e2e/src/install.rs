//! The installation: what `cargo xtask images` and `helm install` do.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Context, Result};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use wisp_cluster::images::{self, Programs};
use wisp_cluster::{Cluster, Forward, Namespace, repository};
use wisp_integration::{Client, binary};

use crate::collector::Collector;
use crate::detour::Detour;
use crate::guard::Guard;
use crate::signer::Signer;
use crate::space::{PATIENCE, Space};

/// Where wisp is installed.
pub const NAMESPACE: &str = "wisp-system";

/// wisp, installed on the tests' cluster.
pub struct Installation {
    cluster: &'static Cluster,
    gateway: SocketAddr,
    detour: Option<Detour>,
    guard: Option<Guard>,
    collector: Option<Collector>,
    operator: RwLock<()>,
    forward: Option<Forward>,
    signer: Signer,
}

/// wisp on the cluster that the tests share: installed when the first test asks. None where there is no cluster, as
/// [`Cluster::shared`] says.
///
/// # Panics
/// When it can't be installed.
#[expect(clippy::panic, reason = "a test without wisp has failed")]
pub fn installed() -> Option<&'static Installation> {
    // Also a failure is kept: each further test would wait for minutes until it failed once more.
    static INSTALLATION: OnceLock<Result<Installation, String>> = OnceLock::new();
    let cluster = Cluster::shared()?;
    let made = INSTALLATION.get_or_init(|| {
        Installation::of(cluster, binary, "debug").map_err(|error| format!("{error:#}"))
    });
    match made {
        Ok(installation) => Some(installation),
        Err(error) => panic!("wisp can't be installed: {error}"),
    }
}

impl Installation {
    /// Installs wisp on `cluster`, of the programs that `program` finds by their names. The operator tells what `log` lets
    /// through.
    ///
    /// # Errors
    /// When it can't be installed.
    pub fn of(
        cluster: &'static Cluster,
        program: impl Fn(&str) -> PathBuf,
        log: &str,
    ) -> Result<Self> {
        let (registry, tag) = push_images(cluster, program)?;
        // Pods of a cluster elsewhere may have no way to this machine.
        let detour = cluster.name().map(|_| Detour::new(&registry)).transpose()?;
        let guard = cluster.name().map(|_| Guard::new(&registry)).transpose()?;
        let collector = cluster
            .name()
            .map(|_| Collector::new(&registry))
            .transpose()?;
        let endpoint = collector.as_ref().map(Collector::endpoint);
        let plain: Vec<String> = std::iter::once(registry.clone())
            .chain(detour.as_ref().map(Detour::name))
            .chain(guard.as_ref().map(Guard::name))
            .collect();
        let signer = Signer::new()?;
        let values = tempfile::NamedTempFile::new()?;
        std::fs::write(values.path(), policy(&keep(cluster, &signer)?))?;
        let chart = repository().join("deploy/chart");
        let chart = chart.to_str().context("a path of UTF-8")?;
        let installed = cluster.helm(&[
            "upgrade",
            "--install",
            "wisp",
            chart,
            "--namespace",
            NAMESPACE,
            "--create-namespace",
            "--wait",
            "--timeout=5m",
            "--values",
            values.path().to_str().context("a path of UTF-8")?,
            // A digest's first digits may well be a number.
            "--set-string",
            // The image with CUDA has gigabytes, and there is no GPU.
            &format!(
                "image.registry={registry},image.tag={tag},image.cuda={registry}/wisp-runtime:{tag}"
            ),
            "--set",
            &format!(
                "operator.insecureRegistries={{{}}},operator.log={log}",
                plain.join(",")
            ),
            "--set",
            &format!("traces.endpoint={}", endpoint.unwrap_or_default()),
        ]);
        if let Err(error) = installed {
            let seen = cluster.kubectl(&["-n", NAMESPACE, "describe", "pods"]);
            let said = cluster.kubectl(&[
                "-n",
                NAMESPACE,
                "logs",
                "--selector=app.kubernetes.io/name=wisp",
                "--tail=20",
            ]);
            return Err(error.context(format!("{seen:?}\n{said:?}")));
        }
        let (gateway, forward) = gateway(cluster)?;
        Ok(Self {
            cluster,
            gateway,
            detour,
            guard,
            collector,
            operator: RwLock::const_new(()),
            forward,
            signer,
        })
    }

    /// Whose signatures it demands in namespaces that are called `signed-…`.
    #[must_use]
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> &'static Cluster {
        self.cluster
    }

    /// The pod that the operator's Service leads to, once that is one, and the right one by its name.
    ///
    /// # Errors
    /// When it takes too long.
    pub fn leader(&self, is: impl Fn(&str) -> bool) -> Result<Value> {
        let label = "--selector=wisp.dev/leader=true";
        let query = ["pods", "--namespace", NAMESPACE, label];
        self.cluster
            .wait("an operator that leads", &query, PATIENCE, |pods| {
                let (name, pod) = pods.iter().next().filter(|_| pods.len() == 1)?;
                is(name).then(|| pod.clone())
            })
    }

    /// The gateway's address, as this machine reaches it.
    #[must_use]
    pub fn gateway(&self) -> SocketAddr {
        self.gateway
    }

    /// Whether the gateways are reached by their Service, so that they may be replaced without anybody's noticing.
    #[must_use]
    pub fn is_routed(&self) -> bool {
        self.forward.is_none()
    }

    /// As long as this is held, the operator stays. For those who want every wake-up to succeed: a client isn't kept waiting
    /// for as long as a busy machine may take to start another operator.
    pub async fn with_operator(&self) -> RwLockReadGuard<'_, ()> {
        self.operator.read().await
    }

    /// As long as this is held, the operator may be ended.
    pub async fn without_operator(&self) -> RwLockWriteGuard<'_, ()> {
        self.operator.write().await
    }

    /// A way from the operator to the registry that can be closed; none on a cluster that isn't ours.
    #[must_use]
    pub fn detour(&self) -> Option<&Detour> {
        self.detour.as_ref()
    }

    /// A way to the registry that demands credentials; none on a cluster that isn't ours.
    #[must_use]
    pub fn guard(&self) -> Option<&Guard> {
        self.guard.as_ref()
    }

    /// Where its traces go; nowhere on a cluster that isn't ours.
    #[must_use]
    pub fn collector(&self) -> Option<&Collector> {
        self.collector.as_ref()
    }

    /// Speaks to the gateway.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(self.gateway)
    }

    /// A fresh namespace for a test's functions.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn space(&'static self, hint: &str) -> Result<Space> {
        let namespace: Namespace<'static> = self.cluster.namespace(hint)?;
        Ok(Space::new(self, namespace))
    }
}

/// Has a Secret with the public key, and gives its name, by which it is known from that of an earlier run.
fn keep(cluster: &Cluster, signer: &Signer) -> Result<String> {
    let found = cluster.kubectl(&["get", "namespace", NAMESPACE, "--ignore-not-found"])?;
    if found.trim().is_empty() {
        cluster.kubectl(&["create", "namespace", NAMESPACE])?;
    }
    let public = signer.public();
    let id: String = hex::encode(Sha256::digest(&public))
        .chars()
        .take(8)
        .collect();
    let name = format!("cosign-{id}");
    let key = format!("--from-literal=cosign.pub={public}");
    cluster.kubectl(&["-n", NAMESPACE, "create", "secret", "generic", &name, &key])?;
    Ok(name)
}

/// The chart's values by which all that functions of some namespaces name must be signed.
fn policy(secret: &str) -> String {
    let rule = serde_json::json!({
        "name": "tests",
        "images": [{"glob": "**"}],
        "namespaces": ["signed-*"],
        "authorities": [{"key": {"secretRef": {"name": secret}}}],
        "otherSources": "deny",
    });
    serde_json::json!({"signatures": {"rules": [rule]}}).to_string()
}

/// Builds the images of the programs, and pushes them under a tag that follows from what is in them. Gives registry and
/// tag.
fn push_images(cluster: &Cluster, program: impl Fn(&str) -> PathBuf) -> Result<(String, String)> {
    let folder = tempfile::tempdir()?;
    let programs = ["wisp-runtime", "wisp-operator", "wisp-gateway"]
        .into_iter()
        .fold(Programs::default(), |programs, name| {
            programs.with(name, program(name))
        });
    let mut built = Vec::new();
    let mut content = Sha256::new();
    for name in ["runtime", "operator", "gateway"] {
        let source = repository().join("deploy/images").join(name);
        let image = images::build(&source, &programs, "test", folder.path())?;
        content.update(&image.digest);
        built.push(image);
    }
    let tag: String = hex::encode(content.finalize()).chars().take(12).collect();
    let registry = cluster.registry()?.to_owned();
    for mut image in built {
        image.name = image.name.replace(":test", &format!(":{tag}"));
        cluster.push(&image)?;
    }
    Ok((registry, tag))
}

/// The gateway's Service by its own address where this machine has a route to it, else through `kubectl port-forward`.
fn gateway(cluster: &'static Cluster) -> Result<(SocketAddr, Option<Forward>)> {
    if cluster.name().is_some() {
        let address = cluster.kubectl(&[
            "-n",
            NAMESPACE,
            "get",
            "service",
            "wisp-gateway",
            "--output=jsonpath={.spec.clusterIP}",
        ])?;
        return Ok((format!("{address}:80").parse()?, None));
    }
    let forward = cluster.forward(NAMESPACE, "service/wisp-gateway", 80)?;
    Ok((forward.address(), Some(forward)))
}
