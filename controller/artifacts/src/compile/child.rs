//! What the process does that prepares one component for another process: it bounds itself before it reads anything, and
//! leaves what it made in a folder.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, getpid, kill_process, setrlimit};
use serde::{Deserialize, Serialize};
use wisp_engine::preinit::Limits;
use wisp_engine::{Cpu, Engines};

use super::{Facts, failure, prepare};
use crate::error::Error;
use crate::store::is_full;

/// The first argument of such a process; the second is a [`Job`].
pub(super) const ARGUMENT: &str = "prepare-component";

/// The exit status of one that could not do its work (`EX_TEMPFAIL`): what a program that crashes ends with is another.
pub(super) const UNABLE: u8 = 75;

/// A component to prepare, and within what bounds: what a program does in place of its own work when an
/// [`Apart`](super::Apart) started it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    source: PathBuf,
    folder: PathBuf,
    cpu: String,
    /// The most bytes of memory that the process may have.
    memory: u64,
    init_timeout: Duration,
    init_memory: usize,
    init_component: usize,
}

/// What became of it.
pub(super) type Told = Result<Facts, Refusal>;

/// Why there is nothing.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Refusal {
    pub(super) reason: String,
    pub(super) sentence: String,
    pub(super) is_transient: bool,
    /// Whether memory that was asked for wasn't given.
    pub(super) is_short_of_memory: bool,
    /// Whether there is no room on the disk.
    pub(super) is_short_of_room: bool,
}

impl Job {
    pub(super) fn new(
        source: PathBuf,
        folder: &Path,
        cpu: Cpu,
        init: &Limits,
        memory: u64,
    ) -> Self {
        Self {
            source,
            folder: folder.to_owned(),
            cpu: cpu.to_string(),
            memory,
            init_timeout: init.timeout,
            init_memory: init.memory,
            init_component: init.component,
        }
    }

    /// The job that this program was started for, by its arguments with its own name; `None` where it was started for
    /// something else. To be asked, and [run](Job::run), before there are other threads.
    pub fn given(arguments: impl IntoIterator<Item = OsString>) -> Option<Self> {
        let mut arguments = arguments.into_iter().skip(1);
        if arguments.next()? != ARGUMENT {
            return None;
        }
        serde_json::from_str(arguments.next()?.to_str()?).ok()
    }

    /// Does it. Whoever waits for it has this process's standard input: its end is this process's.
    pub fn run(&self) -> ExitCode {
        let done = end_with_standard_input()
            .and_then(|()| self.bound())
            .and_then(|()| self.tell(&self.work()));
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::from(UNABLE)
            }
        }
    }

    /// The component, where it is another than it was.
    pub(super) fn component(&self) -> PathBuf {
        self.folder.join("component")
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn code(&self) -> PathBuf {
        self.folder.join("code")
    }

    pub(super) fn told(&self) -> PathBuf {
        self.folder.join("told.json")
    }

    /// Bounds this process's memory for good.
    ///
    /// `RLIMIT_DATA` counts what was made writable, touched or not. The gigabytes of addresses that wasmtime reserves for each
    /// memory aren't, which `RLIMIT_AS` would count. It is the bound: where the kernel's OOM killer comes first, which
    /// takes this process before others, kubelets by default have it take all of the container (`memory.oom.group`).
    fn bound(&self) -> std::io::Result<()> {
        // Nothing is lost where this can't be written.
        let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
        let both = |bytes| Rlimit {
            current: Some(bytes),
            maximum: Some(bytes),
        };
        setrlimit(Resource::Core, both(0))?;
        setrlimit(Resource::Data, both(self.memory))?;
        Ok(())
    }

    fn work(&self) -> Result<Facts, Error> {
        let io = |path: &Path, source| Error::Io {
            path: path.to_owned(),
            source,
        };
        let cpu: Cpu = self.cpu.parse().map_err(|_| Error::Thread)?;
        let bytes = std::fs::read(&self.source).map_err(|error| io(&self.source, error))?;
        let limits = Limits {
            timeout: self.init_timeout,
            memory: self.init_memory,
            component: self.init_component,
        };
        let made = prepare(&bytes, &Engines::for_cpu(cpu), &limits)?;
        // Under its digest in the store.
        if made.component != bytes {
            let path = self.component();
            std::fs::write(&path, &made.component).map_err(|error| io(&path, error))?;
        }
        let path = self.code();
        std::fs::write(&path, &made.code).map_err(|error| io(&path, error))?;
        Ok(made.facts)
    }

    fn tell(&self, done: &Result<Facts, Error>) -> std::io::Result<()> {
        let told: Result<&Facts, Refusal> = done.as_ref().map_err(|error| {
            Refusal {
                reason: error.reason().to_owned(),
                is_transient: error.is_transient(),
                // ENOMEM, as an `io::Error` ends with it: wasmtime asks for memory by itself.
                is_short_of_memory: error.sentence().contains("(os error 12)"),
                is_short_of_room: matches!(error, Error::Io { source, .. } if is_full(source)),
                sentence: failure::sentence(error),
            }
        });
        std::fs::write(self.told(), serde_json::to_vec(&told)?)
    }
}

/// Ends this process with whoever started it: the kernel closes the other end of its standard input then, however that
/// process ended. `PR_SET_PDEATHSIG` wouldn't do: it goes by the thread that started this process, and threads of a
/// runtime's pool come and go.
fn end_with_standard_input() -> std::io::Result<()> {
    let wait = || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = kill_process(getpid(), Signal::KILL);
    };
    std::thread::Builder::new()
        .name("wisp-parent".to_owned())
        .stack_size(64 << 10)
        .spawn(wait)
        .map(drop)
}
