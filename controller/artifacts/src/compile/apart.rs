//! Prepares a component in a process of its own, so that whatever it does ends that process alone.

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::{ChildStderr, Command};

use super::Facts;
use super::child::{ARGUMENT, Job, Told};
use crate::error::Error;

/// How much of what such a process says is kept: the end.
const SAID: usize = 4 << 10;
/// The most bytes that it may tell.
const TOLD: u64 = 4 << 20;
/// The most threads that compile: each takes memory, and what a component takes must not follow from the machine.
const THREADS: usize = 8;

/// Processes of their own, each for one component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Apart {
    /// A program that runs the [`Job`] it is given: this one, as a rule.
    pub program: PathBuf,
    /// The most bytes of memory that one may have, of all that isn't backed by files.
    pub memory: u64,
    /// The longest that one may take.
    pub timeout: Duration,
}

impl Apart {
    /// Has the job done. Where this isn't waited for any more, the process ends at once.
    pub(super) async fn run(&self, job: &Job) -> Result<Facts, Error> {
        let io = |source| Error::Io {
            path: self.program.clone(),
            source,
        };
        let argument = serde_json::to_string(job).map_err(|error| io(error.into()))?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut child = Command::new(&self.program)
            .args([ARGUMENT, &argument])
            // It runs what others wrote, and needs none of what this process was told.
            .env_clear()
            .env("RAYON_NUM_THREADS", threads.min(THREADS).to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(io)?;
        // It ends when this does. To wait for it would close it.
        let _lifeline = child.stdin.take();
        let stderr = child.stderr.take();
        let ended = async { tokio::join!(child.wait(), last_said(stderr)) };
        let Ok((status, said)) = tokio::time::timeout(self.timeout, ended).await else {
            let _ = child.kill().await;
            return Err(Error::TooSlow {
                limit: self.timeout,
            });
        };
        let status = status.map_err(io)?;
        if !status.success() {
            return Err(self.failure(status, &said));
        }
        match told(job).await.map_err(io)? {
            Ok(facts) => Ok(facts),
            Err(refusal) if refusal.is_short_of_memory => Err(self.out_of_memory()),
            Err(refusal) => Err(Error::told(
                &refusal.reason,
                refusal.sentence,
                refusal.is_transient,
            )),
        }
    }

    /// Why it ended early.
    fn failure(&self, status: ExitStatus, said: &str) -> Error {
        // What Rust says before it ends for want of memory.
        let asked = status.signal().is_some() && said.contains("memory allocation of");
        // Nobody else kills it so.
        let was_killed = status.signal() == Some(rustix::process::Signal::KILL.as_raw());
        if asked || was_killed {
            return self.out_of_memory();
        }
        Error::Crashed {
            why: match said.trim() {
                "" => status.to_string(),
                said => format!("{status}: {said}"),
            },
        }
    }

    fn out_of_memory(&self) -> Error {
        Error::OutOfMemory { limit: self.memory }
    }
}

async fn told(job: &Job) -> std::io::Result<Told> {
    let file = tokio::fs::File::open(job.told()).await?;
    let mut json = Vec::new();
    file.take(TOLD).read_to_end(&mut json).await?;
    Ok(serde_json::from_slice(&json)?)
}

/// The end of what comes.
async fn last_said(stderr: Option<ChildStderr>) -> String {
    let Some(mut stderr) = stderr else {
        return String::new();
    };
    let (mut said, mut chunk) = (Vec::new(), [0; SAID]);
    while let Ok(read @ 1..) = stderr.read(&mut chunk).await {
        said.extend_from_slice(chunk.get(..read).unwrap_or_default());
        let surplus = said.len().saturating_sub(SAID);
        said.drain(..surplus);
    }
    String::from_utf8_lossy(&said).into_owned()
}
