//! Who signed? Public keys, as cosign writes them.

mod der;
mod signed;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{SubjectPublicKeyInfoDer, alg_id};
use sha2::{Digest, Sha256};

pub(crate) use signed::{Judgement, PREDICATE, Signed};

/// The public half of a key that signs: ECDSA on P-256, which `cosign generate-key-pair` makes, or on P-384, or RSA of 2048
/// bits and more. What cosign makes with Ed25519 is prehashed, which *ring* doesn't know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// The algorithm's identifier in DER, without its tag and length.
    algorithm: Vec<u8>,
    key: Vec<u8>,
    id: String,
}

/// Why a text holds no public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is none.
    #[error("expected `-----BEGIN PUBLIC KEY-----` and what follows, as cosign.pub has it")]
    None,
    /// There is one that can't be read.
    #[error("the public key can't be read")]
    Unreadable,
    /// Its algorithm isn't known.
    #[error("its algorithm is none of ECDSA on P-256 or P-384, and RSA")]
    Unknown,
}

impl PublicKey {
    /// All keys of a text in PEM.
    ///
    /// # Errors
    /// When there is none, or one that can't be used.
    pub fn all(pem: &str) -> Result<Vec<Self>, KeyError> {
        let keys: Vec<Self> = SubjectPublicKeyInfoDer::pem_slice_iter(pem.as_bytes())
            .map(|info| Self::read(&info.map_err(|_| KeyError::Unreadable)?))
            .collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Err(KeyError::None);
        }
        Ok(keys)
    }

    /// RFC 5280, section 4.1: `SubjectPublicKeyInfo`.
    fn read(info: &[u8]) -> Result<Self, KeyError> {
        let (algorithm, key) = der::public_key(info).ok_or(KeyError::Unreadable)?;
        let known = [
            alg_id::ECDSA_P256,
            alg_id::ECDSA_P384,
            alg_id::RSA_ENCRYPTION,
        ];
        if !known.iter().any(|known| known.as_ref() == algorithm) {
            return Err(KeyError::Unknown);
        }
        Ok(Self {
            algorithm: algorithm.to_owned(),
            key: key.to_owned(),
            id: hex::encode(Sha256::digest(info)),
        })
    }

    /// The SHA-256 of the key in DER, in lower-case hex.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether `signature` is this key's of `message`, with any of the hash functions that go with the key.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let known = ring::default_provider().signature_verification_algorithms;
        known
            .all
            .iter()
            .filter(|known| known.public_key_alg_id().as_ref() == self.algorithm)
            .any(|known| {
                known
                    .verify_signature(&self.key, message, signature)
                    .is_ok()
            })
    }
}

#[cfg(test)]
mod tests;
