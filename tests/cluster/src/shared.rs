//! Which cluster do tests run against? The user's own where KUBECONFIG names one, else one that all test programs of a
//! run share, started by the first and taken down when the last is gone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::images::{self, Image};
use crate::kubectl::Kubectl;
use crate::state::State;
use crate::wait::{self, Objects};
use crate::{files, layout, machine, programs, shell};

mod driver;
mod forward;
mod namespace;
mod owned;

pub use driver::{Lease, drive};
pub use forward::Forward;
pub use namespace::Namespace;
pub use owned::Owned;

/// The shared cluster's name.
const SHARED: &str = "test";
/// How long the shared cluster is kept for the next test program of the same run.
const LINGER: Duration = Duration::from_secs(20);

/// What came of starting the shared cluster. Also a failure is kept: each further test would wait for minutes until it
/// failed once more.
enum Shared {
    Runs(Cluster),
    CannotRun(String),
    Failed(String),
}

impl Shared {
    fn start() -> Self {
        let cluster = match kubeconfig_of_user() {
            Some(kubeconfig) => Cluster::of_user(&kubeconfig),
            None => match reasons() {
                Some(reasons) => return Self::CannotRun(reasons),
                None => Cluster::join_shared(),
            },
        };
        match cluster {
            Ok(cluster) => Self::Runs(cluster),
            Err(error) => Self::Failed(format!("{error:#}")),
        }
    }
}

/// A Kubernetes cluster that tests may use.
pub struct Cluster {
    pub(crate) kubectl: Kubectl,
    registry: Option<String>,
    /// The name of a cluster that this crate started.
    name: Option<String>,
    /// Says that this process uses it.
    _lease: Option<Lease>,
}

impl Cluster {
    /// The cluster that the tests of this run share: the user's own if `KUBECONFIG` is set, else one that is started
    /// when the first test asks and taken down soon after the last test program ended. None when this machine cannot run
    /// one, and then it says why; in CI, that is a failure instead.
    ///
    /// # Panics
    /// When the cluster does not come up, or cannot run in CI.
    pub fn shared() -> Option<&'static Cluster> {
        static CLUSTER: OnceLock<Shared> = OnceLock::new();
        match CLUSTER.get_or_init(Shared::start) {
            Shared::Runs(cluster) => Some(cluster),
            Shared::CannotRun(reasons) => {
                skip(reasons);
                None
            }
            Shared::Failed(error) => give_up(error),
        }
    }

    /// A cluster of one test's own, for tests that break it, called `hint` (at most 12 characters) and this process's id.
    /// It is taken down when it is dropped, or when this process is gone. None as with [`Cluster::shared`].
    ///
    /// # Panics
    /// As [`Cluster::shared`].
    pub fn own(hint: &str, nodes: u8) -> Option<Owned> {
        if let Some(reasons) = reasons() {
            skip(&reasons);
            return None;
        }
        match Cluster::start_own(hint, nodes) {
            Ok(cluster) => Some(Owned(cluster)),
            Err(error) => give_up(&format!("{error:#}")),
        }
    }

    fn join_shared() -> Result<Cluster> {
        let lease = match std::env::var_os("WISP_CLUSTER_KEEP") {
            Some(_) => Lease::kept(SHARED)?,
            None => Lease::take(SHARED, LINGER)?,
        };
        drive(&["up", "--name", SHARED])?;
        Cluster::started(SHARED, lease)
    }

    fn start_own(hint: &str, nodes: u8) -> Result<Cluster> {
        let name = format!("{hint}-{}", std::process::id());
        let lease = Lease::take(&name, Duration::ZERO)?;
        drive(&["up", "--name", &name, "--nodes", &nodes.to_string()])?;
        Cluster::started(&name, lease)
    }

    fn started(name: &str, lease: Lease) -> Result<Cluster> {
        let state = State::read(name)?.with_context(|| format!("cluster {name} is gone"))?;
        Ok(Cluster {
            kubectl: Kubectl::new(&programs::kubectl()?, &state)?,
            registry: Some(state.layout.registry()),
            name: Some(name.to_owned()),
            _lease: Some(lease),
        })
    }

    fn of_user(kubeconfig: &Path) -> Result<Cluster> {
        let is_list = kubeconfig.to_string_lossy().contains(':');
        ensure!(
            is_list || kubeconfig.is_file(),
            "KUBECONFIG={}: there is no such file; a relative path would start at the crate under test",
            kubeconfig.display()
        );
        let given = std::env::var("WISP_TEST_REGISTRY")
            .ok()
            .filter(|value| !value.is_empty());
        // KUBECONFIG may name one of ours, from `cluster up`; then its registry is known.
        let ours = kubeconfig
            .parent()
            .filter(|folder| {
                files::clusters().is_ok_and(|clusters| folder.parent() == Some(clusters.as_path()))
            })
            .and_then(Path::file_name)
            .and_then(|name| State::read(&name.to_string_lossy()).ok().flatten());
        let kubectl = if let Some(state) = &ours {
            Kubectl::new(&programs::kubectl()?, state)?
        } else if installed("kubectl") {
            Kubectl::of_user(Path::new("kubectl"), kubeconfig)
        } else {
            Kubectl::of_user(&programs::kubectl()?, kubeconfig)
        };
        let cluster = Cluster {
            kubectl,
            registry: given.or_else(|| ours.as_ref().map(|state| state.layout.registry())),
            name: ours.map(|state| state.layout.name),
            _lease: None,
        };
        cluster
            .kubectl
            .run(["get", "--raw=/version", "--request-timeout=10s"])
            .with_context(|| {
                format!(
                    "KUBECONFIG={}: its cluster does not answer",
                    kubeconfig.display()
                )
            })?;
        Ok(cluster)
    }

    /// The kubeconfig of an administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubectl.kubeconfig
    }

    /// The name of a cluster of ours; none where it is the user's own.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Where images are pushed to and pulled from.
    ///
    /// # Errors
    /// When the cluster is the user's own and `WISP_TEST_REGISTRY` does not say.
    pub fn registry(&self) -> Result<&str> {
        self.registry.as_deref().context(
            "KUBECONFIG names a cluster of your own: set WISP_TEST_REGISTRY to a registry that its nodes pull from",
        )
    }

    /// Pushes an image to the registry and gives the reference that pods use.
    ///
    /// # Errors
    /// When the registry does not take it.
    pub fn push(&self, image: &Image) -> Result<String> {
        images::push_to(image, self.registry()?)
    }

    /// Runs kubectl and gives its output.
    ///
    /// # Errors
    /// When it does not succeed; with what it said.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl.run(arguments)
    }

    /// A kubectl that is yet to get its arguments, for what goes on in the background.
    #[must_use]
    pub fn kubectl_command(&self) -> Command {
        self.kubectl.command()
    }

    /// Runs helm and gives its output. The first use builds it.
    ///
    /// # Errors
    /// When it does not succeed; with what it said.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        shell::run(self.kubectl.client(&programs::helm()?).args(arguments))
    }

    /// A port of this machine that leads to `port` of `target` in `namespace`, as [`Namespace::forward`].
    ///
    /// # Errors
    /// As [`Namespace::forward`].
    pub fn forward(&self, namespace: &str, target: &str, port: u16) -> Result<Forward> {
        let mut kubectl = self.kubectl.command();
        kubectl.args(["--namespace", namespace]);
        Forward::open(kubectl, target, port)
    }

    /// A fresh namespace that enforces the `restricted` Pod Security standard.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn namespace(&self, hint: &str) -> Result<Namespace<'_>> {
        Namespace::create(self, hint, "restricted")
    }

    /// A fresh namespace whose pods may do anything.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn privileged_namespace(&self, hint: &str) -> Result<Namespace<'_>> {
        Namespace::create(self, hint, "privileged")
    }

    /// [`Namespace::wait`] for what is in no namespace, or in all.
    ///
    /// # Errors
    /// When `limit` has passed; with what was waited for and what was seen.
    pub fn wait<T>(
        &self,
        what: &str,
        query: &[&str],
        limit: Duration,
        seen: impl FnMut(&Objects) -> Option<T>,
    ) -> Result<T> {
        wait::wait(&self.kubectl, None, what, query, limit, seen)
    }

    /// Does to a cluster of ours what `cluster …` does by hand, such as `["kill-node", "2"]`.
    ///
    /// # Errors
    /// When that fails, or the cluster is the user's own.
    pub fn drive(&self, arguments: &[&str]) -> Result<String> {
        let Some(name) = &self.name else {
            bail!("this cluster is the user's own: nothing in it is killed")
        };
        drive(&[arguments, &["--name", name.as_str()]].concat())
    }

    /// Copies what the components said, where the cluster is one of ours.
    pub(crate) fn keep_component_logs(&self, target: &Path) -> Result<()> {
        let Some(name) = &self.name else {
            return Ok(());
        };
        fs::create_dir_all(target)?;
        for entry in fs::read_dir(layout::folder(name)?.join("logs"))? {
            let entry = entry?;
            fs::copy(entry.path(), target.join(entry.file_name()))?;
        }
        Ok(())
    }
}

/// The kubeconfig of a cluster of the user's own, which the tests run against then.
pub(crate) fn kubeconfig_of_user() -> Option<PathBuf> {
    std::env::var_os("KUBECONFIG")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

fn installed(program: &str) -> bool {
    Command::new(program)
        .arg("--help")
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Why this machine cannot run a cluster, if it cannot.
fn reasons() -> Option<String> {
    let reasons = machine::reasons();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

fn skip(reasons: &str) {
    wisp_skip::skip(format!("no cluster can run here: {reasons}"));
}

#[expect(
    clippy::panic,
    reason = "a test without its cluster has failed, and a panic is how a test says so"
)]
fn give_up(text: &str) -> ! {
    panic!("{text}")
}
