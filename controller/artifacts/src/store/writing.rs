//! A file of the store while it is written.

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::sync::Arc;
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::check::Seen;
use super::folder::{Folder, PARTIAL};
use super::room::{Room, is_full, with_room};
use super::{Expected, Stored};
use crate::error::Error;

/// A file that isn't whole yet. It is removed unless it is kept.
pub(super) struct Writing {
    room: Room,
    expected: Expected,
    file: NamedTempFile,
    length: u64,
    sha256: Sha256,
}

impl Writing {
    /// Begins a file without a name for `whom`. All that is known to come may fit.
    pub(super) fn begin(
        folder: Arc<Folder>,
        expected: Expected,
        whom: Option<Arc<str>>,
    ) -> Result<Self, Error> {
        let partial = folder.path.join(PARTIAL);
        let what = expected.what.clone();
        // What it has already takes no more of its share.
        let sha256 = expected.sha256.as_deref();
        let whom = whom.filter(|whom| !sha256.is_some_and(|sha256| folder.is_of(whom, sha256)));
        let length = expected.length.unwrap_or_default().min(expected.limit);
        let room = Room::new(Arc::clone(&folder), what, whom, length)?;
        let file = with_room(&folder, 0, || NamedTempFile::new_in(&partial));
        let file = file.map_err(|source| folder.io(&partial, source))?;
        Ok(Self {
            room,
            expected,
            file,
            length: 0,
            sha256: Sha256::new(),
        })
    }

    /// Writes what came.
    pub(super) fn write(&mut self, chunk: &[u8]) -> Result<(), Error> {
        let more = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        let end = self.length.saturating_add(more);
        if end > self.expected.limit {
            return Err(Error::TooLarge {
                what: self.expected.what.clone(),
                limit: self.expected.limit,
            });
        }
        self.room.grow_to(end)?;
        self.sha256.update(chunk);
        let (start, mut file) = (self.length, self.file.as_file());
        let written = with_room(self.room.folder(), more, || {
            // A part of it may have been written.
            file.seek(SeekFrom::Start(start))?;
            file.write_all(chunk)
        });
        written.map_err(|source| self.room.folder().io(self.file.path(), source))?;
        self.length = end;
        Ok(())
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
        let folder = Arc::clone(self.room.folder());
        let stored = Stored {
            sha256: found,
            length: self.length,
        };
        if folder.find(&stored.sha256)?.is_some() {
            return Ok(stored);
        }
        let path = folder.file(&stored.sha256);
        let io = |source| {
            // What a disk didn't write may be lost: it isn't tried again with this file, but there is room for the next.
            if is_full(&source) {
                let _ = folder.relieve(stored.length);
            }
            folder.io(&path, source)
        };
        self.file.as_file().sync_all().map_err(io)?;
        let seen = Seen::of(self.file.as_file()).map_err(io)?;
        let file = self.file.persist(&path).map_err(|error| io(error.error))?;
        let _ = file.set_modified(SystemTime::now());
        self.room.become_kept(&stored.sha256, seen);
        File::open(&folder.path)
            .and_then(|folder| folder.sync_all())
            .map_err(io)?;
        Ok(stored)
    }
}
