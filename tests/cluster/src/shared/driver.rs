//! How do tests start and change clusters? By a program, `wisp-cluster`, so that nothing of a cluster is a test's child;
//! and once no test uses a cluster any more, however the tests ended, another process of it takes the cluster down.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::images::Platform;
use crate::{cargo, files, layout, locks, shell};

/// A use of a cluster of ours: `linger` after the last process that holds one of the same name is gone, the cluster is
/// taken down.
pub struct Lease {
    _user: File,
}

impl Lease {
    /// Takes one of the cluster called `name`, which need not stand yet.
    ///
    /// # Errors
    /// When the name is not allowed, or the driver can't be started.
    pub fn take(name: &str, linger: Duration) -> Result<Lease> {
        let lease = Lease::kept(name)?;
        Command::new(program()?)
            .args(["down", "--name", name])
            .arg(format!("--when-unused={}", linger.as_secs()))
            // Which may be named from the folder that this runs in.
            .env("WISP_CACHE", files::cache()?)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A Ctrl-C that ends the tests must not end what cleans up after them.
            .process_group(0)
            .spawn()
            .context("cannot start what takes the cluster down")?;
        Ok(lease)
    }

    /// The same without anyone who takes the cluster down.
    pub(super) fn kept(name: &str) -> Result<Lease> {
        layout::check_name(name)?;
        Ok(Lease {
            _user: locks::user(name)?,
        })
    }
}

/// Runs `wisp-cluster ARGUMENTS`, the same as `cargo xtask cluster ARGUMENTS`, and gives what it printed.
///
/// # Errors
/// When it does not succeed; it has said why.
pub fn drive(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program()?);
    // What it says while it builds for minutes should be seen.
    let output = command.args(arguments).stderr(Stdio::inherit()).output()?;
    ensure!(
        output.status.success(),
        "{} failed ({})",
        shell::line(&command),
        output.status
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn program() -> Result<PathBuf> {
    static DRIVER: OnceLock<PathBuf> = OnceLock::new();
    if let Some(path) = DRIVER.get() {
        return Ok(path.clone());
    }
    let path = match std::env::var_os("WISP_CLUSTER_DRIVER") {
        Some(path) => PathBuf::from(path),
        None => cargo::build("wisp-cluster", "wisp-cluster", &[], "dev", Platform::HERE)?,
    };
    Ok(DRIVER.get_or_init(|| path).clone())
}
