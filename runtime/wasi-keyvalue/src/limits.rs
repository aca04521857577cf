//! What one call may carry.

use crate::store::Error;

/// Bytes of a key, at most. A key has at least one.
pub const MAX_KEY_BYTES: usize = 1 << 10;

/// Bytes of a value, at most.
pub const MAX_VALUE_BYTES: usize = 16 << 20;

/// Bytes of all values that one call returns, or of all keys and values that it takes.
pub const MAX_CALL_BYTES: usize = 32 << 20;

/// Keys, or pairs, that one call takes, at most.
pub const MAX_CALL_ITEMS: usize = 10_000;

/// Bytes that a key or a pair takes in memory beside its own, about: two allocations and what points to them.
const ITEM_OVERHEAD: usize = 128;

/// Bytes that an entry takes in its file beside its key, twice, and its value: numbers, lengths and its part of a page's.
const ENTRY_OVERHEAD: u64 = 64;

/// What an entry counts towards its store's `maxSize`. The key lies in the file twice, with its value and in the order of
/// keys. So a file takes no more than about twice what its entries count, however small they are.
pub(crate) fn cost(key: &str, value: usize) -> u64 {
    2 * key.len() as u64 + value as u64 + ENTRY_OVERHEAD
}

/// Keys that one call of `list-keys` returns, at most.
pub(crate) const PAGE_KEYS: usize = 1000;

pub(crate) fn check_key(key: &str) -> Result<(), Error> {
    match key.len() {
        0 => Err(Error::EmptyKey),
        bytes if bytes > MAX_KEY_BYTES => Err(Error::KeyTooLong {
            start: key.chars().take(32).collect(),
            bytes,
        }),
        _ => Ok(()),
    }
}

/// What `keys` take in memory.
pub(crate) fn check_keys(keys: &[String]) -> Result<usize, Error> {
    check_items(keys.len())?;
    let mut bytes = 0usize;
    for key in keys {
        check_key(key)?;
        bytes = bytes.saturating_add(key.len());
    }
    Ok(check_call(bytes)? + keys.len() * ITEM_OVERHEAD)
}

/// What `pairs` take in memory.
pub(crate) fn check_pairs(pairs: &[(String, Vec<u8>)]) -> Result<usize, Error> {
    check_items(pairs.len())?;
    let mut bytes = 0usize;
    for (key, value) in pairs {
        check_key(key)?;
        if value.len() > MAX_VALUE_BYTES {
            return Err(Error::ValueTooLong {
                key: key.clone(),
                bytes: value.len(),
            });
        }
        bytes = bytes.saturating_add(key.len()).saturating_add(value.len());
    }
    Ok(check_call(bytes)? + pairs.len() * ITEM_OVERHEAD)
}

fn check_items(items: usize) -> Result<(), Error> {
    if items > MAX_CALL_ITEMS {
        Err(Error::TooMany { items })
    } else {
        Ok(())
    }
}

fn check_call(bytes: usize) -> Result<usize, Error> {
    if bytes > MAX_CALL_BYTES {
        Err(Error::CallTooLarge)
    } else {
        Ok(bytes)
    }
}
