//! A program that runs, and how much it worked.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// A program, ended when this is dropped.
#[derive(Debug)]
pub struct Child {
    child: std::process::Child,
    name: String,
    /// Whether it leads a group that ends with it.
    leads: bool,
}

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
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        let stdout = child.stdout.take().context("its output is piped")?;
        let leads = false;
        Ok((Self { child, name, leads }, BufReader::new(stdout)))
    }

    /// As [`Child::start`], for a program that starts others and may leave them behind: all of them end with it.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_group(command: &mut Command) -> Result<(Self, BufReader<ChildStdout>)> {
        let (mut child, output) = Self::start(command.process_group(0))?;
        child.leads = true;
        Ok((child, output))
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
        self.send(Signal::TERM);
    }

    fn send(&self, signal: Signal) {
        let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) else {
            return;
        };
        let _ = if self.leads {
            kill_process_group(pid, signal)
        } else {
            kill_process(pid, signal)
        };
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
        if self.wait(Duration::from_secs(3)).is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if self.leads {
            // Its children may have outlived it.
            self.send(Signal::KILL);
        }
    }
}
