//! A terminal: a bash that is given one line after the other, as a person types them.

use std::io::{PipeReader, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use crate::is_running;

/// The longest that a line takes: it may build a project and all it depends on.
const PATIENCE: Duration = Duration::from_secs(900);
/// Around the exit status of each line; nothing that runs here prints it.
const MARK: u8 = 0x1e;
/// How often it is looked whether what goes on has ended.
const LOOK: Duration = Duration::from_millis(100);

/// A bash, and all that it printed. Dropping it ends what runs in it.
#[derive(Debug)]
pub struct Terminal {
    bash: Child,
    said: Arc<Said>,
    /// How much of what it said belongs to lines that have ended.
    read: usize,
}

#[derive(Debug, Default)]
struct Said {
    /// All of it, and whether nobody can print any more.
    bytes: Mutex<(Vec<u8>, bool)>,
    more: Condvar,
}

/// Something that goes on in a terminal's background.
#[derive(Debug, Clone, Copy)]
pub struct Job {
    id: u32,
    /// Where in what the terminal said it began.
    from: usize,
}

impl Terminal {
    /// Starts the bash that `command` is, which may be wrapped into other programs: `Command::new("bash")`, or
    /// `unshare --net bash`. It needs no arguments of bash's own.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn open(mut command: Command) -> anyhow::Result<Self> {
        // What cargo tells a test of its package would make the build scripts that read it run again.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
                command.env_remove(&name);
            }
        }
        // What a developer has set for wisp, or for bash, is no part of what a reader has.
        for name in [
            "BASH_ENV",
            "WISP_CLUSTER_REGISTRY",
            "WISP_GATEWAY",
            "WISP_REGISTRY",
            "WISP_RUNTIME",
        ] {
            command.env_remove(name);
        }
        let (reader, writer) = std::io::pipe()?;
        command
            .args(["--noprofile", "--norc"])
            .stdin(Stdio::piped())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0);
        let bash = command.spawn().context("cannot start bash")?;
        drop(command);
        let said = Arc::<Said>::default();
        let sink = Arc::clone(&said);
        std::thread::spawn(move || sink.gather(reader));
        Ok(Self {
            bash,
            said,
            read: 0,
        })
    }

    /// The first process of the terminal.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.bash.id()
    }

    /// Types `line` and waits for its end; gives what it printed, to standard output and error, and whatever the
    /// background printed meanwhile.
    ///
    /// # Errors
    /// When it doesn't succeed, with what it printed.
    pub fn run(&mut self, line: &str) -> anyhow::Result<String> {
        // What it runs must not read the lines that follow.
        self.type_line(&format!("{{ {line}\n}} </dev/null"))?;
        let (text, status) = self.end_of_line(line)?;
        ensure!(status == 0, "`{line}` ended with {status}:\n{text}");
        Ok(text)
    }

    /// Types `line`, a simple command that goes on, and waits until it has printed `sign`.
    ///
    /// # Errors
    /// When it ends before that, with what it printed.
    pub fn go_on(&mut self, line: &str, sign: &str) -> anyhow::Result<Job> {
        let line = line.strip_suffix('&').unwrap_or(line).trim_end();
        let from = self.read;
        self.type_line(&format!("{line} </dev/null &"))?;
        self.end_of_line(line)?;
        let said = self.run("echo id=$!")?;
        let id = said
            .rsplit_once("id=")
            .and_then(|(_, id)| id.split_whitespace().next()?.parse().ok())
            .with_context(|| format!("`{line}` has no process: {said:?}"))?;
        let job = Job { id, from };
        let is_over = || !is_running(u64::from(id));
        self.until(from, line, is_over, |bytes| {
            let text = String::from_utf8_lossy(bytes);
            text.contains(sign).then_some(())
        })
        .with_context(|| format!("`{line}` was to print {sign:?}"))?;
        Ok(job)
    }

    /// What was printed since it began, by it and by what was typed since.
    #[must_use]
    pub fn said_since(&self, job: Job) -> String {
        let said = self.said.lock();
        String::from_utf8_lossy(said.0.get(job.from..).unwrap_or_default()).into_owned()
    }

    /// Ends what goes on, and waits for it; gives its exit status.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn end(&mut self, job: Job) -> anyhow::Result<i32> {
        self.type_line(&format!("kill {0} && wait {0}", job.id))?;
        Ok(self.end_of_line("kill")?.1)
    }

    fn type_line(&mut self, text: &str) -> anyhow::Result<()> {
        let stdin = self.bash.stdin.as_mut().context("the terminal is closed")?;
        write!(stdin, "{text}\nprintf '\\036%s\\036' \"$?\"\n")?;
        Ok(stdin.flush()?)
    }

    fn end_of_line(&mut self, line: &str) -> anyhow::Result<(String, i32)> {
        let parts = self.until(
            self.read,
            line,
            || false,
            |bytes| {
                let mut parts = bytes.splitn(3, |byte| *byte == MARK);
                let (before, status, _) = (parts.next()?, parts.next()?, parts.next()?);
                let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                Some((text(before), text(status), before.len() + status.len() + 2))
            },
        )?;
        let (text, status, length) = parts;
        self.read += length;
        Ok((text, status.parse().context("bash told no exit status")?))
    }

    /// Waits until `is` finds something in what was printed from `from` on, or nothing more comes.
    fn until<T>(
        &self,
        from: usize,
        line: &str,
        is_over: impl Fn() -> bool,
        is: impl Fn(&[u8]) -> Option<T>,
    ) -> anyhow::Result<T> {
        let began = Instant::now();
        let mut said = self.said.lock();
        // It may print and end between the look at the one and the look at the other.
        let mut was_over = false;
        loop {
            let (bytes, is_closed) = &*said;
            let new = bytes.get(from..).unwrap_or_default();
            if let Some(found) = is(new) {
                return Ok(found);
            }
            let text = String::from_utf8_lossy(new);
            ensure!(!was_over && !is_closed, "`{line}` ended:\n{text}");
            ensure!(
                began.elapsed() < PATIENCE,
                "`{line}` takes too long:\n{text}"
            );
            was_over = is_over();
            said = self
                .said
                .more
                .wait_timeout(said, LOOK)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Said {
    fn lock(&self) -> MutexGuard<'_, (Vec<u8>, bool)> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gather(&self, mut reader: PipeReader) {
        let mut buffer = [0; 4096];
        loop {
            let read = reader.read(&mut buffer).unwrap_or(0);
            let mut said = self.lock();
            said.0
                .extend_from_slice(buffer.get(..read).unwrap_or_default());
            said.1 = read == 0;
            self.more.notify_all();
            if read == 0 {
                return;
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Its process group: what still runs in the background, too.
        let group = format!("-{}", self.bash.id());
        let _ = Command::new("kill")
            .args(["-s", "TERM", "--", &group])
            .status();
        drop(self.bash.stdin.take());
        let _ = self.bash.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if a line's end were not seen, a failure were swallowed, or something that goes on outlived its end.
    #[test]
    fn lines_run_one_after_the_other_in_one_shell() {
        let mut terminal = Terminal::open(Command::new("bash")).unwrap();
        terminal.run("WORD=five; cd /").unwrap();
        assert_eq!(terminal.run("echo $WORD $PWD").unwrap(), "five /\n");
        assert_eq!(terminal.run("cat").unwrap(), "");
        let error = terminal.run("echo because >&2; false").unwrap_err();
        assert!(
            format!("{error}").contains("ended with 1:\nbecause"),
            "{error}"
        );
        let job = terminal
            .go_on("tail -n +1 -f /etc/passwd &", "root")
            .unwrap();
        assert_eq!(terminal.end(job).unwrap(), 128 + 15);
        assert!(terminal.end(job).is_ok_and(|status| status != 0));
        assert!(terminal.go_on("true", "a word").is_err());
    }
}
