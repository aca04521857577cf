//! The store's folder on disk. What is here waits for the disk, and computes digests.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tokio::sync::mpsc;

use super::{Expected, Stored};
use crate::error::Error;
use crate::reference::is_sha256;

#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    capacity: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Who holds what.
    held: BTreeMap<String, BTreeSet<String>>,
    /// What was digested since this process started.
    checked: HashSet<String>,
}

/// Files that are not whole yet.
pub(super) const PARTIAL: &str = "partial";
/// What callers noted about artifacts.
const NOTES: &str = "notes";
/// How old a note gets. What is forgotten is found out anew.
const FORGOTTEN: Duration = Duration::from_secs(90 * 24 * 3600);

/// A whole file without its name.
pub(super) struct Written {
    file: NamedTempFile,
    stored: Stored,
}

impl Folder {
    pub(super) fn open(folder: &Path, capacity: u64) -> Result<Self, Error> {
        let partial = folder.join(PARTIAL);
        let io = |source| Error::Io {
            path: folder.to_owned(),
            source,
        };
        match fs::remove_dir_all(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        let notes = folder.join(NOTES);
        for path in [folder, &partial, &notes] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(io)?;
        }
        forget(&notes).map_err(io)?;
        Ok(Self {
            path: folder.to_owned(),
            capacity,
            state: Mutex::default(),
        })
    }

    pub(super) fn hold(&self, owner: &str, digests: BTreeSet<String>) {
        self.state().held.insert(owner.to_owned(), digests);
    }

    pub(super) fn release(&self, owner: &str) {
        self.state().held.remove(owner);
    }

    /// The file of a note.
    pub(super) fn note(&self, key: &str) -> PathBuf {
        self.path.join(NOTES).join(key)
    }

    /// Writes a small file, or nothing of it.
    pub(super) fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let write = || {
            let mut file = NamedTempFile::new_in(self.path.join(PARTIAL))?;
            file.write_all(bytes)?;
            file.persist(path).map_err(|error| error.error)
        };
        write().map(drop).map_err(|source| self.io(path, source))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn file(&self, sha256: &str) -> PathBuf {
        self.path.join(sha256)
    }

    fn io(&self, path: &Path, source: io::Error) -> Error {
        Error::Io {
            path: path.to_owned(),
            source,
        }
    }

    pub(super) fn find(&self, sha256: &str) -> Result<Option<(File, u64)>, Error> {
        let path = self.file(sha256);
        let open = || -> io::Result<Option<(File, u64)>> {
            let mut file = File::open(&path)?;
            if !self.state().checked.contains(sha256) {
                if digest(&mut file)?.0 != sha256 {
                    tracing::warn!(path = %path.display(), "an artifact is damaged and is removed");
                    fs::remove_file(&path)?;
                    return Ok(None);
                }
                self.state().checked.insert(sha256.to_owned());
                file = File::open(&path)?;
            }
            // The time of last use, for `make_room`. That it can't be written is no reason not to use the file.
            let _ = file.set_modified(SystemTime::now());
            let length = file.metadata()?.len();
            Ok(Some((file, length)))
        };
        match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map_err(|source| self.io(&path, source)),
        }
    }

    /// Writes what comes to a file without a name.
    pub(super) fn write(
        &self,
        expected: &Expected,
        mut chunks: mpsc::Receiver<Bytes>,
    ) -> Result<Written, Error> {
        let partial = self.path.join(PARTIAL);
        let io = |source| self.io(&partial, source);
        let mut file = NamedTempFile::new_in(&partial).map_err(io)?;
        let mut sha256 = Sha256::new();
        let mut length = 0_u64;
        while let Some(chunk) = chunks.blocking_recv() {
            length = length.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
            if length > expected.limit {
                return Err(Error::TooLarge {
                    what: expected.what.clone(),
                    limit: expected.limit,
                });
            }
            // A file that can never be kept shall not fill the disk first.
            self.fits(length)?;
            sha256.update(&chunk);
            file.write_all(&chunk).map_err(io)?;
        }
        let found = hex::encode(sha256.finalize());
        if let Some(wanted) = expected.sha256.as_ref().filter(|wanted| **wanted != found) {
            return Err(Error::DigestMismatch {
                what: expected.what.clone(),
                expected: wanted.clone(),
                found,
            });
        }
        Ok(Written {
            file,
            stored: Stored {
                sha256: found,
                length,
            },
        })
    }

    /// Gives a whole file its name.
    pub(super) fn keep(&self, written: Written) -> Result<Stored, Error> {
        let Written { file, stored } = written;
        let path = self.file(&stored.sha256);
        let io = |source| self.io(&path, source);
        if self.find(&stored.sha256)?.is_some() {
            return Ok(stored);
        }
        self.make_room(&stored)?;
        file.as_file().sync_all().map_err(io)?;
        let file = file.persist(&path).map_err(|error| io(error.error))?;
        let _ = file.set_modified(SystemTime::now());
        File::open(&self.path)
            .and_then(|folder| folder.sync_all())
            .map_err(io)?;
        self.state().checked.insert(stored.sha256.clone());
        Ok(stored)
    }

    /// Whether `needed` bytes could be kept if everything went that may.
    fn fits(&self, needed: u64) -> Result<(), Error> {
        if needed <= self.capacity {
            return Ok(());
        }
        Err(Error::StoreFull {
            needed,
            held: 0,
            capacity: self.capacity,
        })
    }

    /// Removes what was not used for longest until `new` fits.
    fn make_room(&self, new: &Stored) -> Result<(), Error> {
        let held: HashSet<String> = self.state().held.values().flatten().cloned().collect();
        let mut files = self.files()?;
        let mut total: u64 = files.iter().map(|file| file.length).sum();
        let pinned: u64 = files
            .iter()
            .filter(|file| held.contains(&file.sha256))
            .map(|file| file.length)
            .sum();
        if pinned.saturating_add(new.length) > self.capacity {
            return Err(Error::StoreFull {
                needed: new.length,
                held: pinned,
                capacity: self.capacity,
            });
        }
        files.retain(|file| !held.contains(&file.sha256));
        files.sort_by_key(|file| file.used);
        for file in files {
            if total.saturating_add(new.length) <= self.capacity {
                break;
            }
            let path = self.file(&file.sha256);
            fs::remove_file(&path).map_err(|source| self.io(&path, source))?;
            self.state().checked.remove(&file.sha256);
            total = total.saturating_sub(file.length);
        }
        Ok(())
    }

    pub(super) fn files(&self) -> Result<Vec<Kept>, Error> {
        let read = || -> io::Result<Vec<Kept>> {
            let mut files = Vec::new();
            for entry in fs::read_dir(&self.path)? {
                let entry = entry?;
                let Some(sha256) = entry
                    .file_name()
                    .to_str()
                    .filter(|name| is_sha256(name))
                    .map(str::to_owned)
                else {
                    continue;
                };
                let metadata = entry.metadata()?;
                files.push(Kept {
                    sha256,
                    length: metadata.len(),
                    used: metadata.modified()?,
                });
            }
            Ok(files)
        };
        read().map_err(|source| self.io(&self.path, source))
    }
}

/// A file of the folder.
pub(super) struct Kept {
    sha256: String,
    length: u64,
    used: SystemTime,
}

/// The SHA-256 of all that is left to read in `file`, in lower-case hex, and how many bytes that is.
pub(super) fn digest(file: &mut File) -> io::Result<(String, u64)> {
    let mut sha256 = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    let mut length = 0_u64;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((hex::encode(sha256.finalize()), length)),
            read => {
                sha256.update(buffer.get(..read).unwrap_or_default());
                length = length.saturating_add(u64::try_from(read).unwrap_or_default());
            }
        }
    }
}

/// Removes notes of artifacts that hardly anybody has any more.
fn forget(notes: &Path) -> io::Result<()> {
    for note in fs::read_dir(notes)? {
        let note = note?;
        let age = note.metadata()?.modified()?.elapsed().unwrap_or_default();
        if age > FORGOTTEN {
            fs::remove_file(note.path())?;
        }
    }
    Ok(())
}
