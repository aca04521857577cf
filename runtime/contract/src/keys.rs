//! How processes know each other: every key is derived from one secret of the installation, so that none is ever sent
//! to whom it is for, and nobody who knows one can make another.
//!
//! The operator holds the [`Root`]. The gateways hold what it derives for the data ports, and nothing of the control
//! ports. A replica holds its own two keys.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::assignment::{FunctionId, Key};

/// A secret that keys are derived from, by HMAC-SHA-256 (RFC 2104). Its `Debug` doesn't show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Root(Vec<u8>);

/// Why a text is no [`Root`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a key of {found} bytes is too short to derive others from: it needs at least {}",
    Root::SHORTEST
)]
pub struct RootError {
    found: usize,
}

impl Root {
    /// The fewest bytes of a root.
    pub const SHORTEST: usize = 32;

    /// The root that is written as `text`; white space around it doesn't count.
    ///
    /// # Errors
    /// When it has fewer than [`Root::SHORTEST`] bytes.
    pub fn new(text: &str) -> Result<Self, RootError> {
        let bytes = text.trim().as_bytes();
        if bytes.len() < Self::SHORTEST {
            return Err(RootError { found: bytes.len() });
        }
        Ok(Self(bytes.to_vec()))
    }

    /// A root for one purpose, which tells nothing of this one.
    #[must_use]
    pub fn derive(&self, purpose: &str) -> Self {
        Self(self.mac(purpose).into_bytes())
    }

    /// The root as text, for [`Root::new`].
    #[must_use]
    pub fn reveal(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }

    /// The root that the gateways know: it makes the keys of all data ports.
    #[must_use]
    pub fn data(&self) -> Self {
        self.derive("data")
    }

    /// The key of the operator's own port, for gateways.
    #[must_use]
    pub fn operator(&self) -> Key {
        Key(self.mac("operator"))
    }

    /// The key that one replica fetches one artifact with.
    #[must_use]
    pub fn artifact(&self, sha256: &str) -> Key {
        Key(self.mac(&format!("artifact/{sha256}")))
    }

    /// The key of the control ports of a function's replicas. `uid` is the Function object's.
    #[must_use]
    pub fn control(&self, function: &FunctionId, uid: &str) -> Key {
        self.derive("control").of(function, uid)
    }

    /// The key of the control ports of a pool's pods, also of those that functions have taken. `uid` is the RuntimePool
    /// object's. Whoever says in one namespace that a pod is of a pool of another gets a key that opens nothing: a pod can
    /// say of what pool it is, and not where it is itself.
    #[must_use]
    pub fn pool(&self, namespace: &str, uid: &str) -> Key {
        Key(self.derive("pool").mac(&format!("{namespace}/{uid}")))
    }

    /// What shows that the operator itself noted `pins` on a revision's record, or on a pool's Deployment: what the tags of the
    /// `spec`, by the SHA-256 of how it is written, meant. `uid` is the Function's or RuntimePool's. Others may write there, too.
    #[must_use]
    pub fn pins(&self, uid: &str, spec: &str, pins: &str) -> Key {
        // Neither a uid nor a digest has a slash.
        Key(self.derive("pins").mac(&format!("{uid}/{spec}/{pins}")))
    }

    /// The key of the ports of a function's replicas, of a root for them. `uid` is the Function object's: a function
    /// that is made anew has other keys.
    #[must_use]
    pub fn of(&self, function: &FunctionId, uid: &str) -> Key {
        Key(self.mac(&format!("{function}/{uid}")))
    }

    fn mac(&self, text: &str) -> String {
        // HMAC takes keys of every length.
        let mac = Hmac::<Sha256>::new_from_slice(&self.0).map(|mac| mac.chain_update(text));
        mac.map_or_else(
            |_| String::new(),
            |mac| hex::encode(mac.finalize().into_bytes()),
        )
    }
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Root(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_rfc_2104_and_differ_by_purpose_function_and_uid() {
        let root = Root::new(&"k".repeat(32)).unwrap();
        // printf 'operator' | openssl dgst -sha256 -hmac kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk
        assert_eq!(
            root.operator().0,
            "7111e53037853229e5f40a9a9a748935a9e41975a60baa4ad7face18ced88cde"
        );
        let (a, b) = ("x/a".parse().unwrap(), "x/b".parse().unwrap());
        let data = root.data();
        let keys = [
            root.operator(),
            root.control(&a, "1"),
            data.of(&a, "1"),
            data.of(&b, "1"),
            data.of(&a, "2"),
            root.artifact("00"),
            root.artifact("01"),
            root.pool("x", "1"),
            root.pool("x", "2"),
            root.pool("y", "1"),
            root.pins("1", "00", "{}"),
            root.pins("2", "00", "{}"),
            root.pins("1", "01", "{}"),
            root.pins("1", "00", ""),
        ];
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[..index].contains(key), "{index}");
        }
        assert_eq!(Root::new(&data.reveal()).unwrap(), data);
    }

    #[test]
    fn a_short_root_is_refused_and_none_is_printed() {
        assert!(
            Root::new(" short ")
                .unwrap_err()
                .to_string()
                .contains("5 bytes")
        );
        assert!(!format!("{:?}", Root::new(&"hunter2".repeat(5)).unwrap()).contains("hunter2"));
    }
}
