//! Is a file the artifact that it is named after? What is here waits for the disk, and computes digests.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::folder::Folder;
use crate::error::Error;

/// A file, as far as it is told from another in its place, or from what is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    device: u64,
    inode: u64,
    pub(super) length: u64,
}

/// What is found where an artifact should be.
pub(super) enum Look {
    Nothing,
    /// What isn't known to be the artifact.
    Unchecked(File, Seen),
    /// The artifact, and its length.
    Checked(File, u64),
}

impl Folder {
    /// The artifact's file and its length. What isn't known to be the artifact is digested.
    pub(super) fn find(&self, sha256: &str) -> Result<Option<(File, u64)>, Error> {
        match self.look(sha256)? {
            Look::Nothing => Ok(None),
            Look::Unchecked(file, seen) => self.check(sha256, file, seen),
            Look::Checked(file, length) => Ok(Some((file, length))),
        }
    }

    /// What is found at once.
    pub(super) fn look(&self, sha256: &str) -> Result<Look, Error> {
        let path = self.file(sha256);
        let look = || -> io::Result<Look> {
            let file = File::open(&path)?;
            let seen = Seen::of(&file)?;
            if self.state().checked.get(sha256) != Some(&seen) {
                return Ok(Look::Unchecked(file, seen));
            }
            used(&file);
            Ok(Look::Checked(file, seen.length))
        };
        match look() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Look::Nothing),
            other => other.map_err(|source| self.io(&path, source)),
        }
    }

    /// Digests what was found, and removes it where it isn't the artifact.
    fn check(
        &self,
        sha256: &str,
        mut file: File,
        seen: Seen,
    ) -> Result<Option<(File, u64)>, Error> {
        #[cfg(test)]
        self.digested
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut read = || {
            file.rewind()?;
            digest(&mut file)
        };
        let digested = match read() {
            // A volume that was away for a moment says the same.
            Err(error) if is_lost(&error) => read(),
            digested => digested,
        };
        let digested = digested.and_then(|(found, _)| file.rewind().map(|()| found));
        let why = match digested {
            Ok(found) if found == sha256 => {
                self.state().checked.insert(sha256.to_owned(), seen);
                used(&file);
                return Ok(Some((file, seen.length)));
            }
            Ok(found) => format!("it has the digest sha256:{found}"),
            Err(error) if is_lost(&error) => error.to_string(),
            Err(source) => return Err(self.io(&self.file(sha256), source)),
        };
        self.discard(sha256, seen, &why)?;
        Ok(None)
    }

    /// Removes what was seen, and is no artifact any more.
    fn discard(&self, sha256: &str, seen: Seen, why: &str) -> Result<(), Error> {
        let path = self.file(sha256);
        let now = File::open(&path).and_then(|file| Seen::of(&file));
        // Somebody has put a whole one in its place meanwhile.
        if now.is_ok_and(|now| now != seen) {
            return Ok(());
        }
        tracing::warn!(path = %path.display(), why, "an artifact is damaged and is removed");
        self.state().checked.remove(sha256);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|source| self.io(&path, source)),
        }
    }
}

impl Seen {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
        })
    }
}

/// Notes the time of last use, by which room is made. That it can't be written is no reason not to use the file.
fn used(file: &File) {
    let _ = file.set_modified(SystemTime::now());
}

/// Whether a disk, or its file system, says that what was written to it can't be had any more.
fn is_lost(error: &io::Error) -> bool {
    let lost = [Errno::IO, Errno::ILSEQ, Errno::BADMSG, Errno::UCLEAN];
    Errno::from_io_error(error).is_some_and(|error| lost.contains(&error))
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
