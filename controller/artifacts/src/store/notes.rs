//! What callers noted about artifacts, for later processes: small files, of which there are only so many. What is forgotten is found
//! out anew.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::folder::{Folder, Kept};
use crate::error::Error;
use crate::reference::is_sha256;

/// The most that there are.
pub(super) const MOST: Size = Size {
    count: 16_384,
    bytes: 64 << 20,
};
/// How long a note is kept that isn't asked for, of what isn't here.
const FORGOTTEN: Duration = Duration::from_hours(90 * 24);
/// The same of a failure, whatever it is of: what failed is tried again an hour later at the latest.
const FAILURE_FORGOTTEN: Duration = Duration::from_hours(24);
/// How the keys of failures begin.
pub(crate) const FAILED: &str = "failed-";
/// How those begin of signatures that were found, which are of images.
pub(crate) const SIGNED: &str = "signed-";

/// The folder of notes.
#[derive(Debug)]
pub(super) struct Notes {
    path: PathBuf,
    pub(super) most: Size,
    /// At least as much as there is: some go with their artifacts.
    size: Mutex<Size>,
}

/// How many notes, and how many bytes they have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) count: u64,
    pub(super) bytes: u64,
}

impl Size {
    fn exceeds(self, most: Self) -> bool {
        self.count > most.count || self.bytes > most.bytes
    }

    /// A little less, so that who is at the bound doesn't look through all notes for each.
    fn less(self) -> Self {
        Self {
            count: self.count - self.count / 8,
            bytes: self.bytes - self.bytes / 8,
        }
    }
}

/// What it takes to find a note's content out anew; what takes least is forgotten first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    /// One more attempt.
    Failure,
    /// Nothing, as long as nobody fetches what it is of.
    Gone,
    /// Nothing, as long as nobody asks for it.
    Here,
    /// Somebody will wait for it when the next process begins.
    Needed,
}

impl Notes {
    /// Those in the folder at `path`, of which it removes those that are old, and of none of the `files`. Of those some may be in
    /// use for years, and the note be asked for only when a process begins.
    pub(super) fn open(path: PathBuf, files: &[Kept], most: Size) -> io::Result<Self> {
        let here: HashSet<&str> = files.iter().map(|file| &*file.sha256).collect();
        let mut size = Size::default();
        for note in fs::read_dir(&path)? {
            let note = note?;
            let (name, metadata) = (note.file_name(), note.metadata()?);
            let name = name.to_str().unwrap_or_default();
            let age = metadata.modified()?.elapsed().unwrap_or_default();
            let is_old = if name.starts_with(FAILED) {
                age > FAILURE_FORGOTTEN
            } else {
                age > FORGOTTEN && !parts(name).any(|part| here.contains(part))
            };
            if is_old {
                fs::remove_file(note.path())?;
            } else {
                size.count += 1;
                size.bytes += metadata.len();
            }
        }
        Ok(Self {
            path,
            most,
            size: Mutex::new(size),
        })
    }

    pub(super) fn file(&self, key: &str) -> PathBuf {
        self.path.join(key)
    }

    /// One was written; `before` is how many bytes it had, if it was there. Returns whether there are too many.
    fn wrote(&self, before: Option<u64>, length: u64) -> bool {
        let mut size = self.size.lock().unwrap_or_else(PoisonError::into_inner);
        size.count = size.count.saturating_add(u64::from(before.is_none()));
        size.bytes = size.bytes.saturating_add(length);
        size.bytes = size.bytes.saturating_sub(before.unwrap_or_default());
        size.exceeds(self.most)
    }

    /// Removes what is worth least, and of that what was not used for longest, until there are few enough.
    fn trim(&self, worth: impl Fn(&str) -> Worth) -> io::Result<()> {
        let mut size = self.size.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut all, mut found) = (Vec::new(), Size::default());
        for note in fs::read_dir(&self.path)? {
            let note = note?;
            // It may have gone with its artifact.
            let Ok(metadata) = note.metadata() else {
                continue;
            };
            let length = metadata.len();
            found.count += 1;
            found.bytes += length;
            let worth = worth(note.file_name().to_str().unwrap_or_default());
            all.push(((worth, metadata.modified()?), length, note.path()));
        }
        all.sort_by_key(|(order, ..)| *order);
        for (_, length, path) in all {
            if !found.exceeds(self.most.less()) {
                break;
            }
            let _ = fs::remove_file(path);
            found.count = found.count.saturating_sub(1);
            found.bytes = found.bytes.saturating_sub(length);
        }
        *size = found;
        Ok(())
    }
}

impl Folder {
    /// The file of a note.
    pub(super) fn note(&self, key: &str) -> PathBuf {
        self.notes.file(key)
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

    /// Writes a note, or nothing of it. Others may go for it.
    pub(super) fn write_note(&self, key: &str, bytes: &[u8]) -> Result<(), Error> {
        let path = self.note(key);
        let before = length(&path);
        self.replace(&path, bytes)?;
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if self.notes.wrote(before, length)
            && let Err(error) = self.trim_notes()
        {
            tracing::warn!(error = error.sentence(), "old notes can't be removed");
        }
        Ok(())
    }

    fn trim_notes(&self) -> Result<(), Error> {
        let files = self.files()?;
        let here: HashSet<&str> = files.iter().map(|file| &*file.sha256).collect();
        let needs: HashSet<String> = {
            let state = self.state();
            let needs = state.needs(Instant::now());
            needs.into_iter().map(str::to_owned).collect()
        };
        let trimmed = self.notes.trim(|name| {
            if name.starts_with(FAILED) {
                return Worth::Failure;
            }
            if name.starts_with(SIGNED) {
                return Worth::Needed;
            }
            let of_digests = parts(name).filter(|part| is_sha256(part)).map(|sha256| {
                if needs.contains(sha256) {
                    Worth::Needed
                } else if here.contains(sha256) {
                    Worth::Here
                } else {
                    Worth::Gone
                }
            });
            // What is of no artifact is the caller's own.
            of_digests.max().unwrap_or(Worth::Needed)
        });
        trimmed.map_err(|source| self.io(&self.notes.path, source))
    }
}

fn length(path: &Path) -> Option<u64> {
    Some(fs::metadata(path).ok()?.len())
}

/// The parts of a key, of which some are digests of artifacts.
fn parts(key: &str) -> impl Iterator<Item = &str> {
    key.split(['-', '.'])
}
