//! What one call may carry.

use crate::store::Error;

/// Bytes of a key, at most. A key has at least one.
pub const MAX_KEY_BYTES: usize = 1 << 10;

/// Bytes of a value, at most.
pub const MAX_VALUE_BYTES: usize = 16 << 20;

/// Bytes of all values that one call returns, or of all keys and values that it takes.
pub const MAX_CALL_BYTES: usize = 32 << 20;

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

pub(crate) fn check_keys(keys: &[String]) -> Result<usize, Error> {
    let mut bytes = 0usize;
    for key in keys {
        check_key(key)?;
        bytes = bytes.saturating_add(key.len());
    }
    check_call(bytes)
}

pub(crate) fn check_pairs(pairs: &[(String, Vec<u8>)]) -> Result<usize, Error> {
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
    check_call(bytes)
}

pub(crate) fn check_call(bytes: usize) -> Result<usize, Error> {
    if bytes > MAX_CALL_BYTES {
        Err(Error::CallTooLarge)
    } else {
        Ok(bytes)
    }
}
