//! The store's folder on disk. What is here waits for the disk, and computes digests.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use sha2::{Digest, Sha256};
use tempfile::{NamedTempFile, TempDir};

use super::Usage;
use super::room::{of_volume, with_room};
use super::share::namespace_of;
use crate::error::Error;
use crate::reference::is_sha256;

#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) capacity: u64,
    /// How much of it each namespace may have.
    pub(super) share: Option<u64>,
    state: Mutex<State>,
    /// Held by who adds to what is noted of where artifacts came from.
    pub(super) origins: Mutex<()>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Who holds what.
    pub(super) held: BTreeMap<String, BTreeSet<String>>,
    /// What nobody held yet since it came.
    pub(super) fresh: HashMap<String, Fresh>,
    /// What was digested since this process started.
    pub(super) checked: HashSet<String>,
    /// How many bytes the whole files have.
    pub(super) kept: u64,
    /// How many those have, or have room for, that are not whole yet.
    pub(super) partial: u64,
    /// How many those will have that are which namespace's, as far as it is known.
    pub(super) coming: HashMap<Arc<str>, u64>,
}

/// What just came.
#[derive(Debug)]
pub(super) struct Fresh {
    /// Until when it is waited for that somebody holds it.
    pub(super) until: Instant,
    /// The namespace that it came for.
    pub(super) whom: Option<Arc<str>>,
}

/// Files that are not whole yet.
pub(super) const PARTIAL: &str = "partial";
/// What callers noted about artifacts.
const NOTES: &str = "notes";
/// How long what came stays before somebody holds it: until all else that they need is here, too.
pub(super) const FRESH: Duration = Duration::from_secs(10 * 60);
/// How long a note is kept that isn't asked for, of what isn't here. What is forgotten is found out anew.
const FORGOTTEN: Duration = Duration::from_secs(90 * 24 * 3600);

impl Folder {
    pub(super) fn open(folder: &Path, capacity: u64, share: Option<u64>) -> Result<Self, Error> {
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
        let this = Self {
            path: folder.to_owned(),
            capacity: of_volume(folder, capacity),
            share,
            state: Mutex::default(),
            origins: Mutex::default(),
        };
        let files = this.files()?;
        forget(&notes, &files).map_err(io)?;
        this.state().kept = total(&files);
        Ok(this)
    }

    pub(super) fn hold(&self, owner: &str, digests: BTreeSet<String>) {
        let mut state = self.state();
        // What came for others waits for them.
        let whom = namespace_of(owner);
        state.fresh.retain(|sha256, fresh| {
            let is_theirs = fresh.whom.is_some() && fresh.whom.as_deref() != whom;
            is_theirs || !digests.contains(sha256)
        });
        state.held.insert(owner.to_owned(), digests);
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

    /// What was noted. What is asked for is in use: its age begins anew.
    pub(super) fn noted(&self, key: &str) -> Option<Vec<u8>> {
        let path = self.note(key);
        let bytes = fs::read(&path).ok()?;
        let _ = File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_modified(SystemTime::now()));
        Some(bytes)
    }

    /// Writes a small file, or nothing of it.
    pub(super) fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let write = || {
            let mut file = NamedTempFile::new_in(self.path.join(PARTIAL))?;
            file.write_all(bytes)?;
            file.persist(path).map_err(|error| error.error)
        };
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let written = with_room(self, length, write);
        written.map(drop).map_err(|source| self.io(path, source))
    }

    /// A folder that nothing is found in.
    pub(super) fn scratch(&self) -> Result<TempDir, Error> {
        let partial = self.path.join(PARTIAL);
        let made = with_room(self, 0, || TempDir::new_in(&partial));
        made.map_err(|source| self.io(&partial, source))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn file(&self, sha256: &str) -> PathBuf {
        self.path.join(sha256)
    }

    pub(super) fn io(&self, path: &Path, source: io::Error) -> Error {
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

    /// Lets time pass for what came and isn't held.
    #[cfg(test)]
    pub(super) fn age(&self, by: Duration) {
        let mut state = self.state();
        state.fresh.retain(|_, fresh| {
            fresh.until = fresh.until.checked_sub(by).unwrap_or(fresh.until);
            Instant::now() < fresh.until
        });
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
    pub(super) fn takes_up(&self) -> u64 {
        self.kept.saturating_add(self.partial)
    }

    /// Which artifacts stay, whoever needs room.
    pub(super) fn needs(&self, now: Instant) -> HashSet<&str> {
        let fresh = self.fresh.iter().filter(|(_, it)| now < it.until);
        let fresh = fresh.map(|(sha256, _)| sha256);
        let held = self.held.values().flatten();
        held.chain(fresh).map(String::as_str).collect()
    }

    /// A whole file has so many bytes now, which came for `whom`.
    pub(super) fn became_kept(&mut self, sha256: &str, length: u64, whom: Option<Arc<str>>) {
        self.kept = self.kept.saturating_add(length);
        self.checked.insert(sha256.to_owned());
        let now = Instant::now();
        self.fresh.retain(|_, it| now < it.until);
        if !self.is_held(sha256) {
            let until = now + FRESH;
            self.fresh.insert(sha256.to_owned(), Fresh { until, whom });
        }
    }

    fn is_held(&self, sha256: &str) -> bool {
        self.held.values().any(|held| held.contains(sha256))
    }
}

pub(super) fn total(files: &[Kept]) -> u64 {
    files
        .iter()
        .fold(0, |sum, file| sum.saturating_add(file.length))
}

/// A file of the folder.
pub(super) struct Kept {
    pub(super) sha256: String,
    pub(super) length: u64,
    pub(super) used: SystemTime,
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

/// Removes notes that are old, and of none of the `files`. Of those some may be in use for years, and the note be asked for only
/// when a process begins.
fn forget(notes: &Path, files: &[Kept]) -> io::Result<()> {
    let here: HashSet<&str> = files.iter().map(|file| &*file.sha256).collect();
    for note in fs::read_dir(notes)? {
        let note = note?;
        let name = note.file_name();
        let mut parts = name.to_str().unwrap_or_default().split(['-', '.']);
        let age = note.metadata()?.modified()?.elapsed().unwrap_or_default();
        if age > FORGOTTEN && !parts.any(|part| here.contains(part)) {
            fs::remove_file(note.path())?;
        }
    }
    Ok(())
}
