//! Key-value stores: maps of the test's thread, which refuse what the host does.

use std::collections::BTreeMap;

use crate::kv::Cause;
use crate::test::fakes;

/// Bytes of a key, at most, as the host has it.
const MAX_KEY_BYTES: usize = 1 << 10;

/// Bytes of a value, at most, likewise.
const MAX_VALUE_BYTES: usize = 16 << 20;

pub(crate) struct Store(String);

type Map = BTreeMap<String, Vec<u8>>;

pub(crate) fn open(name: &str) -> Result<Store, Cause> {
    let is_there = fakes::with(|fakes| fakes.stores.contains_key(name));
    if is_there {
        Ok(Store(name.to_owned()))
    } else {
        Err(Cause::NoSuchStore)
    }
}

impl Store {
    pub(crate) fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Cause> {
        self.at(key, |map| map.get(key).cloned())
    }

    pub(crate) fn set(&self, key: &str, value: &[u8]) -> Result<(), Cause> {
        if value.len() > MAX_VALUE_BYTES {
            return Err(Cause::Other(format!(
                "the value of key `{key}` is {} bytes: a value is at most {MAX_VALUE_BYTES} bytes",
                value.len()
            )));
        }
        self.at(key, |map| drop(map.insert(key.to_owned(), value.to_vec())))
    }

    pub(crate) fn delete(&self, key: &str) -> Result<(), Cause> {
        self.at(key, |map| drop(map.remove(key)))
    }

    pub(crate) fn exists(&self, key: &str) -> Result<bool, Cause> {
        self.at(key, |map| map.contains_key(key))
    }

    pub(crate) fn keys(&self) -> Result<Vec<String>, Cause> {
        self.with(|map| map.keys().cloned().collect())
    }

    /// Numbers are decimal text, as the host keeps them.
    pub(crate) fn increment(&self, key: &str, by: u64) -> Result<u64, Cause> {
        self.at(key, |map| {
            let now = match map.get(key) {
                None => 0,
                Some(bytes) => str::from_utf8(bytes)
                    .ok()
                    .filter(|text| !text.starts_with('+'))
                    .and_then(|text| text.parse::<u64>().ok())
                    .ok_or_else(|| Cause::Other("the value is no number".to_owned()))?,
            };
            let sum = now
                .checked_add(by)
                .ok_or_else(|| Cause::Other(format!("{now} + {by} is more than {}", u64::MAX)))?;
            map.insert(key.to_owned(), sum.to_string().into_bytes());
            Ok(sum)
        })?
    }

    fn at<R>(&self, key: &str, work: impl FnOnce(&mut Map) -> R) -> Result<R, Cause> {
        let wrong = match key.len() {
            0 => "the key is empty".to_owned(),
            bytes if bytes > MAX_KEY_BYTES => {
                let start: String = key.chars().take(32).collect();
                format!("the key `{start}…` is {bytes} bytes")
            }
            _ => return self.with(work),
        };
        Err(Cause::Other(format!(
            "{wrong}: a key is 1 to {MAX_KEY_BYTES} bytes"
        )))
    }

    fn with<R>(&self, work: impl FnOnce(&mut Map) -> R) -> Result<R, Cause> {
        fakes::with(|fakes| fakes.stores.get_mut(&self.0).map(work)).ok_or(Cause::NoSuchStore)
    }
}
