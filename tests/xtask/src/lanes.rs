//! Running the tests' programs, in two lanes: those that mostly wait for pods to start run beside all others. `cargo test`
//! runs one program after another.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::build::CHECKED;
use crate::command::{cargo, command, execute, output};
use crate::started::Started;

/// The programs of the second lane, by package and target: each has a cluster of its own, or shares one with its like, and
/// leaves half of the processor idle.
const WAITING: [(&str, &str); 2] = [("wisp-e2e", "it"), ("wisp-e2e", "outage")];

/// How long a program may take. One that takes longer hangs, and nobody would be told what else was found.
const LIMIT: Duration = Duration::from_secs(60 * 60);

/// How often it is seen whether it has ended.
const LOOKED_AFTER: Duration = Duration::from_millis(20);

/// How long the last lines of a program that ended may take.
const LEFT_BEHIND: Duration = Duration::from_secs(10);

/// A program of tests, as cargo built it.
struct Program {
    package: String,
    target: String,
    /// The package's, where cargo would run it.
    folder: PathBuf,
    file: PathBuf,
}

/// Builds and runs all tests of the workspace but those of `without`. All run, also where some fail.
pub(crate) fn run(without: &str) -> Result<()> {
    let programs = build(without)?;
    let (waiting, others): (Vec<_>, Vec<_>) =
        programs.into_iter().partition(|program| program.waits());
    if waiting.len() != WAITING.len() {
        bail!("of {WAITING:?} only {} are there", waiting.len());
    }
    let failures = thread::scope(|scope| {
        let beside = scope.spawn(|| run_all(&waiting));
        let mut failures = run_all(&others);
        match beside.join() {
            Ok(theirs) => failures.extend(theirs),
            Err(_) => failures.push(anyhow!("the second lane ended early")),
        }
        failures
    });
    let documentation = execute(tests(without).arg("--doc"));
    let failures: Vec<_> = failures.into_iter().chain(documentation.err()).collect();
    if failures.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = failures.iter().map(|error| format!("{error:#}")).collect();
    bail!("{}", lines.join("\n"))
}

fn tests(without: &str) -> std::process::Command {
    let mut tests = cargo();
    tests.args(["test", "--workspace", "--exclude", without]);
    tests.args(["--features", CHECKED, "--no-fail-fast"]);
    tests
}

/// Builds the programs, and gives them in an order of their own.
fn build(without: &str) -> Result<Vec<Program>> {
    let format = "--message-format=json-render-diagnostics";
    let messages = output(tests(without).args(["--no-run", format]))?;
    let mut programs = Vec::new();
    for line in messages.lines() {
        let message: Value = serde_json::from_str(line)
            .with_context(|| format!("cargo said what is no JSON: {line}"))?;
        programs.extend(Program::of(&message));
    }
    programs.sort_by(|a, b| a.folder.cmp(&b.folder).then(a.target.cmp(&b.target)));
    Ok(programs)
}

/// Runs the programs one after another, and gives which failed.
fn run_all(programs: &[Program]) -> Vec<anyhow::Error> {
    programs
        .iter()
        .filter_map(|program| program.run().err())
        .collect()
}

impl Program {
    /// The program that one of cargo's messages tells of, if it is one of tests:
    /// <https://doc.rust-lang.org/cargo/reference/external-tools.html#artifact-messages>.
    fn of(message: &Value) -> Option<Self> {
        let is_test = message.pointer("/profile/test") == Some(&Value::Bool(true));
        let text = |pointer: &str| message.pointer(pointer)?.as_str().map(str::to_owned);
        let file = text("/executable").filter(|_| is_test)?;
        let manifest = PathBuf::from(text("/manifest_path")?);
        let folder = manifest.parent()?.to_path_buf();
        // path+file:///…/tests/e2e#wisp-e2e@0.1.0, or without the name where the folder is called so.
        let id = text("/package_id")?;
        let (_, end) = id.rsplit_once('#')?;
        let package = match end.split_once('@') {
            Some((name, _)) => name.to_owned(),
            None => folder.file_name()?.to_str()?.to_owned(),
        };
        Some(Self {
            package,
            target: text("/target/name")?,
            folder,
            file: file.into(),
        })
    }

    fn waits(&self) -> bool {
        WAITING.contains(&(self.package.as_str(), self.target.as_str()))
    }

    /// Runs it. What it prints comes line by line, behind its name where it runs beside others.
    fn run(&self) -> Result<()> {
        let name = format!("{} {}", self.package, self.target);
        let began = Instant::now();
        println!("\n── {name}");
        let (reader, writer) = std::io::pipe()?;
        let mut run = command(&self.file);
        // All else that cargo would set, such as where the compiler's libraries are, this program has from cargo itself.
        run.current_dir(&self.folder)
            .env("CARGO_MANIFEST_DIR", &self.folder)
            .env("CARGO_MANIFEST_PATH", self.folder.join("Cargo.toml"))
            .env("CARGO_PKG_NAME", &self.package)
            .stdin(std::process::Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        let started = Started::by(&mut run);
        let mut child = run
            .spawn()
            .with_context(|| format!("cannot start {}", self.file.display()))?;
        // It has the pipe's ends, too.
        drop(run);
        let prefix = self.waits().then(|| format!("{name} │ "));
        let (sender, failed) = mpsc::channel();
        let print = move || {
            let mut reasons = Reasons::default();
            for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                if let Some(said) = reasons.read(&line) {
                    let _ = sender.send(said);
                }
                println!("{}{line}", prefix.as_deref().unwrap_or_default());
            }
        };
        thread::spawn(print);
        let status = wait(&mut child, &started, LIMIT)?;
        // What it left running holds the pipe as long as it lives: that isn't waited for.
        let rest = Instant::now() + LEFT_BEHIND;
        let mut said = Vec::new();
        let left_behind = loop {
            match failed.recv_timeout(rest.saturating_duration_since(Instant::now())) {
                Ok(line) => said.push(line),
                Err(RecvTimeoutError::Disconnected) => break false,
                Err(RecvTimeoutError::Timeout) => break true,
            }
        };
        if left_behind {
            println!("── {name} left a process behind that writes to its output");
        }
        let seconds = began.elapsed().as_secs_f64();
        println!("── {name} took {seconds:.1} s");
        let said = said.join("\n");
        match status {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("{name} failed: {status}\n{said}"),
            None => bail!(
                "{name} was killed after {} min, and what it had started: it printed which tests have \"been running for over 60 seconds\"\n{said}",
                LIMIT.as_secs() / 60
            ),
        }
    }
}

/// How `child` ended; `None` where it didn't within `limit`, and was killed with all that it had `started`.
fn wait(child: &mut Child, started: &Started, limit: Duration) -> Result<Option<ExitStatus>> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            // Before its children have lost their parent.
            started.end();
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(LOOKED_AFTER);
    }
}

/// Finds in what a program of tests prints which of them failed, and why: thousands of lines come between there and the
/// end of all checks.
#[derive(Default)]
struct Reasons {
    /// How many lines of a failed test's output may still follow; 0 outside of one.
    left: usize,
}

impl Reasons {
    /// Enough for a message of several lines.
    const LINES: usize = 30;

    /// What of the next line is to be said again: tests that failed, and what they printed up to where in the code it was.
    fn read(&mut self, line: &str) -> Option<String> {
        // Also where the program doesn't live to tell why.
        if line.starts_with("test ") && line.ends_with(" ... FAILED") {
            return Some(line.to_owned());
        }
        let output = line.strip_prefix("---- ");
        if let Some(test) = output.and_then(|rest| rest.strip_suffix(" stdout ----")) {
            self.left = Self::LINES;
            return Some(format!("{test}:"));
        }
        let is_end = line == "failures:" || line.to_lowercase().starts_with("stack backtrace:");
        if self.left == 0 || is_end {
            self.left = 0;
            return None;
        }
        self.left -= 1;
        (!line.is_empty()).then(|| format!("    {line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if a program that hangs were waited for, or one that ends were said to hang.
    #[test]
    fn a_program_that_hangs_is_killed() {
        let start = |program: &str, arguments: &[&str]| {
            let mut command = command(program);
            let started = Started::by(command.args(arguments));
            (command.spawn().unwrap(), started)
        };
        let (mut hangs, started) = start("sleep", &["600"]);
        let status = wait(&mut hangs, &started, Duration::ZERO).unwrap();
        assert_eq!(status, None);
        assert!(hangs.try_wait().unwrap().is_some());
        let (mut ends, started) = start("true", &[]);
        let status = wait(&mut ends, &started, LIMIT).unwrap();
        assert!(status.unwrap().success());
    }

    /// Would fail if a test's program were overlooked, or one that is no test run.
    #[test]
    fn cargo_says_what_a_program_of_tests_is() {
        let message = |test: bool, id: &str| {
            serde_json::json!({
                "reason": "compiler-artifact", "package_id": id, "manifest_path": "/w/tests/e2e/Cargo.toml",
                "target": {"name": "it"}, "profile": {"test": test}, "executable": "/t/it-1",
            })
        };
        let full = "path+file:///w/tests/e2e#wisp-e2e@0.1.0";
        let found = Program::of(&message(true, full)).unwrap();
        assert!(found.waits());
        assert_eq!(found.folder, PathBuf::from("/w/tests/e2e"));
        assert!(Program::of(&message(false, full)).is_none());
        let short = Program::of(&message(true, "path+file:///w/tests/e2e#0.1.0")).unwrap();
        assert_eq!(short.package, "e2e");
        let finished = serde_json::json!({"reason": "build-finished", "success": true});
        assert!(Program::of(&finished).is_none());
    }

    /// Would fail if the last lines of a check didn't say what failed in it and why, or were filled with backtraces.
    #[test]
    fn the_end_says_which_tests_failed_and_why() {
        let printed = "\
test a::b ... FAILED
test a::c ... ok

failures:

---- a::b stdout ----
Error: off by 2
gone: []

Stack backtrace:
   0: here

---- a::d stdout ----

thread 'a::d' panicked at src/lib.rs:1:1

failures:
    a::b
    a::d

test result: FAILED.";
        let mut reasons = Reasons::default();
        let said: Vec<_> = printed.lines().filter_map(|it| reasons.read(it)).collect();
        assert_eq!(
            said,
            [
                "test a::b ... FAILED",
                "a::b:",
                "    Error: off by 2",
                "    gone: []",
                "a::d:",
                "    thread 'a::d' panicked at src/lib.rs:1:1",
            ]
        );
        let mut reasons = Reasons::default();
        let long = ["---- a::b stdout ----"].into_iter().chain(["x"; 1000]);
        let said = long.filter_map(|line| reasons.read(line)).count();
        assert_eq!(said, 1 + Reasons::LINES);
    }
}
