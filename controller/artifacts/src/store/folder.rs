//! The store's folder on disk. What is here waits for the disk.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tempfile::{NamedTempFile, TempDir};

use super::Usage;
use super::check::Seen;
use super::notes::{MOST, Notes};
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
    pub(super) notes: Notes,
    /// Held by who adds to what is noted of where artifacts came from.
    pub(super) origins: Mutex<()>,
    /// How often a file was digested.
    #[cfg(test)]
    pub(super) digested: std::sync::atomic::AtomicUsize,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Who holds what.
    pub(super) held: BTreeMap<String, BTreeSet<String>>,
    /// What those didn't hold yet whom it came for.
    pub(super) fresh: HashMap<String, Fresh>,
    /// What was digested since this process started, and which files that were.
    pub(super) checked: HashMap<String, Seen>,
    /// How many bytes the whole files have.
    pub(super) kept: u64,
    /// How many those have, or have room for, that are not whole yet.
    pub(super) partial: u64,
    /// How many those will have that are which namespace's, as far as it is known.
    pub(super) coming: HashMap<Arc<str>, u64>,
}

/// The namespaces that something came for, and until when each is waited for to hold it.
pub(super) type Fresh = HashMap<Option<Arc<str>>, Instant>;

/// Files that are not whole yet.
pub(super) const PARTIAL: &str = "partial";
/// What callers noted about artifacts.
const NOTES: &str = "notes";
/// How long what came stays before somebody holds it: until all else that they need is here, too.
pub(super) const FRESH: Duration = Duration::from_secs(10 * 60);

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
        let files = files_in(folder).map_err(io)?;
        let this = Self {
            path: folder.to_owned(),
            capacity: of_volume(folder, capacity),
            share,
            state: Mutex::default(),
            notes: Notes::open(notes, &files, MOST).map_err(io)?,
            origins: Mutex::default(),
            #[cfg(test)]
            digested: std::sync::atomic::AtomicUsize::new(0),
        };
        this.state().kept = total(&files);
        Ok(this)
    }

    pub(super) fn hold(&self, owner: &str, digests: BTreeSet<String>) {
        let mut state = self.state();
        // What came for others waits for them.
        let whom = namespace_of(owner);
        for sha256 in &digests {
            if let Some(fresh) = state.fresh.get_mut(sha256) {
                fresh.retain(|of, _| of.is_some() && of.as_deref() != whom);
            }
        }
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

    /// Lets time pass for what came and isn't held.
    #[cfg(test)]
    pub(super) fn age(&self, by: Duration) {
        let mut state = self.state();
        for until in state.fresh.values_mut().flat_map(HashMap::values_mut) {
            *until = until.checked_sub(by).unwrap_or(*until);
        }
    }

    /// How many bytes there are.
    #[cfg(test)]
    pub(super) fn takes_up(&self) -> u64 {
        self.state().takes_up()
    }

    pub(super) fn files(&self) -> Result<Vec<Kept>, Error> {
        files_in(&self.path).map_err(|source| self.io(&self.path, source))
    }
}

impl State {
    pub(super) fn takes_up(&self) -> u64 {
        self.kept.saturating_add(self.partial)
    }

    /// Which artifacts stay, whoever needs room.
    pub(super) fn needs(&self, now: Instant) -> HashSet<&str> {
        let fresh = self.fresh.iter();
        let fresh = fresh.filter(|(_, fresh)| fresh.values().any(|until| now < *until));
        let fresh = fresh.map(|(sha256, _)| sha256);
        let held = self.held.values().flatten();
        held.chain(fresh).map(String::as_str).collect()
    }

    /// A file is whole now, which came for `whom`.
    pub(super) fn became_kept(&mut self, sha256: &str, seen: Seen, whom: Option<Arc<str>>) {
        self.kept = self.kept.saturating_add(seen.length);
        self.checked.insert(sha256.to_owned(), seen);
        self.came(sha256, whom, Instant::now());
    }

    /// It came for `whom`, who is going to hold it. Whoever does already may release it before.
    pub(super) fn came(&mut self, sha256: &str, whom: Option<Arc<str>>, now: Instant) {
        self.fresh.retain(|_, fresh| {
            fresh.retain(|_, until| now < *until);
            !fresh.is_empty()
        });
        let fresh = self.fresh.entry(sha256.to_owned()).or_default();
        fresh.insert(whom, now + FRESH);
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

/// The whole files of a folder.
fn files_in(folder: &Path) -> io::Result<Vec<Kept>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
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
}
