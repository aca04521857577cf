//! Which processes did a program of tests start, and they in turn? All of them are ended where the program hangs. They are
//! known by a mark in their environment, which children inherit, daemons too.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};

/// The variable that holds the mark.
const MARK: &str = "WISP_TEST_PROGRAM";

/// What starts the processes of the tests' clusters and takes them down. Other programs of tests may use a cluster that this one
/// started, and once nobody does it goes by itself.
const CLUSTER_DRIVER: &str = "wisp-cluster";

/// How long what is killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is seen whether it is.
const LOOKED_AFTER: Duration = Duration::from_millis(20);

/// All that one program started, and that program.
pub(crate) struct Started {
    /// As it stands in an environment.
    mark: String,
}

impl Started {
    /// Marks `program`, which is yet to be started.
    pub(crate) fn by(program: &mut Command) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // What an earlier run left behind, whose process id was the same, has another.
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let nanos = since.unwrap_or_default().as_nanos();
        let value = format!("{}-{nanos}-{number}", std::process::id());
        program.env(MARK, &value);
        Self {
            mark: format!("{MARK}={value}"),
        }
    }

    /// Kills all of it, but for clusters.
    pub(crate) fn end(&self) {
        let until = Instant::now() + PATIENCE;
        loop {
            // Anew each time: those that were seen may have started others before they ended.
            let running = self.running();
            if running.is_empty() || Instant::now() > until {
                return;
            }
            for process in &running {
                // An error means that it has ended.
                let _ = pidfd_send_signal(process, Signal::KILL);
            }
            thread::sleep(LOOKED_AFTER);
        }
    }

    fn running(&self) -> Vec<OwnedFd> {
        let Ok(processes) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        processes
            .filter_map(|process| process.ok()?.file_name().to_str()?.parse::<i32>().ok())
            .filter_map(|id| {
                // Ahead of the look at it: a process that has the id afterwards isn't the one that is signalled.
                let process = pidfd_open(Pid::from_raw(id)?, PidfdFlags::empty()).ok()?;
                self.includes(id).then_some(process)
            })
            .collect()
    }

    /// Whether a process carries the mark, or was started by one that does: environments can be cleared. Those of other users
    /// are none of ours.
    fn includes(&self, id: i32) -> bool {
        let user = fs::metadata(format!("/proc/{id}")).map(|process| process.uid());
        if user.ok() != Some(geteuid().as_raw()) {
            return false;
        }
        let environment = fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
        let mut variables = environment.split(|byte| *byte == 0);
        let name = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
        let is_of_cluster = name.trim_end() == CLUSTER_DRIVER
            || variables.clone().any(|variable| {
                let value = variable.strip_prefix(wisp_cluster::MARK.as_bytes());
                value.is_some_and(|value| value.starts_with(b"="))
            });
        !is_of_cluster
            && (variables.any(|variable| variable == self.mark.as_bytes())
                || parent(id).is_some_and(|parent| self.includes(parent)))
    }
}

/// Whose child a process is: <https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html>.
fn parent(id: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name, in parentheses, may hold anything; the state is between it and the parent.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{BufRead as _, BufReader};
    use std::process::Stdio;

    use rustix::process::kill_process;

    use super::*;
    use crate::command::command;

    fn is_alive(id: i32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        // Nobody but init waits for what was orphaned.
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }

    /// Would fail if a daemon, or a child without its environment, went on without the program that started it, or if what
    /// another program started ended with that, or a cluster, which others may use.
    #[test]
    fn all_that_a_program_started_ends_but_clusters() {
        // Each tells its id when it has become what it is to be.
        let script = "
            (setsid sh -c 'echo daemon $$; exec sleep 600' &)
            env -i /bin/sh -c 'echo cleared $$; exec sleep 600' &
            WISP_CLUSTER_PART=x/node1 sh -c 'echo cluster $$; exec sleep 600' &
            wait";
        let mut program = command("sh");
        program.args(["-c", script]).stdout(Stdio::piped());
        let started = Started::by(&mut program);
        let mut program = program.spawn().unwrap();
        let mut other = command("sleep");
        other.arg("600");
        let of_other = Started::by(&mut other);
        let mut other = other.spawn().unwrap();
        let said = BufReader::new(program.stdout.take().unwrap());
        let ids: BTreeMap<String, i32> = said
            .lines()
            .take(3)
            .map(|line| {
                let line = line.unwrap();
                let (name, id) = line.split_once(' ').unwrap();
                (name.to_owned(), id.parse().unwrap())
            })
            .collect();
        assert!(ids.values().all(|id| is_alive(*id)), "{ids:?}");

        started.end();
        assert!(program.try_wait().unwrap().is_some());
        for name in ["daemon", "cleared"] {
            assert!(!is_alive(ids[name]), "{name}");
        }
        assert!(is_alive(ids["cluster"]));
        assert!(other.try_wait().unwrap().is_none());

        let cluster = Pid::from_raw(ids["cluster"]).unwrap();
        kill_process(cluster, Signal::KILL).unwrap();
        of_other.end();
        assert!(other.try_wait().unwrap().is_some());
    }
}
