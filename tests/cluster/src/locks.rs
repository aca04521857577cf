//! Who may change a cluster, and who still uses it? Locks on files, which the kernel gives back when a process dies.

use std::fs::{File, OpenOptions, TryLockError};

use anyhow::{Context, Result};

use crate::files;

fn open(name: &str) -> Result<File> {
    let path = files::clusters()?.join(name);
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))
}

/// Held while the cluster called `name` is changed; a second one waits and says so.
pub(crate) fn change(name: &str) -> Result<File> {
    let file = open(&format!("{name}.lock"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            eprintln!("waiting for another command that changes cluster {name}");
            file.lock()?;
        }
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    Ok(file)
}

/// Held while programs are built.
pub(crate) fn build() -> Result<File> {
    let file = open("build.lock")?;
    file.lock()?;
    Ok(file)
}

/// Held while a slot of the machine is chosen.
pub(crate) fn slots() -> Result<File> {
    let file = open("slots.lock")?;
    file.lock()?;
    Ok(file)
}

/// Held by every process that uses the cluster called `name`.
pub(crate) fn user(name: &str) -> Result<File> {
    let file = open(&format!("{name}.users"))?;
    file.lock_shared()?;
    Ok(file)
}

/// Held by who ends the cluster because nobody uses it; none while somebody does.
pub(crate) fn nobody(name: &str) -> Result<Option<File>> {
    let file = open(&format!("{name}.users"))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}
