//! Key-value stores: `wasi:keyvalue`.

use crate::bindings::wasi::keyvalue::{atomics, store};
use crate::kv::Cause;

pub(crate) struct Store(store::Bucket);

pub(crate) fn open(name: &str) -> Result<Store, Cause> {
    store::open(name).map(Store).map_err(cause)
}

impl Store {
    pub(crate) fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Cause> {
        self.0.get(key).map_err(cause)
    }

    pub(crate) fn set(&self, key: &str, value: &[u8]) -> Result<(), Cause> {
        self.0.set(key, value).map_err(cause)
    }

    pub(crate) fn delete(&self, key: &str) -> Result<(), Cause> {
        self.0.delete(key).map_err(cause)
    }

    pub(crate) fn exists(&self, key: &str) -> Result<bool, Cause> {
        self.0.exists(key).map_err(cause)
    }

    pub(crate) fn increment(&self, key: &str, by: u64) -> Result<u64, Cause> {
        atomics::increment(&self.0, key, by).map_err(cause)
    }

    pub(crate) fn keys(&self) -> Result<Vec<String>, Cause> {
        let mut keys = Vec::new();
        let mut cursor = None;
        loop {
            let page = self.0.list_keys(cursor).map_err(cause)?;
            keys.extend(page.keys);
            match page.cursor {
                Some(next) => cursor = Some(next),
                None => return Ok(keys),
            }
        }
    }
}

fn cause(error: store::Error) -> Cause {
    match error {
        store::Error::NoSuchStore => Cause::NoSuchStore,
        store::Error::AccessDenied => Cause::AccessDenied,
        store::Error::Other(detail) => Cause::Other(detail),
    }
}
