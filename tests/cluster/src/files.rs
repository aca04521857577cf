//! Where does everything lie on disk?

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The project's cache folder, [`wisp_skip::cache`].
///
/// # Errors
/// When no variable says where it is.
pub fn cache() -> Result<PathBuf> {
    wisp_skip::cache()
        .context("none of WISP_CACHE, XDG_CACHE_HOME and HOME is set: no place for a cache")
}

/// The folder of everything that belongs to running clusters.
pub(crate) fn clusters() -> Result<PathBuf> {
    let folder = cache()?.join("cluster/state");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// The repository's root: two folders above each of its packages. Cargo tells which one it runs: where checkouts share a target
/// folder, another of them may have built the program.
#[must_use]
pub fn repository() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR");
    let mut root = package.map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    root.pop();
    root.pop();
    root
}

/// This crate's folder.
pub(crate) fn here() -> PathBuf {
    repository().join("tests/cluster")
}

/// Writes `text` to `path` so that a reader sees the old text or the new one, never a part.
pub(crate) fn replace(path: &Path, text: &str) -> Result<()> {
    let fresh = path.with_extension("new");
    fs::write(&fresh, text).with_context(|| format!("cannot write {}", fresh.display()))?;
    fs::rename(&fresh, path).with_context(|| format!("cannot write {}", path.display()))
}

/// Writes `text` to `path` and makes the folders above it.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Removes a folder with all that is in it; none there is no error.
pub(crate) fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
