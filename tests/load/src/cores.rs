//! Cores for what serves, and others for what loads it: on the same ones, whoever is woken for an answer takes the core from
//! whoever gives it, at each answer, and the slower the server, the more it pays for that.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::machine;

/// Some of this machine's cores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cores(Vec<usize>);

/// All that this process may use, in two parts.
#[derive(Debug, Clone)]
pub(crate) struct Halves {
    pub(crate) server: Cores,
    pub(crate) load: Cores,
}

impl Halves {
    /// None where there is one core.
    pub(crate) fn here() -> Option<Self> {
        // <https://man7.org/linux/man-pages/man5/proc_pid_status.5.html>
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let mut lines = status.lines();
        let mut all = listed(lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?)?;
        // A control group may give less time than these cores have.
        all.truncate(machine::cores());
        let (server, load) = all.split_at_checked(all.len() / 2)?;
        (!server.is_empty()).then(|| Self {
            server: Cores(server.to_vec()),
            load: Cores(load.to_vec()),
        })
    }
}

/// The numbers of a list such as `0-3,8`.
fn listed(list: &str) -> Option<Vec<usize>> {
    let mut all = Vec::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        all.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
    }
    Some(all)
}

impl Cores {
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// From now on the calling thread runs on these cores alone.
    pub(crate) fn keep_this_thread(&self) -> Result<()> {
        // <https://man7.org/linux/man-pages/man5/proc_thread-self.5.html>: it leads to PID/task/TID.
        let thread = std::fs::read_link("/proc/thread-self").context("no /proc/thread-self")?;
        let id = thread.file_name().context("a thread has an id")?;
        let mut keep = Command::new("taskset");
        keep.args(["--cpu-list", "--pid", &self.list()]).arg(id);
        let output = keep.output().context("cannot start taskset")?;
        ensure!(
            output.status.success(),
            "{keep:?} failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// As taskset takes it.
    fn list(&self) -> String {
        let list: Vec<String> = self.0.iter().map(usize::to_string).collect();
        list.join(",")
    }

    /// The command's program, arguments and environment, on these cores alone.
    fn keep(&self, command: &Command) -> Command {
        let mut kept = Command::new("taskset");
        kept.args(["--cpu-list", &self.list()])
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => kept.env(name, value),
                None => kept.env_remove(name),
            };
        }
        kept
    }
}

/// `command`, on these cores alone, if any are given.
pub(crate) fn kept(command: Command, cores: Option<&Cores>) -> Command {
    match cores {
        Some(cores) => cores.keep(&command),
        None => command,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_cores_is_read() {
        assert_eq!(listed("\t0-2,8,10-11\n"), Some(vec![0, 1, 2, 8, 10, 11]));
        assert_eq!(listed("0"), Some(vec![0]));
        assert_eq!(listed("none"), None);
    }

    /// Would fail if a server shared a core with what loads it, or a command lost something.
    #[test]
    fn what_is_kept_to_some_cores_is_on_no_other() {
        let Some(Halves { server, load }) = Halves::here() else {
            eprintln!("skipped: there is one core");
            return;
        };
        assert!(!server.0.iter().any(|core| load.0.contains(core)));
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo $MARK; grep Cpus_allowed_list /proc/self/status"])
            .env("MARK", "here");
        let output = kept(command, Some(&load)).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (mark, cores) = text.split_once('\n').unwrap();
        assert_eq!(mark, "here");
        let first = load.0[0].to_string();
        assert!(cores.contains(&first), "{cores}");
        assert!(!cores.contains(&format!("\t{}", server.0[0])), "{cores}");
    }
}
