//! How are questions put to a cluster?

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::shell;

/// kubectl for one cluster.
#[derive(Clone, Debug)]
pub(crate) struct Kubectl {
    pub(crate) program: PathBuf,
    pub(crate) kubeconfig: PathBuf,
    cache: Option<PathBuf>,
}

impl Kubectl {
    /// For a cluster of ours, in whose folder the kubeconfig is.
    pub(crate) fn new(program: &Path, kubeconfig: &Path) -> Kubectl {
        Kubectl {
            program: program.to_owned(),
            kubeconfig: kubeconfig.to_owned(),
            // What it learns of the server's types goes with the cluster, not into the home folder.
            cache: Some(kubeconfig.with_file_name("discovery")),
        }
    }

    /// For a cluster of the user's own.
    pub(crate) fn of_user(program: &Path, kubeconfig: &Path) -> Kubectl {
        Kubectl {
            program: program.to_owned(),
            kubeconfig: kubeconfig.to_owned(),
            cache: None,
        }
    }

    /// A command that is yet to get its arguments.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("KUBECONFIG", &self.kubeconfig);
        if let Some(cache) = &self.cache {
            command.arg("--cache-dir").arg(cache);
        }
        command
    }

    /// Runs it and gives its output.
    pub(crate) fn run(
        &self,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<String> {
        shell::run(self.command().args(arguments))
    }

    /// Applies manifests.
    pub(crate) fn apply(&self, manifests: &str, namespace: Option<&str>) -> Result<String> {
        shell::feed(&mut self.applying(namespace), manifests)
    }

    /// Applies manifests that are known to be right: nothing is asked about their types first, which takes a second.
    pub(crate) fn apply_unchecked(&self, manifests: &str) -> Result<String> {
        shell::feed(self.applying(None).arg("--validate=false"), manifests)
    }

    fn applying(&self, namespace: Option<&str>) -> Command {
        let mut command = self.command();
        command.args([
            "apply",
            "--server-side",
            "--force-conflicts",
            "--field-manager=wisp-cluster",
            "--filename=-",
        ]);
        if let Some(namespace) = namespace {
            command.args(["--namespace", namespace]);
        }
        command
    }
}
