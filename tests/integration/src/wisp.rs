//! The `wisp` command line, and a running `wisp dev`.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tokio::sync::watch;

use crate::{Client, PATIENCE, binary, target_folder};

/// The longest that `wisp dev` takes until anything happens: it may build a project and all it depends on.
const BUILD_PATIENCE: Duration = Duration::from_secs(900);

/// `wisp` with `arguments` in `folder`. Projects share one target folder, so that only the first builds what they
/// depend on.
#[must_use]
pub fn wisp(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("wisp"));
    command
        .args(arguments)
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", target_folder().join("projects"))
        .env("WISP_RUNTIME", binary("wisp-runtime"))
        .env_remove("WISP_GATEWAY")
        .stdin(Stdio::null());
    command
}

/// Runs `wisp` to its end.
///
/// # Errors
/// When it can't be started.
pub fn run(folder: &Path, arguments: &[&str]) -> std::io::Result<Output> {
    wisp(folder, arguments).output()
}

/// A running `wisp dev --output json`. Dropping it kills the process.
#[derive(Debug)]
pub struct Dev {
    child: Child,
    events: Arc<Mutex<Vec<Value>>>,
    count: watch::Receiver<usize>,
    address: SocketAddr,
}

impl Dev {
    /// Starts `wisp dev` on a free port for the functions in `folder`, and waits until it listens.
    ///
    /// # Errors
    /// When it ends before that.
    pub async fn start(folder: &Path) -> anyhow::Result<Self> {
        Self::start_with(folder, &[]).await
    }

    /// As [`Dev::start`], for what `paths` name, which are relative to `folder`.
    ///
    /// # Errors
    /// As [`Dev::start`].
    pub async fn start_with(folder: &Path, paths: &[&str]) -> anyhow::Result<Self> {
        let arguments = ["dev", "--listen", "127.0.0.1:0", "--output", "json"];
        let arguments = [&arguments[..], paths].concat();
        let mut child = wisp(folder, &arguments).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("no output")?;
        let events = Arc::new(Mutex::new(Vec::new()));
        let (sender, count) = watch::channel(0);
        let sink = Arc::clone(&events);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
                sink.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(event);
                sender.send_modify(|count| *count += 1);
            }
        });
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut dev = Self {
            child,
            events,
            count,
            address,
        };
        let listening = dev
            .event(0, |event| {
                event.get("event").is_some_and(|name| name == "listening")
            })
            .await?;
        dev.address = listening
            .get("url")
            .and_then(Value::as_str)
            .and_then(|url| url.strip_prefix("http://"))
            .context("no URL")?
            .parse()?;
        Ok(dev)
    }

    /// How many events there were so far.
    #[must_use]
    pub fn seen(&self) -> usize {
        *self.count.borrow()
    }

    /// The first event after the first `skip` ones that `is` what is waited for.
    ///
    /// # Errors
    /// When it doesn't come, with all that came.
    pub async fn event(&self, skip: usize, is: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let mut count = self.count.clone();
        let found = async {
            loop {
                count.borrow_and_update();
                let found = self.all().into_iter().skip(skip).find(|event| is(event));
                if let Some(event) = found {
                    return Ok(event);
                }
                count.changed().await.context("`wisp dev` ended")?;
            }
        };
        tokio::time::timeout(BUILD_PATIENCE, found)
            .await
            .unwrap_or_else(|_| Err(anyhow::anyhow!("it never came")))
            .with_context(|| format!("events: {:#?}", self.all()))
    }

    /// Waits for a replica in `state`; returns its process' id.
    ///
    /// # Errors
    /// As [`Dev::event`].
    pub async fn replica(&self, skip: usize, state: &str) -> anyhow::Result<u64> {
        let is = |event: &Value| {
            let says = |key: &str, text: &str| event.get(key).is_some_and(|value| value == text);
            says("event", "replica") && says("state", state)
        };
        let event = self.event(skip, is).await?;
        let id = event.get("pid").and_then(Value::as_u64);
        id.context("no process id")
    }

    /// All events so far.
    #[must_use]
    pub fn all(&self) -> Vec<Value> {
        self.events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Speaks to the gateway.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(self.address)
    }

    /// The gateway's address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends a signal, by its name, and waits for the end.
    ///
    /// # Errors
    /// When there is no such process any more.
    pub async fn end(mut self, signal: &str) -> anyhow::Result<ExitStatus> {
        signal_process(u64::from(self.child.id()), signal)?;
        let ended = tokio::task::spawn_blocking(move || self.child.wait());
        Ok(tokio::time::timeout(PATIENCE, ended).await???)
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal, by its name, to a process that a test knows of.
///
/// # Errors
/// When there is no such process.
pub fn signal_process(id: u64, signal: &str) -> anyhow::Result<()> {
    let status = Command::new("kill")
        .args(["-s", signal, &id.to_string()])
        .status()?;
    anyhow::ensure!(status.success(), "process {id} is gone");
    Ok(())
}

/// Whether the process runs; one that ended and that nobody waited for doesn't.
#[must_use]
pub fn is_running(id: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // The state follows the name in parentheses.
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}
