//! Which programs make a cluster, and are they built? Each Go module under `go/` is built once into the cache folder,
//! under a key of its sources, its go.sum and the Go version.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::{files, locks, shell};

mod module;

use module::{CONTAINERD, COREDNS, ETCD, HELM, KUBERNETES, Module, REGISTRY, RUNC, TESTSERVER};

/// What a cluster is made of; the largest first.
const CLUSTER: [&Module; 6] = [&KUBERNETES, &CONTAINERD, &ETCD, &REGISTRY, &RUNC, &COREDNS];

/// The built programs of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// Control plane, node agents, `certs` and `provisioner` in one.
    pub(crate) kube: PathBuf,
    pub(crate) kubectl: PathBuf,
    pub(crate) coredns: PathBuf,
    pub(crate) etcd: PathBuf,
    pub(crate) registry: PathBuf,
    pub(crate) containerd: PathBuf,
    pub(crate) ctr: PathBuf,
    /// The folders that containerd must find its shim and runc in.
    pub(crate) path: String,
}

/// Builds what is missing of a cluster's programs.
///
/// # Errors
/// When Go is missing or a build fails.
pub(crate) fn ensure() -> Result<Programs> {
    let folders = build_all(&CLUSTER)?;
    let [kubernetes, containerd, etcd, registry, runc, coredns] = folders.as_slice() else {
        bail!("{} folders for {} modules", folders.len(), CLUSTER.len());
    };
    Ok(Programs {
        kube: kubernetes.join("kube"),
        kubectl: kubernetes.join("kubectl"),
        coredns: coredns.join("coredns"),
        etcd: etcd.join("etcd"),
        registry: registry.join("registry"),
        containerd: containerd.join("containerd"),
        ctr: containerd.join("ctr"),
        path: format!(
            "{}:{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            containerd.display(),
            runc.display()
        ),
    })
}

/// The `kubectl` of the clusters' version, built when it is missing.
pub(crate) fn kubectl() -> Result<PathBuf> {
    one(&KUBERNETES, "kubectl")
}

/// Helm, built when it is missing.
///
/// # Errors
/// When it cannot be built.
pub fn helm() -> Result<PathBuf> {
    one(&HELM, "helm")
}

/// The static HTTP server that the cluster's own tests run in pods.
///
/// # Errors
/// When it cannot be built.
pub fn testserver() -> Result<PathBuf> {
    one(&TESTSERVER, "testserver")
}

/// distribution's image registry, for tests that need one without a cluster.
///
/// # Errors
/// When it cannot be built.
pub fn registry() -> Result<PathBuf> {
    one(&REGISTRY, "registry")
}

fn one(module: &Module, program: &str) -> Result<PathBuf> {
    let folders = build_all(&[module])?;
    Ok(folders.first().context("nothing was built")?.join(program))
}

fn build_all(modules: &[&Module]) -> Result<Vec<PathBuf>> {
    let version = shell::run(Command::new("go").args(["env", "GOVERSION"]).current_dir(files::here())).context(
        "the cluster's programs are built from their Go modules: install Go 1.26 or newer (https://go.dev/dl)",
    )?;
    let keyed: Vec<PathBuf> = modules
        .iter()
        .map(|module| module.output(version.trim()))
        .collect::<Result<_>>()?;
    if keyed.iter().all(|folder| folder.is_dir()) {
        return Ok(keyed);
    }
    ensure!(
        std::env::var("WISP_CLUSTER_BUILDS").as_deref() != Ok("never"),
        "the programs of {} are not built, and WISP_CLUSTER_BUILDS=never",
        modules
            .iter()
            .map(|module| module.title)
            .collect::<Vec<_>>()
            .join(", ")
    );
    let _lock = locks::build()?;
    let missing: Vec<_> = modules
        .iter()
        .zip(&keyed)
        .filter(|(_, folder)| !folder.is_dir())
        .collect();
    let start = Instant::now();
    for (number, (module, folder)) in missing.iter().enumerate() {
        eprintln!(
            "building {} ({} of {})",
            module.title,
            number + 1,
            missing.len()
        );
        module.build(folder)?;
    }
    if !missing.is_empty() {
        eprintln!("all built in {:.0} s", start.elapsed().as_secs_f32());
    }
    Ok(keyed)
}
