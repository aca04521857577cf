//! How are questions put to a cluster?

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::process::MARK;
use crate::shell;
use crate::state::State;

/// kubectl for one cluster.
#[derive(Clone, Debug)]
pub(crate) struct Kubectl {
    program: PathBuf,
    pub(crate) kubeconfig: PathBuf,
    /// The mark of the cluster's processes, if it is one of ours.
    mark: Option<String>,
}

impl Kubectl {
    /// For a cluster of ours.
    pub(crate) fn new(program: &Path, state: &State) -> Result<Kubectl> {
        Ok(Kubectl {
            program: program.to_owned(),
            kubeconfig: state.layout.folder()?.join("kubeconfig"),
            mark: Some(state.mark("client")),
        })
    }

    /// For a cluster of the user's own.
    pub(crate) fn of_user(program: &Path, kubeconfig: &Path) -> Kubectl {
        Kubectl {
            program: program.to_owned(),
            kubeconfig: kubeconfig.to_owned(),
            mark: None,
        }
    }

    /// A command that is yet to get its arguments.
    pub(crate) fn command(&self) -> Command {
        let mut command = self.client(&self.program);
        if self.mark.is_some() {
            // What it learns of the server's types goes with the cluster, not into the home folder.
            let cache = self.kubeconfig.with_file_name("discovery");
            command.arg("--cache-dir").arg(cache);
        }
        command
    }

    /// Another program that speaks to this cluster. Like kubectl it ends with a cluster of ours: a watch of a test that was
    /// killed would go on asking for an address that is nobody's any more.
    pub(crate) fn client(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("KUBECONFIG", &self.kubeconfig);
        if let Some(mark) = &self.mark {
            command.env(MARK, mark);
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
