//! One replica: a `wisp-runtime` process and what it says.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Child;
use tokio::sync::mpsc;
use wisp_contract::Assignment;
use wisp_contract::log::{Line, event};

use crate::orphans;

/// How long a replica may take from SIGTERM to its end beyond what its requests take.
const GRACE: Duration = Duration::from_secs(5);
/// Lines longer than this are no log lines.
const LONGEST: usize = 1 << 20;

/// How replicas are started.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    /// The host's program.
    pub(crate) runtime: PathBuf,
    /// The folder for what can be made again.
    pub(crate) cache: PathBuf,
}

/// What a replica says.
#[derive(Debug)]
pub(crate) enum Said {
    /// It listens, not ready yet.
    Listening(SocketAddr),
    /// It serves.
    Ready,
    /// It can't become its function; it is about to end.
    Failed(String),
    /// Anything else.
    Line(Line<'static>),
    /// What is no log line.
    Text(String),
    /// It ended; why, as far as the system knows.
    Ended(String),
}

/// A replica that was started. Dropping it ends it at once.
#[derive(Debug)]
pub(crate) struct Replica {
    /// Its process.
    pub(crate) pid: u32,
    /// When it was started.
    pub(crate) started: Instant,
    stop: Stop,
}

/// Ends a replica.
#[derive(Debug, Clone)]
pub(crate) struct Stop(mpsc::UnboundedSender<Duration>);

impl Stop {
    /// Asks it to finish what it has, for which it gets `patience`, and to end.
    pub(crate) fn stop(&self, patience: Duration) {
        // Where nobody listens any more it has ended.
        let _ = self.0.send(patience);
    }
}

impl Replica {
    /// Starts a process for `assignment`; `said` gets what it says until it ended.
    ///
    /// # Errors
    /// When the program can't be started.
    pub(crate) fn start(
        launch: &Launch,
        assignment: &Assignment,
        said: impl Fn(Said) + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        use std::os::unix::process::CommandExt as _;
        let text = serde_json::to_string(assignment)?;
        let fits = assignment.fits_variable(&text);
        fits.map_err(std::io::Error::other)?;
        let mut command = Command::new(&launch.runtime);
        command
            .args([
                "--data",
                "127.0.0.1:0",
                "--control",
                "127.0.0.1:0",
                "--cache",
            ])
            .arg(&launch.cache)
            .env(wisp_contract::assignment::ENV, text)
            // Nobody speaks to its control port, not even a web page that the same machine's browser shows.
            .env(
                "WISP_CONTROL_KEY",
                uuid::Uuid::new_v4().simple().to_string(),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A Ctrl-C at the terminal is for `wisp dev`, which lets its replicas finish.
            .process_group(0);
        let child = orphans::spawn_async(command)?;
        let (stop, stopped) = mpsc::unbounded_channel();
        let replica = Self {
            pid: child.id().unwrap_or_default(),
            started: Instant::now(),
            stop: Stop(stop),
        };
        tokio::spawn(attend(child, stopped, said));
        Ok(replica)
    }

    /// What ends it. The process is killed when the replica and all of these are gone.
    pub(crate) fn stop(&self) -> Stop {
        self.stop.clone()
    }
}

async fn attend(
    mut child: Child,
    mut stopped: mpsc::UnboundedReceiver<Duration>,
    said: impl Fn(Said) + Send + Sync,
) {
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let reading = async { tokio::join!(read(stdout, &said, true), read(stderr, &said, false)) };
    let ending = async {
        tokio::select! {
            status = child.wait() => return status,
            patience = stopped.recv() => if let (Some(patience), Some(pid)) = (patience, child.id().and_then(pid)) {
                // Not reaped yet, so the number is still this child's.
                let _ = rustix::process::kill_process(pid, Signal::TERM);
                if let Ok(status) = tokio::time::timeout(patience.saturating_add(GRACE), child.wait()).await {
                    return status;
                }
            },
        }
        child.start_kill()?;
        child.wait().await
    };
    let (mut reading, mut ending) = (pin!(reading), pin!(ending));
    let mut is_read = false;
    let status = loop {
        tokio::select! {
            _ = &mut reading, if !is_read => is_read = true,
            status = &mut ending => break status,
        }
    };
    if !is_read {
        // What it wrote last; a grandchild that keeps the pipes open isn't waited for.
        let _ = tokio::time::timeout(Duration::from_secs(1), reading).await;
    }
    said(Said::Ended(describe(status)));
}

fn pid(id: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(id).ok()?)
}

fn describe(status: std::io::Result<std::process::ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("its process ended with status {code}"),
            (None, Some(9)) => {
                "its process was killed (signal 9): out of memory, perhaps".to_owned()
            }
            (None, signal) => format!(
                "its process was ended by signal {}",
                signal.unwrap_or_default()
            ),
        },
        Err(error) => format!("its process is lost: {error}"),
    }
}

async fn read(
    stream: Option<impl AsyncRead + Unpin>,
    said: &(impl Fn(Said) + Send + Sync),
    lines: bool,
) {
    let Some(stream) = stream else { return };
    let mut reader = BufReader::with_capacity(1 << 16, stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        line.truncate(LONGEST);
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches(['\n', '\r']);
        if !text.is_empty() {
            said(if lines {
                understand(text)
            } else {
                Said::Text(text.to_owned())
            });
        }
    }
}

/// What a line of the host means.
fn understand(text: &str) -> Said {
    let Ok(line) = serde_json::from_str::<Line<'static>>(text) else {
        return Said::Text(text.to_owned());
    };
    match line.event.as_deref() {
        Some(event::LISTENING) => match line
            .fields
            .get("data")
            .and_then(|data| data.as_str()?.parse().ok())
        {
            Some(address) => Said::Listening(address),
            None => Said::Line(line),
        },
        Some(event::READY) => Said::Ready,
        Some(event::FAILED) => Said::Failed(line.message.into_owned()),
        _ => Said::Line(line),
    }
}

/// Where `wisp-runtime` is: beside this program, else on PATH.
pub(crate) fn find_runtime(given: Option<&Path>) -> Option<PathBuf> {
    const NAME: &str = "wisp-runtime";
    // A bare name would be looked up on PATH when it is run, whatever was looked at here.
    let absolute = |file: PathBuf| std::path::absolute(&file).unwrap_or(file);
    if let Some(given) = given {
        return given.is_file().then(|| absolute(given.to_owned()));
    }
    let beside = std::env::current_exe()
        .ok()
        .and_then(|program| Some(program.parent()?.join(NAME)));
    let on_path = std::env::var_os("PATH");
    let on_path = on_path
        .iter()
        .flat_map(std::env::split_paths)
        .map(|folder| folder.join(NAME));
    beside
        .into_iter()
        .chain(on_path)
        .find(|file| file.is_file())
        .map(absolute)
}

#[cfg(test)]
mod tests {
    use wisp_contract::assignment::LARGEST_VARIABLE;

    use super::*;

    fn line(event: &str, rest: &str) -> String {
        format!(
            r#"{{"ts":"2026-01-01T00:00:00Z","level":"info","target":"wisp_runtime","message":"m","event":"{event}"{rest}}}"#
        )
    }

    #[test]
    fn the_hosts_events_are_understood() {
        let listening = understand(&line(
            "listening",
            r#","data":"127.0.0.1:4000","control":"127.0.0.1:4001""#,
        ));
        assert!(
            matches!(listening, Said::Listening(address) if address.port() == 4000),
            "{listening:?}"
        );
        assert!(matches!(understand(&line("ready", "")), Said::Ready));
        assert!(matches!(understand(&line("failed", "")), Said::Failed(message) if message == "m"));
        assert!(matches!(
            understand(&line("request", r#","status":200"#)),
            Said::Line(_)
        ));
        assert!(matches!(understand("thread panicked"), Said::Text(_)));
        assert!(matches!(
            understand(&line("listening", r#","data":7"#)),
            Said::Line(_)
        ));
    }

    /// A program in place of the host.
    fn launch(script: &str) -> (tempfile::TempDir, Launch) {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let runtime = folder.path().join("host");
        std::fs::write(&runtime, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&runtime, std::fs::Permissions::from_mode(0o755)).unwrap();
        let cache = folder.path().to_owned();
        (folder, Launch { runtime, cache })
    }

    fn assignment() -> Assignment {
        serde_json::from_value(serde_json::json!({
            "function": "default/hello", "revision": "1", "config": {"component": {"file": "hello.wasm"}}
        }))
        .unwrap()
    }

    fn start(launch: &Launch) -> (Replica, mpsc::UnboundedReceiver<Said>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let replica =
            Replica::start(launch, &assignment(), move |said| _ = sender.send(said)).unwrap();
        (replica, receiver)
    }

    /// Would fail if `--runtime Cargo.toml`, a file of this folder, were looked for on PATH when it is run.
    #[test]
    fn the_file_that_is_named_is_the_one_that_runs() {
        let here = std::env::current_dir().unwrap();
        let named = Path::new("Cargo.toml");
        assert_eq!(find_runtime(Some(named)), Some(here.join(named)));
        assert_eq!(find_runtime(Some(Path::new("nothing-there"))), None);
    }

    #[tokio::test]
    async fn a_process_that_fails_says_so_and_ends() {
        let failed = line("failed", "");
        let (_folder, launch) = launch(&format!("echo '{failed}'; echo oops >&2; exit 1"));
        let (_replica, mut said) = start(&launch);
        let mut seen = Vec::new();
        while let Some(said) = said.recv().await {
            seen.push(format!("{said:?}"));
        }
        seen.sort();
        assert_eq!(
            seen,
            [
                r#"Ended("its process ended with status 1")"#,
                r#"Failed("m")"#,
                r#"Text("oops")"#
            ]
        );
    }

    #[tokio::test]
    async fn a_process_that_is_asked_to_stop_may_finish() {
        let (_folder, launch) =
            launch("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done");
        let (replica, mut said) = start(&launch);
        assert!(matches!(said.recv().await, Some(Said::Text(text)) if text == "up"));
        replica.stop().stop(Duration::ZERO);
        assert!(matches!(said.recv().await, Some(Said::Text(text)) if text == "bye"));
        assert!(matches!(said.recv().await, Some(Said::Ended(why)) if why.contains("status 0")));
    }

    #[tokio::test]
    async fn the_assignment_is_in_its_environment() {
        let (_folder, launch) = launch(r#"echo "$WISP_ASSIGNMENT $*""#);
        let (_replica, mut said) = start(&launch);
        let Some(Said::Text(text)) = said.recv().await else {
            panic!("it said nothing")
        };
        assert!(
            text.contains("default/hello") && text.contains("--data 127.0.0.1:0"),
            "{text}"
        );
    }

    /// Would fail if variables that no process can be started with were answered with `Argument list too long`, or some
    /// that one can be started with were refused.
    #[tokio::test]
    async fn what_a_process_cannot_be_given_is_told_with_its_size() {
        let (_folder, launch) = launch("echo ${#WISP_ASSIGNMENT}");
        let mut assignment = assignment();
        let mut set = |name: &str, length: usize| {
            let env = &mut assignment.config.env.0;
            env.insert(name.to_owned(), "x".repeat(length));
            assignment.clone()
        };
        set("SMALL", 7);
        let empty = serde_json::to_string(&set("LARGE", 0)).unwrap().len();
        let room = LARGEST_VARIABLE - "WISP_ASSIGNMENT=".len() - 1 - empty;
        let (sender, mut said) = mpsc::unbounded_channel();
        let started = Replica::start(&launch, &set("LARGE", room), move |said| {
            _ = sender.send(said)
        });
        assert!(started.is_ok(), "{started:?}");
        let length = (empty + room).to_string();
        assert!(matches!(said.recv().await, Some(Said::Text(text)) if text == length));
        let error = Replica::start(&launch, &set("LARGE", room + 1), |_| {}).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("`LARGE`") && error.contains("131072"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_dropped_replica_is_killed() {
        let (_folder, launch) = launch("trap '' TERM; echo up; while :; do sleep 0.01; done");
        let (replica, mut said) = start(&launch);
        assert!(matches!(said.recv().await, Some(Said::Text(_))));
        drop(replica);
        assert!(matches!(said.recv().await, Some(Said::Ended(why)) if why.contains("signal 9")));
    }
}
