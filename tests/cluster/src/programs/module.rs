//! What is built of which Go module, and how?

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::files;

/// A Go module of ours and the programs it builds.
pub(super) struct Module {
    folder: &'static str,
    /// What people know it as.
    pub(super) title: &'static str,
    /// Program and package.
    programs: &'static [(&'static str, &'static str)],
    tags: &'static str,
    /// Beside `-s -w`.
    ldflags: &'static str,
    cgo: bool,
}

pub(super) const KUBERNETES: Module = Module {
    folder: "kubernetes",
    title: "Kubernetes v1.36.3 (the largest: minutes)",
    programs: &[("kube", "./kube"), ("kubectl", "./kubectl")],
    tags: "",
    ldflags: "-X k8s.io/component-base/version.gitVersion=v1.36.3 -X k8s.io/component-base/version.gitMajor=1 \
              -X k8s.io/component-base/version.gitMinor=36 -X k8s.io/component-base/version.gitTreeState=clean",
    cgo: false,
};
pub(super) const ETCD: Module = Module {
    folder: "etcd",
    title: "etcd v3.6.6",
    programs: &[("etcd", "go.etcd.io/etcd/server/v3")],
    tags: "",
    ldflags: "",
    cgo: false,
};
pub(super) const CONTAINERD: Module = Module {
    folder: "containerd",
    title: "containerd v2.4.2",
    programs: &[
        (
            "containerd",
            "github.com/containerd/containerd/v2/cmd/containerd",
        ),
        (
            "containerd-shim-runc-v2",
            "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
        ),
        ("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
    ],
    tags: "no_btrfs,no_devmapper,no_zfs,no_aufs",
    ldflags: "",
    cgo: false,
};
pub(super) const RUNC: Module = Module {
    folder: "runc",
    title: "runc v1.4.3",
    programs: &[("runc", "github.com/opencontainers/runc")],
    tags: "seccomp,netgo,osusergo",
    ldflags: "-linkmode external -extldflags -static",
    cgo: true,
};
pub(super) const REGISTRY: Module = Module {
    folder: "registry",
    title: "distribution v3.1.2, the image registry",
    programs: &[(
        "registry",
        "github.com/distribution/distribution/v3/cmd/registry",
    )],
    tags: "",
    ldflags: "",
    cgo: false,
};
pub(super) const COREDNS: Module = Module {
    folder: "coredns",
    title: "CoreDNS v1.14.7",
    programs: &[("coredns", ".")],
    tags: "",
    ldflags: "",
    cgo: false,
};
pub(super) const HELM: Module = Module {
    folder: "helm",
    title: "Helm v4.3.1",
    programs: &[("helm", "helm.sh/helm/v4/cmd/helm")],
    tags: "",
    ldflags: "",
    cgo: false,
};
pub(super) const TESTSERVER: Module = Module {
    folder: "testserver",
    title: "the test server",
    programs: &[("testserver", ".")],
    tags: "",
    ldflags: "",
    cgo: false,
};

impl Module {
    fn source(&self) -> PathBuf {
        files::here().join("go").join(self.folder)
    }

    /// The folder that its programs belong in.
    pub(super) fn output(&self, go: &str) -> Result<PathBuf> {
        let mut hash = Sha256::new();
        hash.update(format!(
            "{go} {} {} {:?}",
            self.tags, self.ldflags, self.programs
        ));
        for path in sources(&self.source())? {
            let text =
                fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            hash.update(text.len().to_le_bytes());
            hash.update(text);
        }
        let key = hex::encode(hash.finalize());
        Ok(files::cache()?.join("cluster").join(format!(
            "{}-{}",
            self.folder,
            key.get(..16).unwrap_or(&key)
        )))
    }

    pub(super) fn build(&self, folder: &Path) -> Result<()> {
        let parent = folder.parent().context("an output folder has a parent")?;
        let fresh = tempfile::Builder::new()
            .prefix("building-")
            .tempdir_in(parent)?;
        let start = Instant::now();
        for (program, package) in self.programs {
            let log = fresh.path().join("log");
            let mut command = Command::new("go");
            command
                .current_dir(self.source())
                .args([
                    "build",
                    "-trimpath",
                    "-buildvcs=false",
                    "-mod=readonly",
                    "-tags",
                    self.tags,
                    "-ldflags",
                ])
                .arg(format!("-s -w {}", self.ldflags).trim())
                .arg("-o")
                .arg(fresh.path().join(program))
                .env("CGO_ENABLED", if self.cgo { "1" } else { "0" })
                .env_remove("GOOS")
                .env_remove("GOARCH")
                .stdin(Stdio::null())
                .stderr(fs::File::create(&log)?);
            if let Ok(jobs) = std::env::var("WISP_GO_JOBS") {
                command.args(["-p", &jobs]);
            }
            let mut child = command.arg(package).spawn().context("cannot start go")?;
            let mut told = Instant::now();
            let status = loop {
                if let Some(status) = child.try_wait()? {
                    break status;
                }
                if told.elapsed() > Duration::from_secs(15) {
                    told = Instant::now();
                    eprintln!("  {program}: {:.0} s", start.elapsed().as_secs_f32());
                }
                sleep(Duration::from_millis(50));
            };
            if !status.success() {
                bail!(
                    "building {program} failed ({status}):\n{}",
                    fs::read_to_string(&log)?.trim()
                );
            }
            fs::remove_file(&log)?;
        }
        eprintln!("  built in {:.0} s", start.elapsed().as_secs_f32());
        fs::rename(fresh.keep(), folder)
            .with_context(|| format!("cannot make {}", folder.display()))
    }
}

/// All files of a Go module, in a fixed order.
fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(sources(&entry.path())?);
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}
