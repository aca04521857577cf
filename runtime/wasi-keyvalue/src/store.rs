//! One store.

use std::path::Path;
use std::sync::Arc;

use redb::{Builder, ConcurrencyMode, Database, DatabaseError, ReadableDatabase as _};

use crate::database::{Reopened, Use};
use crate::limits::{
    MAX_CALL_BYTES, MAX_CALL_ITEMS, MAX_KEY_BYTES, MAX_VALUE_BYTES, check_key, check_keys,
    check_pairs,
};
use crate::tables::Snapshot;
use crate::writer::Writer;

/// Memory that one store's file is cached in, at most.
const CACHE_BYTES: usize = 32 << 20;

/// A key-value store on disk. Clones share it.
#[derive(Clone)]
pub struct Store {
    database: Arc<Reopened>,
    writer: Writer,
}

/// A key with its value, where it has one.
pub type Found = Option<(String, Vec<u8>)>;

/// A page of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// At most 1,000 keys, in the order in which they were first set.
    pub keys: Vec<String>,
    /// What [`Store::list`] takes for the next page; none after the last one.
    pub cursor: Option<u64>,
}

/// Why a call failed. All but [`Error::Storage`] are the guest's to mend, and change nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key was empty.
    #[error("the key is empty: a key is 1 to {MAX_KEY_BYTES} bytes")]
    EmptyKey,
    /// A key was too long.
    #[error("the key `{start}…` is {bytes} bytes: a key is 1 to {MAX_KEY_BYTES} bytes")]
    KeyTooLong {
        /// The key's first characters.
        start: String,
        /// Its length.
        bytes: usize,
    },
    /// A value was too long.
    #[error(
        "the value of key `{key}` is {bytes} bytes: a value is at most {MAX_VALUE_BYTES} bytes"
    )]
    ValueTooLong {
        /// The key.
        key: String,
        /// The value's length.
        bytes: usize,
    },
    /// All keys and values of one call together were too long.
    #[error("the call carries more than {MAX_CALL_BYTES} bytes of keys and values: split it")]
    CallTooLarge,
    /// One call named too many keys.
    #[error("the call names {items} keys: a call takes at most {MAX_CALL_ITEMS}, split it")]
    TooMany {
        /// How many it named.
        items: usize,
    },
    /// The store has no room.
    #[error(
        "the store is full: its entries count {used} of {max} bytes (keyValue.maxSize), and this needs {needed} more"
    )]
    Full {
        /// What all entries count: each its value, its key twice and 64 bytes.
        used: u64,
        /// How much would be added.
        needed: u64,
        /// The limit.
        max: u64,
    },
    /// A value that is no counter was to be incremented.
    #[error("the value of key `{key}` is no number: only a decimal number from 0 to {max} can be incremented", max = u64::MAX)]
    NotANumber {
        /// The key.
        key: String,
    },
    /// A counter would have become too large.
    #[error("the value of key `{key}` is {old}: incremented by {delta} it would exceed {max}", max = u64::MAX)]
    Overflow {
        /// The key.
        key: String,
        /// The counter.
        old: u64,
        /// What was to be added.
        delta: u64,
    },
    /// The disk, or the file.
    #[error("the store's file can't be read or written")]
    Storage(#[source] StorageError),
}

/// What failed below a store. Its text is for the host's log.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StorageError {
    /// The database said so.
    #[error(transparent)]
    Database(Arc<redb::Error>),
    /// It panicked.
    #[error("the database panicked")]
    Panicked,
    /// The thread that writes is gone.
    #[error("the store's writer has stopped")]
    Stopped,
}

impl<E: Into<redb::Error>> From<E> for StorageError {
    fn from(error: E) -> Self {
        Self::Database(Arc::new(error.into()))
    }
}

impl From<redb::StorageError> for Error {
    fn from(error: redb::StorageError) -> Self {
        Self::Storage(error.into())
    }
}

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

impl Store {
    /// Opens the store in `file`, or makes it. Blocks; a file that a killed process left is repaired first.
    ///
    /// # Errors
    /// When the file can't be opened or made, or holds something else.
    pub fn open(name: &str, file: &Path, max_bytes: u64) -> Result<Self, StorageError> {
        let file = file.to_owned();
        Self::with(name, max_bytes, move || builder(max_bytes).create(&file))
    }

    /// The store in the database that `open` opens, now and whenever it failed.
    fn with(
        name: &str,
        max_bytes: u64,
        open: impl Fn() -> Result<Database, DatabaseError> + Send + Sync + 'static,
    ) -> Result<Self, StorageError> {
        let database = Arc::new(Reopened::new(name, max_bytes, Box::new(open))?);
        let writer = Writer::spawn(name, Arc::clone(&database))
            .map_err(|error| StorageError::from(redb::Error::Io(error)))?;
        Ok(Self { database, writer })
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// As [`Error`] tells.
    pub async fn get(&self, key: String) -> Result<Option<Vec<u8>>, Error> {
        let mut values = self.get_many(vec![key]).await?;
        Ok(values.pop().flatten().map(|(_, value)| value))
    }

    /// The values of `keys`, in their order.
    ///
    /// # Errors
    /// As [`Error`] tells.
    pub async fn get_many(&self, keys: Vec<String>) -> Result<Vec<Found>, Error> {
        check_keys(&keys)?;
        self.read(move |tables| tables.get_many(keys)).await
    }

    /// Whether `key` has a value.
    ///
    /// # Errors
    /// As [`Error`] tells.
    pub async fn exists(&self, key: String) -> Result<bool, Error> {
        check_key(&key)?;
        self.read(move |tables| tables.exists(&key)).await
    }

    /// The keys that were first set after the one that `cursor` stands for, or all.
    ///
    /// # Errors
    /// As [`Error`] tells.
    pub async fn list(&self, cursor: Option<u64>) -> Result<Page, Error> {
        self.read(move |tables| tables.list(cursor)).await
    }

    /// Sets all `pairs`, or, on an error, the first ones only; each one is set wholly.
    ///
    /// # Errors
    /// As [`Error`] tells.
    pub async fn set_many(&self, pairs: Vec<(String, Vec<u8>)>) -> Result<(), Error> {
        let bytes = check_pairs(&pairs)?;
        self.writer
            .write(bytes, move |tables| {
                pairs
                    .iter()
                    .try_for_each(|(key, value)| tables.set(key, value))
            })
            .await
    }

    /// Sets `key` to `value`.
    ///
    /// # Errors
    /// As [`Error`] tells.
    pub async fn set(&self, key: String, value: Vec<u8>) -> Result<(), Error> {
        self.set_many(vec![(key, value)]).await
    }

    /// Deletes `keys`; those that have no value are skipped.
    ///
    /// # Errors
    /// As [`Error`] tells.
    pub async fn delete_many(&self, keys: Vec<String>) -> Result<(), Error> {
        let bytes = check_keys(&keys)?;
        self.writer
            .write(bytes, move |tables| {
                keys.iter().try_for_each(|key| tables.delete(key))
            })
            .await
    }

    /// Adds `delta` to the decimal number that is `key`'s value, or to 0, and returns the sum. No other write comes in
    /// between, from whichever process.
    ///
    /// # Errors
    /// As [`Error`] tells.
    pub async fn increment(&self, key: String, delta: u64) -> Result<u64, Error> {
        check_key(&key)?;
        self.writer
            .write(key.len(), move |tables| tables.increment(&key, delta))
            .await
    }

    async fn read<R: Send + 'static>(
        &self,
        operation: impl FnOnce(&Snapshot) -> Result<R, Error> + Send + 'static,
    ) -> Result<R, Error> {
        let database = Arc::clone(&self.database);
        let run = move || {
            database.with(Use::Read, |database| {
                let transaction = database.begin_read().map_err(StorageError::from)?;
                operation(&Snapshot::open(&transaction).map_err(StorageError::from)?)
            })
        };
        tokio::task::spawn_blocking(run)
            .await
            .unwrap_or(Err(Error::Storage(StorageError::Stopped)))
    }
}

fn builder(max_bytes: u64) -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(
        usize::try_from(max_bytes)
            .unwrap_or(usize::MAX)
            .min(CACHE_BYTES),
    );
    builder.set_concurrency_mode(ConcurrencyMode::MultiWriter);
    builder
}

#[cfg(test)]
mod tests;
