//! Which bytes are here? A folder of files that are named by their SHA-256, bounded in size, good across restarts.
//!
//! A file gets its name by a rename when it is whole and on disk, so that whoever finds it finds all of it. Before this
//! process hands out a file for the first time, or another file in its place, it digests it, once for all who ask
//! meanwhile: what a crash or a bad disk left, or doesn't give back, is removed, not served.
//! When there is no room, what was not asked for longest goes, but nothing that someone [holds](Store::hold), or that came
//! within the last ten minutes for who didn't hold it yet.

use std::collections::HashMap;
use std::fs::File;
use std::hash::Hash;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::io::ReaderStream;

use crate::error::Error;
use crate::reference::is_sha256;
use crate::turn::Turn;

mod check;
mod folder;
mod notes;
mod origins;
mod room;
mod share;
mod writing;

use check::Look;
use folder::Folder;
pub(crate) use notes::{FAILED, SIGNED};
pub(crate) use origins::Place;
pub(crate) use room::is_full;
use writing::Writing;

/// The folder, shared by all clones.
#[derive(Debug, Clone)]
pub struct Store {
    folder: Arc<Folder>,
    turns: Arc<Turns>,
    checks: Arc<Checks>,
    /// The namespace that it is used for.
    whom: Option<Arc<str>>,
}

/// Who fetches what from where.
type Turns = Mutex<HashMap<(String, String), Weak<Turn>>>;

/// Who digests what.
type Checks = Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>;

/// An artifact that was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The SHA-256 of its bytes, in lower-case hex.
    pub sha256: String,
    /// How many bytes it has.
    pub length: u64,
}

/// How full a store is, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// The most that there may be.
    pub capacity: u64,
    /// What there is, and is held by somebody.
    pub held: u64,
    /// What there is, whole.
    pub kept: u64,
    /// What is there of what isn't whole yet.
    pub partial: u64,
}

/// What is known of bytes that are yet to come.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    /// What they are called in errors.
    pub(crate) what: String,
    /// Their digest, where it is known.
    pub(crate) sha256: Option<String>,
    /// How many there are, where that is known: where there can't be room for all of them, none is fetched.
    pub(crate) length: Option<u64>,
    /// The most there may be.
    pub(crate) limit: u64,
}

/// So many bytes are digested and written at once.
const BATCH: usize = 1 << 20;

impl Store {
    /// The store in `folder`, which is made where it is missing, and readable by this user alone. What an earlier
    /// process left half written is removed. It holds `capacity` bytes at most, or what its volume has.
    ///
    /// # Errors
    /// When the folder can't be made or written.
    pub fn open(folder: &Path, capacity: u64) -> Result<Self, Error> {
        Self::shared(folder, capacity, None)
    }

    /// The same, of which each namespace may have `share` bytes: of what is [stored for it](Store::on_behalf_of), and of what its
    /// owners [hold](Store::hold). What is made of that counts once it is held, and is never refused.
    ///
    /// # Errors
    /// When the folder can't be made or written.
    pub fn shared(folder: &Path, capacity: u64, share: Option<u64>) -> Result<Self, Error> {
        Ok(Self {
            folder: Arc::new(Folder::open(folder, capacity, share)?),
            turns: Arc::default(),
            checks: Arc::default(),
            whom: None,
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
        let (folder, name) = (Arc::clone(&self.folder), sha256.to_owned());
        match blocking(move || folder.look(&name)).await? {
            Look::Checked(file, length) => return Ok(Some((file, length))),
            Look::Nothing => return Ok(None),
            Look::Unchecked(..) => {}
        }
        let (folder, sha256) = (Arc::clone(&self.folder), sha256.to_owned());
        // Who waits for who digests it keeps no thread meanwhile.
        let alone = shared(&self.checks, sha256.clone()).lock_owned().await;
        blocking(move || {
            // Held also where who asked has gone: the next waits for this instead of beginning anew.
            let _alone = alone;
            folder.find(&sha256)
        })
        .await
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
        let path = self.folder.file(sha256);
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
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let all = bytes.clone();
        let sha256 = blocking(move || Ok(hex::encode(Sha256::digest(all)))).await?;
        if self.has(&sha256).await? {
            return Ok(Stored { sha256, length });
        }
        let expected = Expected {
            what: "the artifact".to_owned(),
            sha256: Some(sha256),
            length: Some(length),
            limit: length,
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
        let (folder, whom) = (Arc::clone(&self.folder), self.whom.clone());
        let mut chunks = std::pin::pin!(chunks);
        // What there is no room for isn't waited for.
        let mut written = blocking(move || Writing::begin(folder, expected, whom)).await?;
        let (mut batch, mut is_last) = next_batch(&mut chunks).await?;
        loop {
            let writing = tokio::task::spawn_blocking(move || {
                written.write(&batch)?;
                Ok(written)
            });
            if is_last {
                written = done(writing).await?;
                break;
            }
            // While the network is waited for, no thread is.
            let next = next_batch(&mut chunks).await;
            // Whether or not more came, what is written so far is, or is no more, when this returns.
            written = done(writing).await?;
            (batch, is_last) = next?;
        }
        blocking(move || written.keep()).await
    }

    /// Stores a file that this process has to itself.
    ///
    /// # Errors
    /// When it can't be read or has more than `limit` bytes, or the store is full or can't be written.
    pub(crate) async fn take(&self, path: &Path, limit: u64) -> Result<Stored, Error> {
        let io = |source| Error::Io {
            path: path.to_owned(),
            source,
        };
        let mut file = tokio::fs::File::open(path).await.map_err(io)?;
        file.set_max_buf_size(BATCH);
        let expected = Expected {
            what: "what was made of the component".to_owned(),
            sha256: None,
            length: file.metadata().await.ok().map(|file| file.len()),
            limit,
        };
        let chunks = ReaderStream::with_capacity(file, BATCH);
        self.save(expected, chunks.map(|chunk| chunk.map_err(io)))
            .await
    }

    /// A folder for files that others make for the store, on its disk. It is removed when it is dropped, and with what an
    /// earlier process left.
    ///
    /// # Errors
    /// When it can't be made.
    pub(crate) async fn scratch(&self) -> Result<TempDir, Error> {
        let folder = Arc::clone(&self.folder);
        blocking(move || folder.scratch()).await
    }

    /// Makes room on the disk where there is none, of what nobody needs.
    pub(crate) async fn relieve(&self) {
        let folder = Arc::clone(&self.folder);
        if let Err(error) = blocking(move || folder.relieve(0)).await {
            tracing::warn!(error = error.sentence(), "no room can be made");
        }
    }

    /// Where the artifact's file is, if it is there.
    pub(crate) fn path(&self, sha256: &str) -> PathBuf {
        self.folder.file(sha256)
    }

    /// What is locked by who fetches this from this place: once it isn't any more, it may be here. Who waits for something else,
    /// as for a slot, doesn't lock it: others wait for this.
    pub(crate) fn turn(&self, what: &str, sha256: &str) -> Arc<Turn> {
        shared(&self.turns, (what.to_owned(), sha256.to_owned()))
    }

    /// From now on `owner` holds exactly `digests`: they are not removed to make room. They need not be there yet. An owner is
    /// `namespace/name`, with its kind and another `/` before where names of several kinds may be the same.
    pub fn hold(&self, owner: &str, digests: impl IntoIterator<Item = String>) {
        let digests = digests.into_iter().collect();
        self.folder.hold(owner, digests);
    }

    /// `owner` holds nothing any more.
    pub fn release(&self, owner: &str) {
        self.folder.release(owner);
    }

    /// How full it is.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub async fn usage(&self) -> Result<Usage, Error> {
        let folder = Arc::clone(&self.folder);
        blocking(move || folder.usage()).await
    }

    /// All that is held by whoever holds `sha256`.
    pub(crate) fn held_beside(&self, sha256: &str) -> Vec<String> {
        self.folder.held_beside(sha256)
    }

    /// What [`Store::note`] wrote under `key`; `None` where there is nothing of this type. It is kept for 90 days after it was
    /// asked for last, and for as long as the store has an artifact whose digest is a part of `key` between `-` and `.`; of a
    /// failure for a day. Where there are more than 16,384 notes, or 64 MiB, those go first that are of failures, then of what the
    /// store doesn't have, then of what nobody holds, and of those what was not asked for longest.
    pub async fn noted<T: DeserializeOwned + Send + 'static>(&self, key: &str) -> Option<T> {
        let (folder, key) = (Arc::clone(&self.folder), key.to_owned());
        blocking(move || {
            let bytes = folder.noted(&key);
            Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
        })
        .await
        .ok()
        .flatten()
    }

    /// Notes something small about artifacts, for later processes. `key` is a file's name.
    ///
    /// # Errors
    /// When it can't be written.
    pub async fn note(&self, key: &str, value: &impl Serialize) -> Result<(), Error> {
        let (folder, key) = (Arc::clone(&self.folder), key.to_owned());
        let bytes = serde_json::to_vec(value).unwrap_or_default();
        blocking(move || folder.write_note(&key, &bytes)).await
    }
}

/// What all have who ask for the same `key` as long as somebody has it.
fn shared<K: Hash + Eq, T: Default>(all: &Mutex<HashMap<K, Weak<T>>>, key: K) -> Arc<T> {
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|_, one| one.strong_count() > 0);
    let one = all.get(&key).and_then(Weak::upgrade).unwrap_or_default();
    all.insert(key, Arc::downgrade(&one));
    one
}

/// Bytes until there are enough to write, and whether they are the last. They are copied: a chunk of one byte may keep the
/// whole buffer that it was read into.
async fn next_batch(
    chunks: &mut (impl Stream<Item = Result<Bytes, Error>> + Unpin),
) -> Result<(Bytes, bool), Error> {
    let mut batch = BytesMut::new();
    while batch.len() < BATCH {
        let Some(chunk) = chunks.next().await else {
            return Ok((batch.freeze(), true));
        };
        let chunk = chunk?;
        if batch.is_empty() && chunk.len() >= BATCH {
            return Ok((chunk, false));
        }
        batch.extend_from_slice(&chunk);
    }
    Ok((batch.freeze(), false))
}

/// The SHA-256 and length of a file that is anywhere.
///
/// # Errors
/// When it can't be read.
pub async fn measure(path: &Path) -> Result<Stored, Error> {
    let path = path.to_owned();
    blocking(move || {
        let measured = File::open(&path).and_then(|mut file| check::digest(&mut file));
        match measured {
            Ok((sha256, length)) => Ok(Stored { sha256, length }),
            Err(source) => Err(Error::Io { path, source }),
        }
    })
    .await
}

/// Runs what waits for the disk where it keeps nobody waiting.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    done(tokio::task::spawn_blocking(work)).await
}

async fn done<T>(work: JoinHandle<Result<T, Error>>) -> Result<T, Error> {
    work.await.map_err(|_| Error::Thread)?
}

#[cfg(test)]
mod tests;
