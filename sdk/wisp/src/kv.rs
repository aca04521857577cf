//! Key-value stores: those that the function's `spec.keyValue` names, through `wasi:keyvalue`. A value that is set outlives
//! the request and the process; for how long, and who sees it, depends on where the function runs:
//!
//! * In a cluster a store is part of one pod. Each replica has its own, which begins empty, and all of it is gone with the pod:
//!   when the function sleeps (by default after 30 s without a request), when there are fewer replicas, with every new
//!   revision, and when the node is lost. So it is for what can be had again: a cache, a counter of this replica.
//! * Under `wisp dev` a store is a file in the folder `.wisp` beside the manifest. All replicas of the function share it, and
//!   it stays when they end and when `wisp dev` does.
//!
//! A function with stores takes no pod that stands by: in a cluster each of its wake-ups takes as long as Kubernetes needs
//! to start a pod. What must stay, or what all replicas must see, belongs into a service that is reached by
//! [`http`](crate::http).
//!
//! ```
//! # fn main() -> Result<(), wisp::kv::Error> {
//! wisp::test::kv("default");
//! let store = wisp::kv::open("default")?;
//! store.set("color", "red")?;
//! assert_eq!(store.get("color")?.as_deref(), Some(b"red".as_slice()));
//! assert_eq!(store.increment("visits", 1)?, 1);
//! # Ok(())
//! # }
//! ```

use crate::platform;

/// Why an operation on a store failed.
///
/// ```
/// let error = wisp::kv::open("sessions").unwrap_err();
/// assert_eq!(error.to_string(), "store `sessions`: there is no such store: name it in the function's `spec.keyValue`");
/// assert_eq!(error.cause(), &wisp::kv::Cause::NoSuchStore);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("store `{store}`{}: {cause}", .key.as_ref().map(|key| format!(", key `{key}`")).unwrap_or_default())]
pub struct Error {
    store: String,
    key: Option<String>,
    cause: Cause,
}

impl Error {
    /// What happened.
    ///
    /// ```
    /// assert_eq!(wisp::kv::open("x").unwrap_err().cause(), &wisp::kv::Cause::NoSuchStore);
    /// ```
    #[must_use]
    pub fn cause(&self) -> &Cause {
        &self.cause
    }
}

/// What happened, in `wasi:keyvalue`'s terms.
///
/// ```
/// assert_eq!(wisp::kv::Cause::Other("disk full".into()).to_string(), "disk full");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The function has no store of that name.
    #[error("there is no such store: name it in the function's `spec.keyValue`")]
    NoSuchStore,
    /// The function may not use it.
    #[error("the function may not use it")]
    AccessDenied,
    /// Anything else, in the host's words.
    #[error("{0}")]
    Other(String),
}

/// An open store.
///
/// ```
/// wisp::test::kv("default");
/// let store = wisp::kv::open("default").unwrap();
/// assert!(store.list().unwrap().is_empty());
/// ```
pub struct Store {
    name: String,
    inner: platform::kv::Store,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.name)
    }
}

/// Opens the store called `name`.
///
/// ```
/// wisp::test::kv("default");
/// assert!(wisp::kv::open("default").is_ok());
/// ```
///
/// # Errors
/// [`Cause::NoSuchStore`] where the function's `spec.keyValue` doesn't name it.
pub fn open(name: &str) -> Result<Store, Error> {
    match platform::kv::open(name) {
        Ok(inner) => Ok(Store {
            name: name.to_owned(),
            inner,
        }),
        Err(cause) => Err(Error {
            store: name.to_owned(),
            key: None,
            cause,
        }),
    }
}

impl Store {
    /// The value of `key`, `None` where there is none.
    ///
    /// ```
    /// # wisp::test::kv("default");
    /// # let store = wisp::kv::open("default").unwrap();
    /// assert_eq!(store.get("color").unwrap(), None);
    /// ```
    ///
    /// # Errors
    /// The host's own.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        self.inner
            .get(key)
            .map_err(|cause| self.error(Some(key), cause))
    }

    /// Sets the value of `key`, whether it had one or not.
    ///
    /// ```
    /// # wisp::test::kv("default");
    /// # let store = wisp::kv::open("default").unwrap();
    /// store.set("color", "red").unwrap();
    /// store.set("color", vec![1, 2]).unwrap();
    /// assert_eq!(store.get("color").unwrap(), Some(vec![1, 2]));
    /// ```
    ///
    /// # Errors
    /// The host's own, as when the store would be larger than its `maxSize`.
    pub fn set(&self, key: &str, value: impl AsRef<[u8]>) -> Result<(), Error> {
        self.inner
            .set(key, value.as_ref())
            .map_err(|cause| self.error(Some(key), cause))
    }

    /// Deletes `key`. It is no error when it isn't there.
    ///
    /// ```
    /// # wisp::test::kv("default");
    /// # let store = wisp::kv::open("default").unwrap();
    /// store.set("color", "red").unwrap();
    /// store.delete("color").unwrap();
    /// assert!(!store.exists("color").unwrap());
    /// ```
    ///
    /// # Errors
    /// The host's own.
    pub fn delete(&self, key: &str) -> Result<(), Error> {
        self.inner
            .delete(key)
            .map_err(|cause| self.error(Some(key), cause))
    }

    /// Whether `key` has a value.
    ///
    /// ```
    /// # wisp::test::kv("default");
    /// # let store = wisp::kv::open("default").unwrap();
    /// assert!(!store.exists("color").unwrap());
    /// ```
    ///
    /// # Errors
    /// The host's own.
    pub fn exists(&self, key: &str) -> Result<bool, Error> {
        self.inner
            .exists(key)
            .map_err(|cause| self.error(Some(key), cause))
    }

    /// All keys, in no order. It reads the whole store: not for the path of every request.
    ///
    /// ```
    /// # wisp::test::kv("default");
    /// # let store = wisp::kv::open("default").unwrap();
    /// store.set("color", "red").unwrap();
    /// assert_eq!(store.list().unwrap(), ["color"]);
    /// ```
    ///
    /// # Errors
    /// The host's own.
    pub fn list(&self) -> Result<Vec<String>, Error> {
        self.inner.keys().map_err(|cause| self.error(None, cause))
    }

    /// Adds `by` to the number at `key` in one step, and returns the sum. A key that isn't there counts from 0.
    ///
    /// ```
    /// # wisp::test::kv("default");
    /// # let store = wisp::kv::open("default").unwrap();
    /// store.increment("visits", 1).unwrap();
    /// assert_eq!(store.increment("visits", 2).unwrap(), 3);
    /// ```
    ///
    /// # Errors
    /// Where the value is no number that `increment` made, and the host's own.
    pub fn increment(&self, key: &str, by: u64) -> Result<u64, Error> {
        self.inner
            .increment(key, by)
            .map_err(|cause| self.error(Some(key), cause))
    }

    fn error(&self, key: Option<&str>, cause: Cause) -> Error {
        Error {
            store: self.name.clone(),
            key: key.map(str::to_owned),
            cause,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test;

    /// Would fail if a test passed with what the host refuses.
    #[test]
    fn a_tests_store_refuses_what_the_hosts_does() {
        test::kv("s");
        let store = open("s").unwrap();
        let long = "k".repeat(1025);
        for key in ["", &long] {
            for refused in [
                store.get(key).map(drop),
                store.set(key, "").map(drop),
                store.delete(key).map(drop),
                store.exists(key).map(drop),
                store.increment(key, 1).map(drop),
            ] {
                let text = refused.unwrap_err().to_string();
                assert!(text.ends_with("a key is 1 to 1024 bytes"), "{text}");
            }
        }
        store.set(&long[1..], vec![0; 16 << 20]).unwrap();
        let text = store.set("k", vec![0; (16 << 20) + 1]).unwrap_err();
        assert!(
            text.to_string().contains("at most 16777216 bytes"),
            "{text}"
        );
        store.set("n", "+1").unwrap();
        assert!(store.increment("n", 1).is_err());
    }
}
