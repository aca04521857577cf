//! Which processes belong to a cluster, and how are they ended? A process is known by its id and its start time, so an
//! id that the kernel gave to somebody else is never signalled.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// The variable that marks all processes that a cluster started: its id, a slash, and the part of the cluster.
pub const MARK: &str = "WISP_CLUSTER_PART";

/// One process, or what was one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// In clock ticks since boot.
    started: u64,
}

impl Process {
    /// The process that has this id now.
    pub(crate) fn of(pid: i32) -> Option<Process> {
        stat(pid).map(|stat| Process {
            pid,
            started: stat.started,
        })
    }

    /// Whether any of it still runs. A zombie does not, unless its first thread only ended before the others, which hold
    /// its sockets open.
    pub(crate) fn alive(&self) -> bool {
        stat(self.pid).is_some_and(|stat| {
            stat.started == self.started && !(stat.zombie && threads(self.pid) <= 1)
        })
    }

    /// Sends a signal, if it is still the same process.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.alive()
            && let Some(pid) = Pid::from_raw(self.pid)
        {
            // Gone in between is as good as signalled.
            let _ = kill_process(pid, signal);
        }
    }

    /// Its children.
    pub(crate) fn children(&self) -> Vec<Process> {
        let path = format!("/proc/{0}/task/{0}/children", self.pid);
        let text = fs::read_to_string(path).unwrap_or_default();
        text.split_whitespace()
            .filter_map(|word| word.parse().ok())
            .filter_map(Process::of)
            .collect()
    }

    /// The inode of its pid namespace.
    pub(crate) fn pid_namespace(&self) -> Option<String> {
        let link = fs::read_link(format!("/proc/{}/ns/pid", self.pid)).ok()?;
        Some(link.to_string_lossy().into_owned())
    }

    /// What it calls itself.
    pub(crate) fn name(&self) -> String {
        fs::read_to_string(format!("/proc/{}/comm", self.pid))
            .unwrap_or_default()
            .trim()
            .to_owned()
    }

    /// Its resident memory in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let kilobytes = text
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|number| number.parse::<u64>().ok());
        kilobytes.unwrap_or(0) * 1024
    }

    /// Its proportional share of memory in bytes: pages that n processes share count an n-th.
    pub(crate) fn proportional(&self) -> u64 {
        let text =
            fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid)).unwrap_or_default();
        let kilobytes = text
            .lines()
            .find_map(|line| line.strip_prefix("Pss:"))
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|number| number.parse::<u64>().ok());
        kilobytes.unwrap_or(0) * 1024
    }
}

struct Stat {
    started: u64,
    zombie: bool,
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses and may hold anything; the third is the state, the 22nd the start.
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let zombie = matches!(fields.next()?, "Z" | "X");
    let started = fields.nth(18)?.parse().ok()?;
    Some(Stat { started, zombie })
}

fn threads(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

/// All processes of the machine.
pub(crate) fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(Process::of)
        .collect()
}

/// The processes whose mark starts with `mark`.
pub(crate) fn marked(mark: &str) -> Vec<Process> {
    let wanted = format!("{MARK}={mark}");
    let mut found = all();
    found.retain(|process| {
        let environment = fs::read(
            Path::new("/proc")
                .join(process.pid.to_string())
                .join("environ"),
        )
        .unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|entry| entry.starts_with(wanted.as_bytes()))
    });
    found
}

/// The processes that live in one of these pid namespaces.
pub(crate) fn in_namespaces(namespaces: &BTreeSet<String>) -> Vec<Process> {
    let mut found = all();
    found.retain(|process| {
        process
            .pid_namespace()
            .is_some_and(|namespace| namespaces.contains(&namespace))
    });
    found
}

/// Waits until none of `processes` is alive.
///
/// # Errors
/// When some are after `limit`; the error names them.
pub(crate) fn wait_gone(processes: &[Process], limit: Duration) -> Result<()> {
    let end = Instant::now() + limit;
    loop {
        let left: Vec<String> = processes
            .iter()
            .filter(|p| p.alive())
            .map(|p| format!("{} ({})", p.pid, p.name()))
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > end {
            bail!(
                "still running after {} s: {}",
                limit.as_secs(),
                left.join(", ")
            );
        }
        sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn a_process_that_ended_is_not_the_one_that_took_its_id() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let process = Process::of(child.id().cast_signed()).unwrap();
        assert!(process.alive());
        let another = Process {
            started: process.started + 1,
            ..process
        };
        assert!(!another.alive());
        another.signal(Signal::KILL);
        assert!(
            process.alive(),
            "a signal for another start time must not arrive"
        );
        process.signal(Signal::KILL);
        child.wait().unwrap();
        assert!(!process.alive());
    }

    #[test]
    fn processes_are_found_by_their_mark() {
        let mark = format!("test-{}", std::process::id());
        let mut child = std::process::Command::new("cat")
            .env(MARK, format!("{mark}/node1"))
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // Who answers has its environment; a moment before, there is none to be seen.
        child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let found: Vec<i32> = marked(&format!("{mark}/"))
            .iter()
            .map(|process| process.pid)
            .collect();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, [child.id().cast_signed()]);
    }
}
