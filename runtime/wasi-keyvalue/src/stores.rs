//! The stores that a function may open.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use wisp_contract::config::KeyValueStore;

use crate::store::{StorageError, Store};

/// Names that there isn't a store of and the log tells, at the most: guests make them up.
const TOLD: usize = 16;

/// A function's stores, by the names that its guests open them by.
#[derive(Default)]
pub struct Stores {
    by_name: BTreeMap<String, Store>,
    /// What there isn't, as the log told.
    told: Mutex<BTreeSet<String>>,
}

/// Why a function's stores can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Two stores have one name.
    #[error("the key-value store `{0}` is configured twice: names are unique")]
    Twice(String),
    /// The folder can't be made.
    #[error("can't make the folder of key-value store `{name}`, {}", folder.display())]
    Folder {
        /// The store.
        name: String,
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file can't be opened.
    #[error("can't open key-value store `{name}` in {}: expected a file that this store made, or none", file.display())]
    File {
        /// The store.
        name: String,
        /// Its file.
        file: PathBuf,
        /// Why.
        source: StorageError,
    },
}

impl Stores {
    /// Opens every store, and makes those that aren't there, with their folders. Blocks.
    ///
    /// # Errors
    /// When one of them can't be opened or a name comes twice.
    pub fn open(configured: &[KeyValueStore]) -> Result<Self, OpenError> {
        let mut stores = BTreeMap::new();
        for KeyValueStore {
            name,
            file,
            max_bytes,
        } in configured
        {
            if stores.contains_key(name) {
                return Err(OpenError::Twice(name.clone()));
            }
            if let Some(folder) = file.parent() {
                std::fs::create_dir_all(folder).map_err(|source| OpenError::Folder {
                    name: name.clone(),
                    folder: folder.to_owned(),
                    source,
                })?;
            }
            let store =
                Store::open(name, file, max_bytes.get()).map_err(|source| OpenError::File {
                    name: name.clone(),
                    file: file.clone(),
                    source,
                })?;
            stores.insert(name.clone(), store);
        }
        Ok(Self {
            by_name: stores,
            told: Mutex::default(),
        })
    }

    /// The store of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Store> {
        self.by_name.get(name)
    }

    /// All names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// Whether the log may tell that there is no store of that name: once of each of a few, whichever instances ask.
    pub(crate) fn may_tell(&self, name: &str) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.len() < TOLD && told.insert(name.to_owned())
    }
}
