//! How are other programs run?

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

use crate::process::MARK;

/// Marks what this process runs from now on as part of a cluster: were this process killed, what it left running would be
/// ended with the cluster. A process changes one cluster in its life.
pub(crate) fn mark(mark: String) {
    let _ = CURRENT.set(mark);
}

static CURRENT: OnceLock<String> = OnceLock::new();

fn marked(command: &mut Command) -> &mut Command {
    match CURRENT.get() {
        Some(mark) => command.env(MARK, mark),
        None => command,
    }
}

/// Runs `command` to its end and gives what it wrote to its standard output.
///
/// # Errors
/// When it cannot be started or does not succeed; the error holds the command line and what it wrote.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = marked(command)
        .output()
        .with_context(|| format!("cannot start {}", line(command)))?;
    text(command, output)
}

/// Like [`run`], with `input` as its standard input.
pub(crate) fn feed(command: &mut Command, input: &str) -> Result<String> {
    let mut child = marked(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", line(command)))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends before it has read everything says why by itself.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    text(command, output)
}

fn text(command: &Command, output: Output) -> Result<String> {
    if !output.status.success() {
        bail!(
            "{} failed ({}): {}{}",
            line(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim(),
            String::from_utf8_lossy(&output.stdout).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command line as one would type it, shortened.
pub(crate) fn line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    if let Some((end, _)) = line.char_indices().nth(300) {
        line.truncate(end);
        line.push('…');
    }
    line
}
