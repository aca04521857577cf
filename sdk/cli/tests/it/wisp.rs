//! The program.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::api::Api;

/// What it printed, and its exit status.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn of(output: &Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Its standard output, one object per line.
    pub(crate) fn json(&self) -> Vec<Value> {
        self.out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{self:?}")))
            .collect()
    }
}

/// A command in `folder`, which is its home, too; `api` is its cluster.
pub(crate) fn command(folder: &Path, api: Option<&Api>, words: &[&str]) -> Command {
    command_of(env!("CARGO_BIN_EXE_wisp").as_ref(), folder, api, words)
}

/// The same, of the command line that is at `program`.
pub(crate) fn command_of(
    program: &Path,
    folder: &Path,
    api: Option<&Api>,
    words: &[&str],
) -> Command {
    let mut command = Command::new(program);
    command
        .args(words)
        .current_dir(folder)
        .env_clear()
        .env("HOME", folder)
        .env("TZ", "UTC")
        .stdin(Stdio::null());
    if let Some(api) = api {
        std::fs::write(folder.join("kubeconfig"), api.kubeconfig()).unwrap();
        command.env("KUBECONFIG", folder.join("kubeconfig"));
    }
    command
}

/// Runs it to its end.
pub(crate) fn run(folder: &Path, api: Option<&Api>, words: &[&str]) -> Said {
    Said::of(&command(folder, api, words).output().unwrap())
}

/// Waits for `done`.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < end, "{what} didn't come");
        std::thread::sleep(Duration::from_millis(5));
    }
}
