//! Where are programs of this workspace? Cargo builds them if they are not, and says.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::images::Platform;
use crate::{files, machine, shell};

/// Builds a program of a package with these features beside its default ones, for a platform, and gives its path.
///
/// # Errors
/// When what builds for the platform is missing, or the program does not build; cargo has said why.
pub(crate) fn build(
    package: &str,
    program: &str,
    features: &[String],
    profile: &str,
    platform: Platform,
) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--message-format=json-render-diagnostics"]);
    if platform != Platform::HERE {
        machine::ensure_compiler(platform)?;
        command.args(platform.cross_build());
    }
    command
        .args(["--package", package, "--bin", program, "--profile", profile])
        .args(
            features
                .iter()
                .map(|feature| format!("--features={feature}")),
        )
        .stderr(Stdio::inherit());
    let output = command.output().context("cannot start cargo")?;
    ensure!(
        output.status.success(),
        "{} failed ({})",
        shell::line(&command),
        output.status
    );
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
        .with_context(|| format!("cargo built no {program}"))
}

/// The cargo that runs this program, if one does, in the workspace's folder.
#[must_use]
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(files::repository());
    // What cargo sets for this program would make the inner cargo build anew what reads it.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}
