//! The folder of compiled components.
//!
//! An entry is two files. `KEY.json` says which artifact belongs to the key; `KEY.DIGEST.cwasm` is the artifact, named
//! by what is in it. The artifact is put in place before the entry that names it, each by a rename: whoever finds an
//! entry finds its artifact whole, and two processes that compile the same component at once don't disturb each other.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A folder that was found trustworthy.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    capacity: u64,
}

/// What `KEY.json` holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// The artifact's digest, in lower-case hex.
    sha256: String,
}

/// Why a folder or a file in it isn't used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("{} could not be used", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} belongs to the user id {owner}, this process to {us}: machine code is taken only from one's own files", path.display())]
    Owner { path: PathBuf, owner: u32, us: u32 },
    #[error("{} may be written by others (mode {mode:o}): machine code is taken only from files that nobody else can change", path.display())]
    Mode { path: PathBuf, mode: u32 },
    #[error("{} is damaged", path.display())]
    Entry {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("{} doesn't have the digest that was recorded for it", path.display())]
    Digest { path: PathBuf },
    #[error("{} doesn't fit this engine", path.display())]
    Code {
        path: PathBuf,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Store {
    /// Makes the folder where it is missing, for this user alone.
    pub(super) fn open(folder: &Path, capacity: u64) -> Result<Self, Refused> {
        let io = |source| Refused::Io {
            path: folder.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(io)?;
        check(folder, &fs::metadata(folder).map_err(io)?)?;
        Ok(Self {
            folder: folder.to_owned(),
            capacity,
        })
    }

    /// The key's artifact, its digest checked; `None` where there is none.
    pub(super) fn find(&self, key: &str) -> Result<Option<PathBuf>, Refused> {
        let path = self.entry(key);
        let Some(file) = open(&path)? else {
            return Ok(None);
        };
        let entry: Entry = serde_json::from_reader(file).map_err(|source| Refused::Entry {
            path: path.clone(),
            source,
        })?;
        let artifact = self.artifact(key, &entry.sha256);
        let Some(mut file) = open(&artifact)? else {
            return Ok(None);
        };
        let found = super::digest(&mut file).map_err(|source| Refused::Io {
            path: artifact.clone(),
            source,
        })?;
        if found != entry.sha256 {
            return Err(Refused::Digest { path: artifact });
        }
        // The time of last use, for `evict`. That it can't be written is no reason not to use the artifact.
        let _ = file.set_modified(SystemTime::now());
        Ok(Some(artifact))
    }

    /// Stores an artifact, then removes those that were not used for longest until the folder fits its capacity.
    pub(super) fn insert(&self, key: &str, artifact: &[u8]) -> Result<(), Refused> {
        let sha256 = hex::encode(Sha256::digest(artifact));
        let path = self.artifact(key, &sha256);
        self.write(&path, artifact)?;
        let entry = serde_json::to_vec(&Entry { sha256 }).unwrap_or_default();
        self.write(&self.entry(key), &entry)?;
        self.evict(&path);
        Ok(())
    }

    fn entry(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}.json"))
    }

    fn artifact(&self, key: &str, sha256: &str) -> PathBuf {
        let short: String = sha256
            .chars()
            .filter(char::is_ascii_hexdigit)
            .take(16)
            .collect();
        self.folder.join(format!("{key}.{short}.cwasm"))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), Refused> {
        let io = |source| Refused::Io {
            path: path.to_owned(),
            source,
        };
        // `tempfile` makes files of mode 0600.
        let mut file = tempfile::Builder::new()
            .prefix(".new-")
            .tempfile_in(&self.folder)
            .map_err(io)?;
        file.write_all(bytes).map_err(io)?;
        file.as_file().sync_all().map_err(io)?;
        file.persist(path).map_err(|error| io(error.error))?;
        Ok(())
    }

    fn evict(&self, keep: &Path) {
        let mut artifacts: Vec<(SystemTime, u64, PathBuf)> = fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| {
                entry
                    .path()
                    .extension()
                    .is_some_and(|extension| extension == "cwasm")
            })
            .filter_map(|entry| {
                let metadata = entry.metadata().ok()?;
                Some((metadata.modified().ok()?, metadata.len(), entry.path()))
            })
            .collect();
        artifacts.sort();
        let mut total: u64 = artifacts.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in artifacts {
            if total <= self.capacity {
                return;
            }
            if path != keep && fs::remove_file(&path).is_ok() {
                total = total.saturating_sub(size);
                // `KEY.DIGEST.cwasm`: its entry is `KEY.json`.
                let _ = fs::remove_file(path.with_extension("").with_extension("json"));
            }
        }
    }
}

/// Opens a file of the folder, no link, `None` where there is none.
fn open(path: &Path) -> Result<Option<File>, Refused> {
    let io = |source| Refused::Io {
        path: path.to_owned(),
        source,
    };
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::CLOEXEC).bits()).unwrap_or_default();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    check(path, &file.metadata().map_err(io)?)?;
    Ok(Some(file))
}

/// Nobody but this user may have put machine code here.
fn check(path: &Path, metadata: &Metadata) -> Result<(), Refused> {
    let us = rustix::process::geteuid().as_raw();
    if metadata.uid() != us {
        return Err(Refused::Owner {
            path: path.to_owned(),
            owner: metadata.uid(),
            us,
        });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(Refused::Mode {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(())
}
