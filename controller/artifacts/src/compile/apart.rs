//! Prepares a component in a process of its own, so that whatever it does ends that process alone.

use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::{ChildStderr, Command};

use super::Facts;
use super::child::{ARGUMENT, Job, Told, UNABLE};
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
            Err(refusal) if refusal.is_short_of_room => Err(Error::Io {
                path: job.folder().to_owned(),
                source: ErrorKind::StorageFull.into(),
            }),
            Err(refusal) => Err(Error::told(
                &refusal.reason,
                refusal.sentence,
                refusal.is_transient,
            )),
        }
    }

    /// Why it ended early.
    fn failure(&self, status: ExitStatus, said: &str) -> Error {
        // What Rust says before it ends for want of memory: more than its bound, which lets nothing be asked for beyond it.
        if status.signal().is_some() && said.contains("memory allocation of") {
            return self.out_of_memory();
        }
        // So ends what the kernel's OOM killer chose, whoever took the memory, and nobody else.
        if status.signal() == Some(rustix::process::Signal::KILL.as_raw()) {
            return Error::Unprepared {
                why: format!(
                    "was killed, likely for want of memory on this machine: it may have {} MiB, and there was less",
                    self.memory >> 20
                ),
            };
        }
        if status.code() == Some(UNABLE.into()) {
            return Error::Unprepared {
                why: format!("could not begin, or tell what it made: {}", said.trim()),
            };
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if a machine that is short of memory or room were told as its owner's mistake, and noted for an hour, or what
    /// is the component's own weren't.
    #[test]
    fn what_ends_the_process_is_the_components_fault_or_it_is_not() {
        let apart = Apart {
            program: "/nobody".into(),
            memory: 256 << 20,
            timeout: Duration::from_secs(1),
        };
        let (killed, aborted, segmented) = (9, 6, 11);
        let exited = |code: i32| code << 8;
        for (status, said, reason, is_transient) in [
            (killed, "", "PrepareFailed", true),
            (
                exited(UNABLE.into()),
                "No space left on device (os error 28)",
                "PrepareFailed",
                true,
            ),
            (
                aborted,
                "memory allocation of 8 bytes failed",
                "OutOfMemory",
                false,
            ),
            (aborted, "stack overflow", "PrepareFailed", false),
            (segmented, "", "PrepareFailed", false),
            (exited(101), "panicked at", "PrepareFailed", false),
        ] {
            let error = apart.failure(ExitStatus::from_raw(status), said);
            let told = (error.reason(), error.is_transient());
            assert_eq!(told, (reason, is_transient), "{error}");
            assert!(error.to_string().contains(said) || reason == "OutOfMemory");
        }
    }
}
