//! What was signed? The two forms in which cosign keeps a signature of an image.
//!
//! * cosign's *Signature Specification*: a payload in the format *simple signing*, and the signature of its bytes;
//! * cosign's *Bundle Specification*: a Sigstore bundle, in it a DSSE envelope, in it an in-toto statement of the type
//!   [`PREDICATE`].

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::PublicKey;

/// What a statement says that is a signature, and no other attestation.
pub(crate) const PREDICATE: &str = "https://sigstore.dev/cosign/sign/v1";
const SIMPLE_TYPE: &str = "cosign container image signature";
const STATEMENT_TYPES: [&str; 2] = [
    "https://in-toto.io/Statement/v1",
    "https://in-toto.io/Statement/v0.1",
];
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// The most signatures of one envelope: a bundle's has one. To check one takes as long as its payload is large, for each key.
pub(super) const MOST_SIGNATURES: usize = 4;

/// Something with signatures that was kept with an image. Nothing it says is true before a signature holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signed {
    form: Form,
    payload: Vec<u8>,
    signatures: Vec<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Simple,
    Envelope,
}

/// What it means for one image and some keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// One of the keys signed the image.
    Holds,
    /// None of the keys signed this.
    Stranger,
    /// One of the keys signed something else.
    Other(String),
}

#[derive(Deserialize)]
struct Simple {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    dsse_envelope: Envelope,
}

/// <https://github.com/secure-systems-lab/dsse/blob/master/envelope.md>
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Deserialize)]
struct EnvelopeSignature {
    sig: String,
}

/// <https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md>
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    predicate_type: String,
    subject: Vec<Subject>,
}

#[derive(Deserialize)]
struct Subject {
    digest: std::collections::BTreeMap<String, String>,
}

impl Signed {
    /// A payload in simple signing, and its signature in base64; `None` where it is none.
    pub(crate) fn simple(payload: &[u8], signature: &str) -> Option<Self> {
        Some(Self {
            form: Form::Simple,
            payload: payload.to_owned(),
            signatures: vec![STANDARD.decode(signature).ok()?],
        })
    }

    /// A Sigstore bundle with a signed in-toto statement; `None` where it is none.
    pub(crate) fn bundle(json: &[u8]) -> Option<Self> {
        let Bundle { dsse_envelope: it } = serde_json::from_slice(json).ok()?;
        let signatures = it.signatures.iter();
        let is_usual = it.payload_type == PAYLOAD_TYPE && signatures.len() <= MOST_SIGNATURES;
        is_usual.then_some(())?;
        Some(Self {
            form: Form::Envelope,
            payload: STANDARD.decode(&it.payload).ok()?,
            signatures: signatures
                .map(|signature| STANDARD.decode(&signature.sig).ok())
                .collect::<Option<_>>()?,
        })
    }

    /// Whether one of `keys` signed the image whose manifest has the SHA-256 `sha256`, in lower-case hex.
    pub(crate) fn judge(&self, sha256: &str, keys: &[PublicKey]) -> Judgement {
        let message = match self.form {
            Form::Simple => self.payload.clone(),
            Form::Envelope => pre_authentication(&self.payload),
        };
        let holds = self
            .signatures
            .iter()
            .any(|signature| keys.iter().any(|key| key.verifies(&message, signature)));
        if !holds {
            return Judgement::Stranger;
        }
        match self.digests() {
            Ok(digests) if digests.iter().any(|digest| digest == sha256) => Judgement::Holds,
            Ok(digests) => Judgement::Other(format!("sha256:{}", digests.join(", sha256:"))),
            Err(what) => Judgement::Other(what),
        }
    }

    /// The digests that the signer names, or what else it is.
    fn digests(&self) -> Result<Vec<String>, String> {
        let none = |_| "what is no payload of cosign's".to_owned();
        match self.form {
            Form::Simple => {
                let Simple { critical } = serde_json::from_slice(&self.payload).map_err(none)?;
                if critical.kind != SIMPLE_TYPE {
                    return Err(format!("a `{}`", critical.kind.escape_debug()));
                }
                let digest = critical.image.digest;
                Ok(digest
                    .strip_prefix("sha256:")
                    .map(str::to_owned)
                    .into_iter()
                    .collect())
            }
            Form::Envelope => {
                let it: Statement = serde_json::from_slice(&self.payload).map_err(none)?;
                if !STATEMENT_TYPES.contains(&it.kind.as_str()) || it.predicate_type != PREDICATE {
                    let kind = it.predicate_type.escape_debug();
                    return Err(format!("an attestation of the type {kind}"));
                }
                let subjects = it.subject.into_iter();
                Ok(subjects
                    .filter_map(|mut subject| subject.digest.remove("sha256"))
                    .collect())
            }
        }
    }
}

/// What an envelope's signatures are of (DSSE, *Pre-Authentication Encoding*).
fn pre_authentication(payload: &[u8]) -> Vec<u8> {
    let (kind, length) = (PAYLOAD_TYPE.len(), payload.len());
    let mut message = format!("DSSEv1 {kind} {PAYLOAD_TYPE} {length} ").into_bytes();
    message.extend(payload);
    message
}

#[cfg(test)]
impl Signed {
    pub(super) fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// With one bit flipped.
    pub(super) fn altered(mut self, index: usize) -> Self {
        self.payload[index] ^= 1;
        self
    }
}
