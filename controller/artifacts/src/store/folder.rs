//! The store's folder on disk. What is here waits for the disk, and computes digests.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use tempfile::{NamedTempFile, TempDir};

use super::{Expected, Stored, Usage};
use crate::error::Error;
use crate::reference::is_sha256;

#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    capacity: u64,
    state: Mutex<State>,
    /// Held by who adds to what is noted of where artifacts came from.
    pub(super) origins: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// Who holds what.
    held: BTreeMap<String, BTreeSet<String>>,
    /// What was digested since this process started.
    checked: HashSet<String>,
    /// How many bytes the whole files have.
    kept: u64,
    /// How many those have that are not whole yet.
    partial: u64,
}

/// Files that are not whole yet.
pub(super) const PARTIAL: &str = "partial";
/// What callers noted about artifacts.
const NOTES: &str = "notes";
/// How old a note gets. What is forgotten is found out anew.
const FORGOTTEN: Duration = Duration::from_secs(90 * 24 * 3600);

/// A file that isn't whole yet. It is removed unless it is kept.
pub(super) struct Writing {
    room: Room,
    expected: Expected,
    file: NamedTempFile,
    sha256: Sha256,
}

/// Bytes that count as the folder's as long as this lives, though no whole file has them.
struct Room {
    folder: Arc<Folder>,
    length: u64,
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
        let this = Self {
            path: folder.to_owned(),
            capacity,
            state: Mutex::default(),
            origins: Mutex::default(),
        };
        this.state().kept = total(&this.files()?);
        Ok(this)
    }

    pub(super) fn hold(&self, owner: &str, digests: BTreeSet<String>) {
        self.state().held.insert(owner.to_owned(), digests);
    }

    pub(super) fn release(&self, owner: &str) {
        self.state().held.remove(owner);
    }

    pub(super) fn held_beside(&self, sha256: &str) -> Vec<String> {
        let state = self.state();
        let holders = state.held.values().filter(|held| held.contains(sha256));
        holders.flatten().cloned().collect()
    }

    /// How full it is.
    pub(super) fn usage(&self) -> Result<Usage, Error> {
        let files = self.files()?;
        let state = self.state();
        let held: HashSet<&String> = state.held.values().flatten().collect();
        let is_held = |file: &&Kept| held.contains(&file.sha256);
        let of_held = files.iter().filter(is_held).map(|file| file.length);
        Ok(Usage {
            capacity: self.capacity,
            held: of_held.fold(0, u64::saturating_add),
            kept: total(&files),
            partial: state.partial,
        })
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

    /// A folder that nothing is found in.
    pub(super) fn scratch(&self) -> Result<TempDir, Error> {
        let partial = self.path.join(PARTIAL);
        TempDir::new_in(&partial).map_err(|source| self.io(&partial, source))
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

    /// Removes what was not used for longest until there is room for `more` bytes.
    fn make_room(&self, state: &mut State, more: u64) -> Result<(), Error> {
        let files = self.files()?;
        state.kept = total(&files);
        let held: HashSet<&String> = state.held.values().flatten().collect();
        let (pinned, mut rest): (Vec<_>, Vec<_>) = files
            .into_iter()
            .partition(|file| held.contains(&file.sha256));
        let in_use = total(&pinned).saturating_add(state.partial);
        if in_use.saturating_add(more) > self.capacity {
            return Err(Error::StoreFull {
                needed: more,
                held: in_use,
                capacity: self.capacity,
            });
        }
        rest.sort_by_key(|file| file.used);
        for file in rest {
            if state.takes_up().saturating_add(more) <= self.capacity {
                break;
            }
            let path = self.file(&file.sha256);
            match fs::remove_file(&path) {
                // It was damaged, and found to be so meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(|source| self.io(&path, source))?,
            }
            let _ = fs::remove_file(self.note(&Self::origins_key(&file.sha256)));
            state.checked.remove(&file.sha256);
            state.kept = state.kept.saturating_sub(file.length);
        }
        Ok(())
    }

    /// How many bytes there are.
    #[cfg(test)]
    pub(super) fn takes_up(&self) -> u64 {
        self.state().takes_up()
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

impl State {
    fn takes_up(&self) -> u64 {
        self.kept.saturating_add(self.partial)
    }
}

impl Writing {
    /// Begins a file without a name.
    pub(super) fn begin(folder: Arc<Folder>, expected: Expected) -> Result<Self, Error> {
        let partial = folder.path.join(PARTIAL);
        let file = NamedTempFile::new_in(&partial).map_err(|source| folder.io(&partial, source))?;
        Ok(Self {
            room: Room { folder, length: 0 },
            expected,
            file,
            sha256: Sha256::new(),
        })
    }

    /// Writes what came.
    pub(super) fn write(&mut self, chunk: &[u8]) -> Result<(), Error> {
        let more = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        if self.room.length.saturating_add(more) > self.expected.limit {
            return Err(Error::TooLarge {
                what: self.expected.what.clone(),
                limit: self.expected.limit,
            });
        }
        self.room.grow(more)?;
        self.sha256.update(chunk);
        let written = self.file.write_all(chunk);
        written.map_err(|source| self.room.folder.io(self.file.path(), source))
    }

    /// Gives the whole file its name.
    pub(super) fn keep(self) -> Result<Stored, Error> {
        let found = hex::encode(self.sha256.finalize());
        let expected = self.expected;
        if let Some(wanted) = expected.sha256.filter(|wanted| *wanted != found) {
            return Err(Error::DigestMismatch {
                what: expected.what,
                expected: wanted,
                found,
            });
        }
        let folder = Arc::clone(&self.room.folder);
        let stored = Stored {
            sha256: found,
            length: self.room.length,
        };
        if folder.find(&stored.sha256)?.is_some() {
            return Ok(stored);
        }
        let path = folder.file(&stored.sha256);
        let io = |source| folder.io(&path, source);
        self.file.as_file().sync_all().map_err(io)?;
        let file = self.file.persist(&path).map_err(|error| io(error.error))?;
        let _ = file.set_modified(SystemTime::now());
        self.room.become_kept(&stored.sha256);
        File::open(&folder.path)
            .and_then(|folder| folder.sync_all())
            .map_err(io)?;
        Ok(stored)
    }
}

impl Room {
    /// Has so many bytes more.
    fn grow(&mut self, more: u64) -> Result<(), Error> {
        let folder = Arc::clone(&self.folder);
        let mut state = folder.state();
        if state.takes_up().saturating_add(more) > folder.capacity {
            folder.make_room(&mut state, more)?;
        }
        state.partial = state.partial.saturating_add(more);
        self.length = self.length.saturating_add(more);
        Ok(())
    }

    /// A whole file has them now.
    fn become_kept(mut self, sha256: &str) {
        let length = std::mem::take(&mut self.length);
        let mut state = self.folder.state();
        state.partial = state.partial.saturating_sub(length);
        state.kept = state.kept.saturating_add(length);
        state.checked.insert(sha256.to_owned());
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut state = self.folder.state();
        state.partial = state.partial.saturating_sub(self.length);
    }
}

fn total(files: &[Kept]) -> u64 {
    files
        .iter()
        .fold(0, |sum, file| sum.saturating_add(file.length))
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
