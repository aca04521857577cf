//! Is there room? Within the store's size what nobody needs goes for what comes, and where the disk has less than that, too.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rustix::fs::statvfs;

use super::check::Seen;
use super::folder::{Folder, Kept, State, total};
use crate::error::Error;

/// How many bytes go at least where the disk is full.
const RELIEF: u64 = 256 << 20;

/// So much more has room than came, of what is known to come, until half of it came, and then all of it: who promises much and
/// sends nothing takes no more from others, and who is nearly done loses nothing to them.
pub(super) const STEP: u64 = 8 << 20;

/// Bytes that count as the folder's as long as this lives, though no whole file has them.
pub(super) struct Room {
    folder: Arc<Folder>,
    /// What has them, for errors.
    what: String,
    /// The namespace that they are for: all that is known to come counts in its share.
    whom: Option<Arc<str>>,
    /// How many are known to come.
    promised: u64,
    /// How many there is room for.
    length: u64,
}

impl Room {
    /// Room for the first of `promised` bytes of `what`, all of which may fit, or for none yet.
    pub(super) fn new(
        folder: Arc<Folder>,
        what: String,
        whom: Option<Arc<str>>,
        promised: u64,
    ) -> Result<Self, Error> {
        let mut room = Self {
            folder,
            what,
            whom,
            promised: 0,
            length: 0,
        };
        room.reserve(promised, 0)?;
        Ok(room)
    }

    pub(super) fn folder(&self) -> &Arc<Folder> {
        &self.folder
    }

    /// Has so many bytes at least.
    pub(super) fn grow_to(&mut self, length: u64) -> Result<(), Error> {
        if length <= self.length {
            return Ok(());
        }
        self.reserve(self.promised.max(length), length)
    }

    /// Has room for `length` bytes of those `promised`, and for a few more.
    fn reserve(&mut self, promised: u64, length: u64) -> Result<(), Error> {
        let length = if length < promised / 2 {
            length.saturating_add(STEP).min(promised)
        } else {
            promised
        };
        let more = length.saturating_sub(self.length);
        let known = promised.saturating_sub(self.promised);
        if more == 0 && known == 0 {
            return Ok(());
        }
        let folder = Arc::clone(&self.folder);
        let mut state = folder.state();
        if let Some(whom) = self.whom.as_ref().filter(|_| known > 0) {
            folder.check_share(&state, whom, &self.what, (promised, known))?;
        }
        // Whether all of it may fit is asked when it is promised.
        let ahead = if known > 0 {
            promised.saturating_sub(self.length)
        } else {
            more
        };
        if state.takes_up().saturating_add(ahead) > folder.capacity {
            self.make(&mut state, promised, more)?;
        }
        state.partial = state.partial.saturating_add(more);
        if let Some(whom) = &self.whom {
            let coming = state.coming.entry(Arc::clone(whom)).or_default();
            *coming = coming.saturating_add(known);
        }
        (self.promised, self.length) = (promised, length);
        Ok(())
    }

    /// Removes what was not used for longest until there is room for `more` bytes; nothing where all that are `promised` don't fit
    /// beside what is in use, or came of others.
    fn make(&self, state: &mut State, promised: u64, more: u64) -> Result<(), Error> {
        let folder = &self.folder;
        let files = folder.files()?;
        state.kept = total(&files);
        let (needed, rest) = folder.needed(state, files);
        let in_use = total(&needed).saturating_add(state.partial);
        let held = in_use.saturating_sub(self.length);
        if held.saturating_add(promised) > folder.capacity {
            return Err(Error::StoreFull {
                what: self.what.clone(),
                needed: promised,
                held,
                capacity: folder.capacity,
            });
        }
        let surplus = state.takes_up().saturating_add(more);
        folder.remove(state, rest, surplus.saturating_sub(folder.capacity))?;
        Ok(())
    }

    /// They are a whole file's now.
    pub(super) fn become_kept(mut self, sha256: &str, seen: Seen) {
        let folder = Arc::clone(&self.folder);
        let mut state = folder.state();
        self.give_back(&mut state);
        state.became_kept(sha256, seen, self.whom.take());
    }

    fn give_back(&mut self, state: &mut State) {
        let length = std::mem::take(&mut self.length);
        let promised = std::mem::take(&mut self.promised);
        state.partial = state.partial.saturating_sub(length);
        if let Some(whom) = &self.whom
            && let Some(coming) = state.coming.get_mut(whom)
        {
            *coming = coming.saturating_sub(promised);
            if *coming == 0 {
                state.coming.remove(whom);
            }
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let folder = Arc::clone(&self.folder);
        self.give_back(&mut folder.state());
    }
}

impl Folder {
    /// What stays, and what may go, in the order in which it goes.
    fn needed(&self, state: &State, files: Vec<Kept>) -> (Vec<Kept>, Vec<Kept>) {
        let needs = state.needs(Instant::now());
        let (needed, mut rest): (Vec<_>, Vec<_>) = files
            .into_iter()
            .partition(|file| needs.contains(&*file.sha256));
        rest.sort_by_key(|file| file.used);
        (needed, rest)
    }

    /// Removes the first of `files` until they had so many bytes; returns how many they had.
    fn remove(&self, state: &mut State, files: Vec<Kept>, enough: u64) -> Result<u64, Error> {
        let mut removed = 0_u64;
        for file in files {
            if removed >= enough {
                break;
            }
            let path = self.file(&file.sha256);
            match std::fs::remove_file(&path) {
                // It was damaged, and found to be so meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(|source| self.io(&path, source))?,
            }
            let _ = std::fs::remove_file(self.note(&Self::origins_key(&file.sha256)));
            state.checked.remove(&file.sha256);
            state.fresh.remove(&file.sha256);
            state.kept = state.kept.saturating_sub(file.length);
            removed = removed.saturating_add(file.length);
        }
        Ok(removed)
    }

    /// Makes room on the disk, which has less than it should, for `more` bytes; returns whether there was anything to remove.
    pub(super) fn relieve(&self, more: u64) -> Result<bool, Error> {
        let mut state = self.state();
        let (_, rest) = self.needed(&state, self.files()?);
        let removed = self.remove(&mut state, rest, more.max(RELIEF))?;
        tracing::warn!(
            folder = %self.path.display(),
            removed,
            "the store's disk is full"
        );
        Ok(removed > 0)
    }
}

/// Does what takes up to `more` bytes of the disk; once more, where there are none, after what nobody needs went.
pub(super) fn with_room<T>(
    folder: &Folder,
    more: u64,
    mut work: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    match work() {
        Err(error) if is_full(&error) && folder.relieve(more).is_ok_and(|some| some) => work(),
        other => other,
    }
}

/// Whether there is no room on the disk.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// The store's size: `capacity`, or where its volume has less, that without a part for what is written beside artifacts.
pub(super) fn of_volume(folder: &Path, capacity: u64) -> u64 {
    let Ok(volume) = statvfs(folder) else {
        return capacity;
    };
    // What is kept for root is none of it.
    let reserved = volume.f_bfree.saturating_sub(volume.f_bavail);
    let blocks = volume.f_blocks.saturating_sub(reserved);
    let bytes = blocks.saturating_mul(volume.f_frsize);
    if bytes == 0 || capacity <= bytes {
        return capacity;
    }
    let most = bytes - bytes / 16;
    tracing::warn!(
        folder = %folder.display(),
        wanted = capacity,
        has = most,
        "the store's volume is smaller than the store may be: it has less"
    );
    most
}
