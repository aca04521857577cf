//! Who may change a cluster, and who still uses it? Locks on files, which the kernel gives back when a process dies.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::files;

const MACHINE: &str = "/run";

/// Held while the cluster called `name` is changed; a second one waits and says so.
pub(crate) fn change(name: &str) -> Result<File> {
    take(&change_file(name)?, |file| {
        if !try_lock(file)? {
            eprintln!("waiting for another command that changes cluster {name}");
            file.lock()?;
        }
        Ok(true)
    })?
    .context("waiting for a lock ends with it")
}

/// Held while programs are built.
pub(crate) fn build() -> Result<File> {
    exclusive("build.lock")
}

/// Held from when a slot of the machine is chosen until its link shows that it is taken, whatever cache folder the cluster
/// is of. It is a lock on a folder that every machine has, so that no file is left behind.
pub(crate) fn slots() -> Result<File> {
    let folder = File::open(MACHINE).with_context(|| format!("cannot open {MACHINE}"))?;
    folder
        .lock()
        .with_context(|| format!("cannot lock {MACHINE}"))?;
    Ok(folder)
}

/// Held by every process that uses the cluster called `name`.
pub(crate) fn user(name: &str) -> Result<File> {
    take(&users_file(name)?, |file| {
        file.lock_shared()?;
        Ok(true)
    })?
    .context("waiting for a lock ends with it")
}

/// Held by who ends the cluster because nobody uses it; none while somebody does.
pub(crate) fn nobody(name: &str) -> Result<Option<File>> {
    take(&users_file(name)?, try_lock)
}

/// Removes the files of the locks of the cluster called `name`, which is gone; `_change` is its lock.
pub(crate) fn forget(name: &str, _change: &File) -> Result<()> {
    // Held until its file is gone, or who took the lock in between would hold that of a file that nobody finds.
    if let Some(_held) = nobody(name)? {
        forget_users(name)?;
    }
    remove(&change_file(name)?)
}

/// Removes the file of the lock that [`nobody`] gave.
pub(crate) fn forget_users(name: &str) -> Result<()> {
    remove(&users_file(name)?)
}

fn change_file(name: &str) -> Result<PathBuf> {
    Ok(files::clusters()?.join(format!("{name}.lock")))
}

fn users_file(name: &str) -> Result<PathBuf> {
    Ok(files::clusters()?.join(format!("{name}.users")))
}

fn exclusive(file: &str) -> Result<File> {
    take(&files::clusters()?.join(file), |file| {
        file.lock()?;
        Ok(true)
    })?
    .context("waiting for a lock ends with it")
}

fn try_lock(file: &File) -> Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// Opens the file at `path` and locks it; none when `lock` says no.
fn take(path: &Path, lock: impl Fn(&File) -> Result<bool>) -> Result<Option<File>> {
    loop {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        if !lock(&file)? {
            return Ok(None);
        }
        // Who held it before may have removed the file, and then the next one locks another.
        if is_at(&file, path)? {
            return Ok(Some(file));
        }
    }
}

fn is_at(file: &File, path: &Path) -> Result<bool> {
    match fs::metadata(path) {
        Ok(there) => {
            let here = file.metadata()?;
            Ok((here.dev(), here.ino()) == (there.dev(), there.ino()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if two drivers, of whatever cache folders, could choose a slot at once.
    #[test]
    fn one_driver_of_the_machine_chooses_a_slot() {
        let _held = slots().unwrap();
        assert!(!try_lock(&File::open(MACHINE).unwrap()).unwrap());
    }

    #[test]
    fn a_lock_on_a_file_that_was_removed_is_taken_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let first = take(&path, try_lock).unwrap().unwrap();
        assert!(take(&path, try_lock).unwrap().is_none());
        let late = {
            let path = path.clone();
            std::thread::spawn(move || {
                take(&path, |file| {
                    file.lock()?;
                    Ok(true)
                })
            })
        };
        remove(&path).unwrap();
        drop(first);
        let late = late.join().unwrap().unwrap().unwrap();
        assert!(is_at(&late, &path).unwrap());
        assert!(take(&path, try_lock).unwrap().is_none());
    }
}
