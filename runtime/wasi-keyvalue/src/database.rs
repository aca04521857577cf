//! A store's database, which is opened anew after it failed.
//!
//! redb refuses everything after one failed read or write of its file, for as long as the database is open. A disk that was
//! full for a second would cost a replica its store for good. So would a panic: the next operation may find what that left
//! half done.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{Database, DatabaseError, ReadableDatabase as _};

use crate::store::{Error, StorageError};
use crate::tables::{Snapshot, Writable};

/// Opens the file, or makes it.
type Open = Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>;

/// What is done with the database. The log says of each when it begins to fail and when it works again: a full disk can
/// still be read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Use {
    Read,
    Write,
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "written",
        })
    }
}

/// A database that is opened anew by the next who uses it, once it failed.
pub(crate) struct Reopened {
    name: String,
    max_bytes: u64,
    open: Open,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    database: Option<Arc<Database>>,
    reads_fail: bool,
    writes_fail: bool,
}

impl State {
    fn fails(&mut self, what: Use) -> &mut bool {
        match what {
            Use::Read => &mut self.reads_fail,
            Use::Write => &mut self.writes_fail,
        }
    }
}

impl Reopened {
    /// Opens the database of the store `name`. Blocks.
    pub(crate) fn new(name: &str, max_bytes: u64, open: Open) -> Result<Self, StorageError> {
        let database = Arc::new(prepare(open()?, max_bytes)?);
        Ok(Self {
            name: name.to_owned(),
            max_bytes,
            open,
            state: Mutex::new(State {
                database: Some(database),
                ..State::default()
            }),
        })
    }

    pub(crate) fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// Runs `operation` on the database. Blocks. Where the file fails it, that is logged once, and the next operation has a
    /// database that was opened anew.
    pub(crate) fn with<R>(
        &self,
        what: Use,
        operation: impl FnOnce(&Database) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let database = match caught(|| self.database()) {
            Ok(database) => database,
            Err(error) => {
                self.failed(&mut self.state(), what, &error);
                return Err(error.into());
            }
        };
        let result = caught(|| operation(&database));
        let mut state = self.state();
        let is_current = state
            .database
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, &database));
        match &result {
            Err(Error::Storage(error)) => {
                if is_current {
                    state.database = None;
                }
                self.failed(&mut state, what, error);
            }
            _ if is_current && std::mem::take(state.fails(what)) => {
                tracing::info!(store = self.name, "the key-value store can be {what} again");
            }
            _ => {}
        }
        drop(state);
        // Where it is the last one it is closed, which can panic, too.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(database)));
        result
    }

    /// The database that is open, or a new one. Whoever comes meanwhile waits for it.
    fn database(&self) -> Result<Arc<Database>, StorageError> {
        let mut state = self.state();
        if let Some(database) = &state.database {
            return Ok(Arc::clone(database));
        }
        let database = Arc::new(prepare((self.open)()?, self.max_bytes)?);
        state.database = Some(Arc::clone(&database));
        Ok(database)
    }

    /// Once until it works again: a guest can't fill the host's log.
    fn failed(&self, state: &mut State, what: Use, error: &StorageError) {
        if !std::mem::replace(state.fails(what), true) {
            tracing::error!(
                store = self.name,
                error = error as &dyn std::error::Error,
                "the key-value store can't be {what}: each call opens its file anew until one succeeds"
            );
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A panic is the operation's failure, not the thread's end.
pub(crate) fn caught<R, E: From<StorageError>>(
    operation: impl FnOnce() -> Result<R, E>,
) -> Result<R, E> {
    catch_unwind(AssertUnwindSafe(operation)).unwrap_or_else(|_| Err(StorageError::Panicked.into()))
}

/// Readers need the tables to be there. Where they are nothing is written: the disk may be full.
fn prepare(database: Database, max_bytes: u64) -> Result<Database, StorageError> {
    let is_there = Snapshot::open(&database.begin_read()?).is_ok_and(|tables| tables.is_counted());
    if !is_there {
        let transaction = database.begin_write()?;
        Writable::open(&transaction, max_bytes)?.finish()?;
        transaction.commit()?;
    }
    Ok(database)
}
