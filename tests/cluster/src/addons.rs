//! What runs in every cluster beside Kubernetes itself? DNS, a storage class, and the image that pods start with.

use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::control::PATIENCE;
use crate::images::{Builder, Platform};
use crate::kubectl::Kubectl;
use crate::layout::Layout;
use crate::programs::Programs;
use crate::{files, machine};

/// The image of every pod's sandbox: a static init process, and nothing else. CoreDNS runs in it, from the cache folder.
pub(crate) const BASE_IMAGE: &str = "wisp.test/base:1";

/// The archive of [`BASE_IMAGE`], built once.
pub(crate) fn base_image() -> Result<PathBuf> {
    let archive = files::cache()?.join("cluster/base-1.tar");
    if !archive.exists() {
        eprintln!("building the image that pods start with");
        let context = tempfile::tempdir()?;
        fs::copy(machine::catatonit()?, context.path().join("catatonit"))?;
        fs::write(
            context.path().join("Dockerfile"),
            "FROM scratch\nCOPY catatonit /catatonit\nUSER 65535:65535\nENTRYPOINT [\"/catatonit\", \"-P\"]\n",
        )?;
        let contexts = [(Platform::HERE, context.path())];
        Builder::new()?.build(&contexts, BASE_IMAGE, &archive)?;
    }
    Ok(archive)
}

/// The manifests of what runs in every cluster.
pub(crate) fn apply(programs: &Programs, layout: &Layout, kubectl: &Kubectl) -> Result<()> {
    let binary = programs
        .coredns
        .parent()
        .context("a program lies in a folder")?;
    let manifests = include_str!("../manifests/addons.yaml")
        .replace("$DNS_ADDRESS", &layout.dns())
        .replace("$COREDNS_FOLDER", &binary.to_string_lossy())
        .replace("$BASE_IMAGE", BASE_IMAGE)
        .replace("$REPLICAS", if layout.nodes > 1 { "2" } else { "1" })
        .replace("$REGISTRY", &layout.registry());
    // A ready API server makes kube-system itself, a moment later.
    let end = Instant::now() + PATIENCE;
    loop {
        match kubectl.apply_unchecked(&manifests) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > end => {
                return Err(error.context("cannot apply the cluster's addons"));
            }
            Err(_) => sleep(Duration::from_millis(100)),
        }
    }
}
