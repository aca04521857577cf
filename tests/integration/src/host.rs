//! A `wisp-runtime` process.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, UNIX_EPOCH};

use anyhow::Context as _;
use tokio::sync::watch;
use wisp_contract::assignment::{self, Assignment, Preload};
use wisp_contract::config::{Component, FunctionConfig, Instances, Limits};
use wisp_contract::log::{Line, event};
use wisp_contract::status::HostStatus;
use wisp_contract::{FunctionConfig as Config, FunctionId};

use crate::{Arm64, Client, PATIENCE, binary};

/// An Assignment of `component` with default limits.
///
/// # Panics
/// Never: the name in it is one.
#[must_use]
#[expect(clippy::expect_used, reason = "the name is a constant")]
pub fn assignment(component: &Path) -> Assignment {
    Assignment {
        function: FunctionId::new("tests", "fixture").expect("a name"),
        uid: None,
        revision: "1".to_owned(),
        config: Config {
            component: Component {
                file: component.to_owned(),
                sha256: None,
            },
            models: Vec::new(),
            limits: Limits::default(),
            instances: Instances::Fresh,
            env: wisp_contract::config::Env::default(),
            outbound: wisp_contract::config::Outbound::default(),
            key_value: Vec::new(),
        },
        cpus: None,
        key: None,
        artifacts: Vec::new(),
    }
}

/// A running host. Dropping it kills the process.
#[derive(Debug)]
pub struct Host {
    child: Child,
    log: Arc<Log>,
    data: SocketAddr,
    control: SocketAddr,
    has_key: bool,
    cache: tempfile::TempDir,
}

/// What the control ports demand of whom the tests don't give another key to.
const KEY: &str = "tests";
const KEY_ENV: &str = "WISP_CONTROL_KEY";

#[derive(Debug)]
struct Log {
    lines: Mutex<Vec<String>>,
    count: watch::Sender<usize>,
}

impl Host {
    /// Starts a host and waits until it serves a fixture with the configuration that `change` makes.
    ///
    /// # Errors
    /// When it doesn't become ready; the error has its log.
    pub async fn ready(
        component: &Path,
        change: impl FnOnce(&mut FunctionConfig),
    ) -> anyhow::Result<Self> {
        let mut assignment = assignment(component);
        change(&mut assignment.config);
        let host = Self::start(Some(&assignment), &["--access-log"]).await?;
        host.event(event::READY).await?;
        Ok(host)
    }

    /// Starts a host as [`Host::ready`] does, with `library` to compute its models.
    ///
    /// # Errors
    /// When it doesn't become ready; the error has its log.
    pub async fn with_models(
        component: &Path,
        library: &Path,
        change: impl FnOnce(&mut FunctionConfig),
    ) -> anyhow::Result<Self> {
        let mut assignment = assignment(component);
        change(&mut assignment.config);
        let library = library.to_str().context("a path that is no text")?;
        let host = Self::start(Some(&assignment), &["--onnxruntime", library]).await?;
        host.event(event::READY).await?;
        Ok(host)
    }

    /// Starts a host and waits until it listens.
    ///
    /// # Errors
    /// When it doesn't.
    pub async fn start(
        assignment: Option<&Assignment>,
        arguments: &[&str],
    ) -> anyhow::Result<Self> {
        let variable = match assignment {
            Some(assignment) => Some((assignment::ENV, serde_json::to_string(assignment)?)),
            None => None,
        };
        Self::start_with(variable, arguments).await
    }

    /// Starts a host without a function that is to have `preload` ready, with `library` to compute its models, and waits
    /// until it listens.
    ///
    /// # Errors
    /// When it doesn't.
    pub async fn standing_by(preload: &Preload, library: &Path) -> anyhow::Result<Self> {
        let program = Command::new(binary("wisp-runtime"));
        Self::standing_by_as(program, preload, library).await
    }

    /// As [`Host::standing_by`], on an emulated Arm.
    ///
    /// # Errors
    /// When it doesn't.
    pub async fn standing_by_on(arm: &Arm64, preload: &Preload) -> anyhow::Result<Self> {
        Self::standing_by_as(arm.command(), preload, &arm.onnxruntime).await
    }

    async fn standing_by_as(
        program: Command,
        preload: &Preload,
        library: &Path,
    ) -> anyhow::Result<Self> {
        let variable = (assignment::PRELOAD_ENV, serde_json::to_string(preload)?);
        let library = library.to_str().context("a path that is no text")?;
        Self::start_as(program, Some(variable), &["--onnxruntime", library]).await
    }

    /// One without a function whose control port demands `key`, which requests to it don't have by themselves; or none, where it
    /// is empty.
    ///
    /// # Errors
    /// As [`Host::start`].
    pub async fn with_control_key(key: &str) -> anyhow::Result<Self> {
        let variable = (KEY_ENV, key.to_owned());
        Self::start_with(Some(variable), &[]).await
    }

    /// One without a function that may reserve so many bytes of addresses.
    ///
    /// # Errors
    /// As [`Host::start`].
    pub async fn with_addresses(bytes: u64) -> anyhow::Result<Self> {
        let mut program = Command::new("prlimit");
        program
            .arg(format!("--as={bytes}"))
            .arg(binary("wisp-runtime"));
        Self::start_as(program, None, &[]).await
    }

    async fn start_with(
        variable: Option<(&str, String)>,
        arguments: &[&str],
    ) -> anyhow::Result<Self> {
        Self::start_as(Command::new(binary("wisp-runtime")), variable, arguments).await
    }

    async fn start_as(
        mut command: Command,
        variable: Option<(&str, String)>,
        arguments: &[&str],
    ) -> anyhow::Result<Self> {
        let cache = tempfile::tempdir()?;
        command
            .args(["--data", "127.0.0.1:0", "--control", "127.0.0.1:0"])
            .args(arguments)
            .env(KEY_ENV, KEY)
            .env("WISP_CACHE", compiled()?)
            .env_remove(assignment::ENV)
            .env_remove(assignment::PRELOAD_ENV)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let has_key = !matches!(variable, Some((KEY_ENV, _)));
        match variable {
            Some((KEY_ENV, key)) if key.is_empty() => _ = command.env_remove(KEY_ENV),
            Some((name, value)) => _ = command.env(name, value),
            None => {}
        }
        let mut child = command.spawn().context("wisp-runtime doesn't start")?;
        let stdout = child.stdout.take().context("no standard output")?;
        let log = Arc::new(Log {
            lines: Mutex::default(),
            count: watch::Sender::new(0),
        });
        let reader = Arc::clone(&log);
        std::thread::spawn(move || reader.read(stdout));
        let unbound = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut host = Self {
            child,
            log,
            data: unbound,
            control: unbound,
            has_key,
            cache,
        };
        let listening = host.event(event::LISTENING).await?;
        let address = |name: &str| -> anyhow::Result<SocketAddr> {
            Ok(listening
                .fields
                .get(name)
                .and_then(|value| value.as_str())
                .context("no address")?
                .parse()?)
        };
        (host.data, host.control) = (address("data")?, address("control")?);
        Ok(host)
    }

    /// The most memory that the process ever held, in bytes.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn peak_memory(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let kibibytes: u64 = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB"))
            .context("the kernel doesn't tell")?
            .trim()
            .parse()?;
        Ok(kibibytes << 10)
    }

    /// How often the thread that interrupts guests ran.
    ///
    /// # Errors
    /// When the process is gone, or has no such thread.
    pub fn ticks(&self) -> anyhow::Result<u64> {
        let tasks = format!("/proc/{}/task", self.child.id());
        for task in std::fs::read_dir(tasks)? {
            let status = std::fs::read_to_string(task?.path().join("status"))?;
            let field = |name: &str| {
                let mut lines = status.lines();
                lines.find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
            };
            if field("Name:").as_deref() == Some("wisp-epoch") {
                let switches = field("voluntary_ctxt_switches:");
                return Ok(switches.context("the kernel doesn't tell")?.parse()?);
            }
        }
        anyhow::bail!("no thread interrupts guests")
    }

    /// A client of the data port.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(self.data)
    }

    /// A client of the control port.
    #[must_use]
    pub fn control(&self) -> Client {
        let client = Client::new(self.control);
        if self.has_key {
            client.with_key(KEY)
        } else {
            client
        }
    }

    /// The control port.
    #[must_use]
    pub fn control_address(&self) -> SocketAddr {
        self.control
    }

    /// The data port.
    #[must_use]
    pub fn data(&self) -> SocketAddr {
        self.data
    }

    /// A folder that lives as long as the host.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.cache.path()
    }

    /// Sends SIGTERM.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn terminate(&self) -> anyhow::Result<()> {
        self.signal("TERM")
    }

    /// Sends a signal, by its name without `SIG`.
    ///
    /// # Errors
    /// When the process is gone, or there is no such signal.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        let status = Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
            .status()?;
        anyhow::ensure!(status.success(), "kill: {status}");
        Ok(())
    }

    /// Waits for the process' end.
    ///
    /// # Errors
    /// When it doesn't end.
    pub async fn end(&mut self) -> anyhow::Result<ExitStatus> {
        // Its standard output closes when it ends.
        let mut count = self.log.count.subscribe();
        tokio::time::timeout(PATIENCE, count.wait_for(|count| *count == usize::MAX))
            .await
            .context("it doesn't end")??;
        Ok(self.child.wait()?)
    }

    /// Waits until `wanted` holds of its status.
    ///
    /// # Errors
    /// When it never does; the error has the last status.
    pub async fn until(&self, wanted: impl Fn(&HostStatus) -> bool) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let answer = self.control().get("/status").await?;
            let status: HostStatus = serde_json::from_slice(&answer.body)?;
            if wanted(&status) {
                return Ok(());
            }
            anyhow::ensure!(
                begun.elapsed() < PATIENCE,
                "the host never comes to that state, but stays at {status:?}"
            );
        }
    }

    /// Waits until nothing runs and nothing waits.
    ///
    /// # Errors
    /// When that never happens.
    pub async fn until_idle(&self) -> anyhow::Result<()> {
        self.until(|status| status.in_flight == 0 && status.queued == 0)
            .await
    }

    /// Everything it logged so far.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.log
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The first line with the event `name`, waited for.
    ///
    /// # Errors
    /// When none comes; the error has the log.
    pub async fn event(&self, name: &str) -> anyhow::Result<Line<'static>> {
        self.line(name, |line| line.event.as_deref() == Some(name))
            .await
    }

    /// The first line that `wanted` holds of, waited for. `what` names it where it doesn't come.
    ///
    /// # Errors
    /// When none comes; the error has the log.
    pub async fn line(
        &self,
        what: &str,
        wanted: impl Fn(&Line<'_>) -> bool,
    ) -> anyhow::Result<Line<'static>> {
        let mut count = self.log.count.subscribe();
        let search = async {
            let mut seen = 0;
            loop {
                let lines = self.log();
                for line in lines.iter().skip(seen) {
                    if let Ok(line) = serde_json::from_str::<Line<'static>>(line)
                        && wanted(&line)
                    {
                        return Ok(line);
                    }
                }
                seen = lines.len();
                let ended = *count.wait_for(|count| *count > seen).await?;
                anyhow::ensure!(
                    ended != usize::MAX || self.log().len() > seen,
                    "the process ended"
                );
            }
        };
        let found = tokio::time::timeout(PATIENCE, search).await;
        found
            .map_err(anyhow::Error::from)
            .flatten()
            .with_context(|| format!("no line {what} in\n{}", self.log().join("\n")))
    }
}

/// Where hosts keep what they compile, for the next ones of the same program: another tree's may compile otherwise.
fn compiled() -> anyhow::Result<PathBuf> {
    let program = std::fs::metadata(binary("wisp-runtime"))?;
    let built = program.modified()?.duration_since(UNIX_EPOCH)?;
    let name = format!("{:x}-{:x}", built.as_nanos(), program.len());
    let all = crate::target_folder().join("test-cache");
    std::fs::create_dir_all(&all)?;
    for other in std::fs::read_dir(&all)? {
        let other = other?;
        if other.file_name() != *name {
            // It is no matter where it stays, or another test takes it away.
            let _ = std::fs::remove_dir_all(other.path());
        }
    }
    Ok(all.join(name))
}

impl Log {
    fn read(&self, stdout: ChildStdout) {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines.push(line);
            self.count.send_replace(lines.len());
        }
        self.count.send_replace(usize::MAX);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Errors mean that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
