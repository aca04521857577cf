//! Which bytes are here? A folder of files that are named by their SHA-256, bounded in size, good across restarts.
//!
//! A file gets its name by a rename when it is whole and on disk, so that whoever finds it finds all of it. Before this
//! process hands out a file for the first time it digests it: what a crash or a bad disk left is removed, not served.
//! When there is no room, what was not asked for longest goes, but nothing that someone [holds](Store::hold).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tokio::sync::mpsc;

use crate::error::Error;
use crate::reference::is_sha256;

/// The folder, shared by all clones.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// An artifact that was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The SHA-256 of its bytes, in lower-case hex.
    pub sha256: String,
    /// How many bytes it has.
    pub length: u64,
}

/// What is known of bytes that are yet to come.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    /// What they are called in errors.
    pub(crate) what: String,
    /// Their digest, where it is known.
    pub(crate) sha256: Option<String>,
    /// The most there may be.
    pub(crate) limit: u64,
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
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
const PARTIAL: &str = "partial";
/// What callers noted about artifacts.
const NOTES: &str = "notes";
/// Chunks between the network and the thread that digests and writes.
const CHUNKS: usize = 16;
/// How old a note gets. What is forgotten is found out anew.
const FORGOTTEN: Duration = Duration::from_secs(90 * 24 * 3600);

impl Store {
    /// The store in `folder`, which is made where it is missing, and readable by this user alone. What an earlier
    /// process left half written is removed. It holds `capacity` bytes at most.
    ///
    /// # Errors
    /// When the folder can't be made or written.
    pub fn open(folder: &Path, capacity: u64) -> Result<Self, Error> {
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
            inner: Arc::new(Inner {
                folder: folder.to_owned(),
                capacity,
                state: Mutex::default(),
            }),
        })
    }

    /// The artifact's file, read from its beginning, and its length; `None` where the store doesn't have it. It stays
    /// readable even when the store removes it meanwhile.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub async fn find(&self, sha256: &str) -> Result<Option<(File, u64)>, Error> {
        if !is_sha256(sha256) {
            return Ok(None);
        }
        let (inner, sha256) = (Arc::clone(&self.inner), sha256.to_owned());
        blocking(move || inner.find(&sha256)).await
    }

    /// Whether the store has the artifact, whole.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub async fn has(&self, sha256: &str) -> Result<bool, Error> {
        Ok(self.find(sha256).await?.is_some())
    }

    /// The artifact's bytes.
    ///
    /// # Errors
    /// [`Error::Missing`] where the store doesn't have it, [`Error::TooLarge`] where it has more than `limit` bytes.
    pub async fn read(&self, sha256: &str, limit: u64) -> Result<Vec<u8>, Error> {
        let (mut file, length) = self.find(sha256).await?.ok_or_else(|| Error::Missing {
            sha256: sha256.to_owned(),
        })?;
        if length > limit {
            return Err(Error::TooLarge {
                what: format!("the artifact sha256:{sha256}"),
                limit,
            });
        }
        let path = self.inner.path(sha256);
        blocking(move || {
            let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
            match file.read_to_end(&mut bytes) {
                Ok(_) => Ok(bytes),
                Err(source) => Err(Error::Io { path, source }),
            }
        })
        .await
    }

    /// Stores bytes that are at hand.
    ///
    /// # Errors
    /// When the store is full or can't be written.
    pub async fn put(&self, bytes: impl Into<Bytes>) -> Result<Stored, Error> {
        let bytes = bytes.into();
        let expected = Expected {
            what: "the artifact".to_owned(),
            sha256: None,
            limit: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        };
        self.save(expected, futures::stream::iter([Ok(bytes)]))
            .await
    }

    /// Stores bytes as they come.
    ///
    /// # Errors
    /// The stream's own error; when there are too many bytes or they have another digest; when the store is full or
    /// can't be written.
    pub(crate) async fn save(
        &self,
        expected: Expected,
        chunks: impl Stream<Item = Result<Bytes, Error>>,
    ) -> Result<Stored, Error> {
        let (sender, receiver) = mpsc::channel::<Bytes>(CHUNKS);
        let inner = Arc::clone(&self.inner);
        // Digesting a gigabyte takes a second: not on a thread that serves others.
        let writer = tokio::task::spawn_blocking(move || inner.write(&expected, receiver));
        let mut chunks = std::pin::pin!(chunks);
        let mut failed = None;
        while let Some(chunk) = chunks.next().await {
            match chunk {
                // Where the writer has given up, its error says why.
                Ok(chunk) => {
                    if sender.send(chunk).await.is_err() {
                        break;
                    }
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        drop(sender);
        let written = writer.await.map_err(|_| Error::Thread)?;
        if let Some(error) = failed {
            return Err(error);
        }
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.keep(written?)).await
    }

    /// From now on `owner` holds exactly `digests`: they are not removed to make room. They need not be there yet.
    pub fn hold(&self, owner: &str, digests: impl IntoIterator<Item = String>) {
        let digests = digests.into_iter().collect();
        self.inner.state().held.insert(owner.to_owned(), digests);
    }

    /// `owner` holds nothing any more.
    pub fn release(&self, owner: &str) {
        self.inner.state().held.remove(owner);
    }

    /// What [`Store::note`] wrote under `key`; `None` where there is nothing of this type.
    pub(crate) async fn noted<T: DeserializeOwned + Send + 'static>(&self, key: &str) -> Option<T> {
        let path = self.inner.folder.join(NOTES).join(key);
        blocking(move || {
            Ok(fs::read(path)
                .ok()
                .and_then(|bytes| serde_json::from_slice(&bytes).ok()))
        })
        .await
        .ok()
        .flatten()
    }

    /// Notes something small about artifacts, for later processes. `key` is a file's name.
    pub(crate) async fn note(&self, key: &str, value: &impl Serialize) -> Result<(), Error> {
        let path = self.inner.folder.join(NOTES).join(key);
        let inner = Arc::clone(&self.inner);
        let bytes = serde_json::to_vec(value).unwrap_or_default();
        blocking(move || {
            let write = || {
                let mut file = NamedTempFile::new_in(inner.folder.join(PARTIAL))?;
                file.write_all(&bytes)?;
                file.persist(&path).map_err(|error| error.error)
            };
            match write() {
                Ok(_) => Ok(()),
                Err(source) => Err(Error::Io {
                    path: path.clone(),
                    source,
                }),
            }
        })
        .await
    }
}

/// A whole file without its name.
struct Written {
    file: NamedTempFile,
    stored: Stored,
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, sha256: &str) -> PathBuf {
        self.folder.join(sha256)
    }

    fn io(&self, path: &Path, source: io::Error) -> Error {
        Error::Io {
            path: path.to_owned(),
            source,
        }
    }

    fn find(&self, sha256: &str) -> Result<Option<(File, u64)>, Error> {
        let path = self.path(sha256);
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
    fn write(
        &self,
        expected: &Expected,
        mut chunks: mpsc::Receiver<Bytes>,
    ) -> Result<Written, Error> {
        let partial = self.folder.join(PARTIAL);
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
    fn keep(&self, written: Written) -> Result<Stored, Error> {
        let Written { file, stored } = written;
        let path = self.path(&stored.sha256);
        let io = |source| self.io(&path, source);
        if self.find(&stored.sha256)?.is_some() {
            return Ok(stored);
        }
        self.make_room(&stored)?;
        file.as_file().sync_all().map_err(io)?;
        let file = file.persist(&path).map_err(|error| io(error.error))?;
        let _ = file.set_modified(SystemTime::now());
        File::open(&self.folder)
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
            let path = self.path(&file.sha256);
            fs::remove_file(&path).map_err(|source| self.io(&path, source))?;
            self.state().checked.remove(&file.sha256);
            total = total.saturating_sub(file.length);
        }
        Ok(())
    }

    fn files(&self) -> Result<Vec<Kept>, Error> {
        let read = || -> io::Result<Vec<Kept>> {
            let mut files = Vec::new();
            for entry in fs::read_dir(&self.folder)? {
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
        read().map_err(|source| self.io(&self.folder, source))
    }
}

/// A file of the folder.
struct Kept {
    sha256: String,
    length: u64,
    used: SystemTime,
}

/// The SHA-256 of all that is left to read in `file`, in lower-case hex, and how many bytes that is.
pub(crate) fn digest(file: &mut File) -> io::Result<(String, u64)> {
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

/// Runs what waits for the disk where it keeps nobody waiting.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Thread)?
}

#[cfg(test)]
mod tests;
