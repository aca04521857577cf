//! A program that runs, and how much it worked.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, waitpid};
use tokio::signal::unix::{SignalKind, signal};

/// A program, ended when this is dropped, and with this process where [`Child::all_end_with_this`] was called.
#[derive(Debug)]
pub struct Child {
    child: std::process::Child,
    name: String,
    running: Running,
}

/// Who is to be signalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Running {
    pid: Pid,
    /// Whether it leads a group that ends with it.
    leads: bool,
}

/// All that were started and not dropped.
static RUNNING: Mutex<Vec<Running>> = Mutex::new(Vec::new());

/// A program that is asked to end has so long for it.
const PATIENCE: Duration = Duration::from_secs(3);

/// Processor time.
#[derive(Debug, Clone, Copy)]
pub struct Used {
    /// Of its own code.
    pub user: Duration,
    /// Of the kernel for it.
    pub system: Duration,
}

impl Used {
    /// Both.
    #[must_use]
    pub fn all(self) -> Duration {
        self.user + self.system
    }
}

/// Memory in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// RSS.
    pub resident: f64,
    /// PSS.
    pub share: f64,
}

impl Child {
    /// Starts it with its standard output piped.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(command: &mut Command) -> Result<(Self, BufReader<ChildStdout>)> {
        Self::spawn(command, false)
    }

    fn spawn(command: &mut Command, leads: bool) -> Result<(Self, BufReader<ChildStdout>)> {
        let name = command.get_program().to_string_lossy().into_owned();
        // None is started while all are ended.
        let mut all = all_running();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        let stdout = child.stdout.take().context("its output is piped")?;
        let pid = Pid::from_child(&child);
        let running = Running { pid, leads };
        all.push(running);
        drop(all);
        let child = Self {
            child,
            name,
            running,
        };
        Ok((child, BufReader::new(stdout)))
    }

    /// As [`Child::start`], for a program that starts others and may leave them behind: all of them end with it.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_group(command: &mut Command) -> Result<(Self, BufReader<ChildStdout>)> {
        Self::spawn(command.process_group(0), true)
    }

    /// From now on SIGINT and SIGTERM end all children before this process: those that lead a group don't see a Ctrl-C, and
    /// none sees what is sent to this process alone.
    ///
    /// # Errors
    /// When the signals can't be listened for.
    pub fn all_end_with_this() -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (mut interrupt, mut terminate) = {
            let _entered = runtime.enter();
            let interrupt = signal(SignalKind::interrupt())?;
            (interrupt, signal(SignalKind::terminate())?)
        };
        std::thread::spawn(move || {
            let which = runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => Signal::INT,
                    _ = terminate.recv() => Signal::TERM,
                }
            });
            let all = all_running();
            end(&all);
            // As a shell tells that a signal ended it.
            std::process::exit(128 + which.as_raw());
        });
        Ok(())
    }

    /// Reads lines until one yields something.
    ///
    /// # Errors
    /// When the program ends before.
    pub fn line<T>(
        &self,
        output: &mut BufReader<ChildStdout>,
        find: impl Fn(&str) -> Option<T>,
    ) -> Result<T> {
        let (mut line, mut last) = (String::new(), String::new());
        loop {
            std::mem::swap(&mut line, &mut last);
            line.clear();
            if output.read_line(&mut line)? == 0 {
                let last = last.trim_end();
                bail!(
                    "{} ended before it said what it should, after `{last}`",
                    self.name
                );
            }
            if let Some(found) = find(&line) {
                return Ok(found);
            }
        }
    }

    /// The processor time that it and its children have used so far.
    ///
    /// # Errors
    /// When it is gone.
    pub fn processor_time(&self) -> Result<Used> {
        let pid = self.child.id();
        let (mut user, mut system) = ticks(pid)?;
        let children = format!("/proc/{pid}/task/{pid}/children");
        for child in std::fs::read_to_string(children)?.split_whitespace() {
            let (more_user, more_system) = ticks(child.parse()?)?;
            user += more_user;
            system += more_system;
        }
        let per_second = u32::try_from(rustix::param::clock_ticks_per_second())?;
        Ok(Used {
            user: Duration::from_secs(user) / per_second,
            system: Duration::from_secs(system) / per_second,
        })
    }

    /// Its resident memory, in bytes: all of it, and its share where others map the same pages,
    /// <https://man7.org/linux/man-pages/man5/proc_pid_smaps.5.html>.
    ///
    /// # Errors
    /// When it is gone.
    pub fn memory(&self) -> Result<Memory> {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        let bytes = |name: &str| -> Result<f64> {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.split_whitespace().next());
            Ok(kib.with_context(|| format!("no {name}"))?.parse::<f64>()? * 1024.0)
        };
        Ok(Memory {
            resident: bytes("Rss:")?,
            share: bytes("Pss:")?,
        })
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.running.send(Signal::TERM);
    }

    /// The process' id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has ended, and tells whether it ended well.
    ///
    /// # Errors
    /// When it runs on for longer than `patience`.
    pub fn wait(&mut self, patience: Duration) -> Result<bool> {
        let since = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.success());
            }
            if since.elapsed() > patience {
                bail!("{} did not end within {patience:?}", self.name);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Running {
    fn send(self, signal: Signal) {
        let _ = if self.leads {
            kill_process_group(self.pid, signal)
        } else {
            kill_process(self.pid, signal)
        };
    }
}

fn all_running() -> MutexGuard<'static, Vec<Running>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends them: each is asked at first, and has its time.
fn end(all: &[Running]) {
    for one in all {
        one.send(Signal::TERM);
    }
    let since = Instant::now();
    for one in all {
        // An error means that it was waited for already.
        while let Ok(None) = waitpid(Some(one.pid), WaitOptions::NOHANG) {
            if since.elapsed() > PATIENCE {
                one.send(Signal::KILL);
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if one.leads {
            // Its children may have outlived it.
            one.send(Signal::KILL);
        }
    }
}

/// User and system time of one process in ticks, <https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html>.
fn ticks(pid: u32) -> Result<(u64, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything.
    let (_, rest) = stat.rsplit_once(')').context("a stat has a name")?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut next = || {
        fields
            .next()
            .context("a stat has times")?
            .parse::<u64>()
            .map_err(anyhow::Error::from)
    };
    Ok((next()?, next()?))
}

impl Drop for Child {
    fn drop(&mut self) {
        // As it would be asked to end, so that it takes its own children along.
        self.terminate();
        if self.wait(PATIENCE).is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if self.running.leads {
            // Its children may have outlived it.
            self.running.send(Signal::KILL);
        }
        all_running().retain(|other| *other != self.running);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_alive(pid: u32) -> bool {
        // Its children are no children of this process, so nobody but init waits for them.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }

    /// Would fail if an interrupted bench left model servers behind, or what those started.
    #[test]
    fn a_group_ends_with_what_ignores_that_it_is_asked() {
        let script = "trap '' TERM; sleep 600 & echo $!; exec sleep 600 >/dev/null";
        let (child, mut output) =
            Child::start_group(Command::new("sh").args(["-c", script])).unwrap();
        let other = child
            .line(&mut output, |line| line.trim().parse::<u32>().ok())
            .unwrap();
        assert!(all_running().contains(&child.running));
        assert!(is_alive(child.id()) && is_alive(other));
        end(&[child.running]);
        let since = Instant::now();
        while is_alive(child.id()) || is_alive(other) {
            assert!(since.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(5));
        }
        let running = child.running;
        drop(child);
        assert!(!all_running().contains(&running));
    }
}
