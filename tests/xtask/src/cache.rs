//! The one folder outside the clone and the target folder that anything is written to.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// [`wisp_cluster::cache`], which is absolute; made when it isn't there.
pub(crate) fn dir() -> Result<PathBuf> {
    let dir = wisp_cluster::cache()?;
    std::fs::create_dir_all(&dir)
        .with_context(|| format!("cannot make the cache folder {}", dir.display()))?;
    Ok(dir)
}

/// The SHA-256 of a file in lower-case hex.
pub(crate) fn sha256(path: &Path) -> Result<String> {
    let mut file =
        std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match std::io::Read::read(&mut file, &mut buffer)? {
            0 => return Ok(hex::encode(hasher.finalize())),
            n => hasher.update(buffer.get(..n).unwrap_or_default()),
        }
    }
}
