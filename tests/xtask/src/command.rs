//! Running other programs so that a failure says which one, with which arguments, and how it ended.

use std::ffi::OsStr;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The workspace's folder.
pub(crate) use wisp_cluster::repository as workspace;

/// A command that runs in the workspace's folder, and knows the cache folder, which may be named from another.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(workspace());
    knowing(command)
}

/// `cargo`, the one that runs this program, with the same.
pub(crate) fn cargo() -> Command {
    knowing(wisp_cluster::cargo())
}

fn knowing(mut command: Command) -> Command {
    if let Ok(cache) = wisp_cluster::cache() {
        command.env("WISP_CACHE", cache);
    }
    command
}

/// Runs to the end; standard streams go where this program's go.
pub(crate) fn execute(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", show(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", show(command));
    }
    Ok(())
}

/// Runs to the end and returns what it printed, or has it in the error; its errors go where this program's go.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", show(command)))?;
    if !output.status.success() {
        let printed = String::from_utf8_lossy(&output.stdout);
        let failed = format!("{} failed: {}\n{printed}", show(command), output.status);
        bail!("{}", failed.trim_end());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} printed no UTF-8", show(command)))
}

/// Whether it can be started and ends well; prints nothing.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn show(command: &Command) -> String {
    let mut text = format!("`{}", command.get_program().to_string_lossy());
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text.push('`');
    text
}
