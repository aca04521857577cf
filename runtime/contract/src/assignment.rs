//! The Assignment: what turns a generic host into one function's replica, once in its life.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::config::FunctionConfig;

/// The environment variable a host reads its Assignment from, as JSON, where nobody posts one to its control port.
pub const ENV: &str = "WISP_ASSIGNMENT";

/// The longest variable that Linux starts a process with: 32 pages, with its name, `=` and a zero (`MAX_ARG_STRLEN`).
pub const LARGEST_VARIABLE: usize = 32 * 4096;

/// A function's name within its cluster, written `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FunctionId {
    namespace: String,
    name: String,
}

/// Why a text is no [`FunctionId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no function id: expected `namespace/name`, both DNS labels (at most 63 of a-z, 0-9 and `-`)"
)]
pub struct FunctionIdError(String);

impl FunctionId {
    /// Checks both parts against RFC 1123's label rules, as Kubernetes does.
    ///
    /// # Errors
    /// When a part is empty, longer than 63 bytes, or holds anything but `a-z`, `0-9` and inner `-`.
    pub fn new(namespace: &str, name: &str) -> Result<Self, FunctionIdError> {
        if is_dns_label(namespace) && is_dns_label(name) {
            Ok(Self {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            })
        } else {
            Err(FunctionIdError(format!("{namespace}/{name}")))
        }
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name within the namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Whether `text` is an RFC 1123 DNS label.
#[must_use]
pub fn is_dns_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

impl fmt::Display for FunctionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for FunctionId {
    type Err = FunctionIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (namespace, name) = text
            .split_once('/')
            .ok_or_else(|| FunctionIdError(text.to_owned()))?;
        Self::new(namespace, name)
    }
}

impl TryFrom<String> for FunctionId {
    type Error = FunctionIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<FunctionId> for String {
    fn from(id: FunctionId) -> Self {
        id.to_string()
    }
}

/// One function's configuration for one host. A host takes exactly one Assignment in its life.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Assignment {
    /// The function.
    pub function: FunctionId,
    /// The Function object's uid, where it is one of a cluster: one that is made anew under the same name is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The revision this replica runs.
    pub revision: String,
    /// What to run and within which limits.
    pub config: FunctionConfig,
    /// How many processors' time the replica's container may take, where that is less than it sees of its machine: one that
    /// stood by is given its function's limit after the Assignment, and models are split over processors before. A part of
    /// one counts as none, and none as one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<NonZeroUsize>,
    /// What the data port demands in [`crate::headers::KEY`]; absent: whoever reaches the port is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
    /// What the host fetches, into memory, before it loads anything. A file of `config` that is named
    /// `artifact:SHA256` is the artifact with that digest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Artifact>,
}

/// What a file in [`FunctionConfig`] starts with where it is one of [`Assignment::artifacts`]; its digest follows.
pub const ARTIFACT: &str = "artifact:";

/// Bytes that a host fetches by HTTP, and checks by their digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Artifact {
    /// The SHA-256 of the bytes, in lower-case hex.
    pub sha256: String,
    /// Where they are: an `http` URL whose host is an address or a name.
    pub url: String,
    /// What is sent in [`crate::headers::KEY`] to get them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
    /// The same component as machine code, for hosts whose engine one of these fits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub compiled: Vec<Compiled>,
}

/// A component's machine code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Compiled {
    /// The engine it fits, as `wisp_engine::compatibility` names it.
    pub engine: String,
    /// The SHA-256 of the machine code, in lower-case hex.
    pub sha256: String,
    /// Where it is.
    pub url: String,
    /// What is sent in [`crate::headers::KEY`] to get it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
    /// What there is to know of the component: a host that the code fits doesn't fetch the component itself.
    pub facts: Facts,
}

/// What a host has to know of a component to run its machine code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Facts {
    /// The version of WASI whose HTTP handler it exports.
    pub wasi: Wasi,
    /// Core module instances in one instance of it.
    pub core_instances: u32,
    /// Linear memories in one instance of it.
    pub memories: u32,
    /// Tables in one instance of it.
    pub tables: u32,
    /// Whether it imports `wasi:nn`.
    pub asks_models: bool,
}

/// A version of WASI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Wasi {
    /// 0.2.
    P2,
    /// 0.3.
    P3,
}

impl Artifact {
    /// How a file of [`FunctionConfig`] names it.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        artifact_file(&self.sha256)
    }
}

/// How a file of [`FunctionConfig`] names the artifact with that digest.
#[must_use]
pub fn artifact_file(sha256: &str) -> PathBuf {
    format!("{ARTIFACT}{sha256}").into()
}

/// The digest of the artifact that a file's name stands for; `None` where it is a file's.
#[must_use]
pub fn artifact_named(file: &Path) -> Option<&str> {
    file.to_str()?.strip_prefix(ARTIFACT)
}

/// Why no process can be started with an [`Assignment`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "its variables and certificate authorities are too large: with all else that it is told they take {size} bytes, of {LARGEST_VARIABLE} at most{largest}"
)]
pub struct TooLarge {
    size: usize,
    /// How that goes on, with what to look at first.
    largest: String,
}

impl Assignment {
    /// Checks that a process can be started with it, which is `json` then, in [`ENV`]: `Argument list too long` is all that
    /// the system would say.
    ///
    /// # Errors
    /// When it is larger than [`LARGEST_VARIABLE`].
    pub fn fits_variable(&self, json: &str) -> Result<(), TooLarge> {
        let size = ENV.len() + "=".len() + json.len() + 1;
        if size <= LARGEST_VARIABLE {
            return Ok(());
        }
        let config = &self.config;
        let variables = config.env.0.iter();
        let variables = variables.map(|(name, value)| (format!("`{name}`"), value.len()));
        let authorities = config.outbound.certificate_authorities.iter();
        let authorities = authorities
            .enumerate()
            .map(|(index, text)| (format!("certificateAuthorities[{index}]"), text.len()));
        let largest = variables
            .chain(authorities)
            .max_by_key(|(_, length)| *length)
            .map_or_else(String::new, |(name, length)| {
                format!(": the largest is {name} with {length} bytes")
            });
        Err(TooLarge { size, largest })
    }

    /// The machine code of its component, one for each kind of engine; none where that is no artifact or has none.
    #[must_use]
    pub fn compiled(&self) -> &[Compiled] {
        let Some(sha256) = artifact_named(&self.config.component.file) else {
            return &[];
        };
        let mut artifacts = self.artifacts.iter();
        let component = artifacts.find(|artifact| artifact.sha256 == sha256);
        component.map_or(&[], |component| &component.compiled)
    }
}

/// The environment variable that a host without a function reads what it is to have ready from, as JSON.
pub const PRELOAD_ENV: &str = "WISP_PRELOAD";

/// What a host without a function has ready for the one it will be given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Preload {
    /// Whether ONNX Runtime is loaded, which models need.
    pub onnxruntime: bool,
    /// Models that are loaded. A function whose model is of the same file and device gets the loaded one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<crate::config::Model>,
    /// What the host fetches for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Artifact>,
}

/// What a host without a function is to have ready, whichever it will be given: `POST /hold` on its control port, with the
/// bytes that it doesn't have yet in the same body ([`crate::parts::Parts`]). What isn't named it forgets.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hold {
    /// Machine code.
    pub code: Vec<Compiled>,
    /// Models, whose files are named as in a [`FunctionConfig`]. They are beside those of [`Preload`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<crate::config::Model>,
}

/// What it has ready then.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// The code's digests, in lower-case hex.
    pub code: Vec<String>,
    /// The digests of the models' files.
    #[serde(default)]
    pub models: Vec<String>,
    /// What its processor is, as in [`crate::headers::CPU`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// The engines whose machine code it runs, as [`Compiled::engine`] names them, the best first.
    #[serde(default)]
    pub engines: Vec<String>,
}

/// A shared secret. Its `Debug` doesn't show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(pub String);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn function_ids_round_trip_and_refuse_what_kubernetes_refuses() {
        assert_eq!(
            "vision/digits".parse::<FunctionId>().unwrap().to_string(),
            "vision/digits"
        );
        for bad in [
            "digits",
            "/digits",
            "vision/",
            "Vision/digits",
            "a/b/c",
            "-a/b",
            "a/b-",
            &format!("a/{}", "x".repeat(64)),
        ] {
            let error = bad.parse::<FunctionId>().unwrap_err().to_string();
            assert!(error.contains(bad), "{error}");
        }
    }

    /// Would fail if what no process can be started with passed for what one can, or the other way round, or if who reads it
    /// weren't told where to begin.
    #[test]
    fn what_does_not_fit_a_variable_is_told_with_its_size() {
        let mut assignment: Assignment = serde_json::from_value(serde_json::json!({
            "function": "vision/digits", "revision": "1", "config": {"component": {"file": "digits.wasm"}},
        }))
        .unwrap();
        let mut fits = |length: usize| {
            let env = &mut assignment.config.env.0;
            env.insert("SMALL".to_owned(), "x".to_owned());
            env.insert("RULES".to_owned(), "x".repeat(length));
            let json = serde_json::to_string(&assignment).unwrap();
            (json.len(), assignment.fits_variable(&json))
        };
        let (empty, _) = fits(0);
        let room = 131_072 - "WISP_ASSIGNMENT=".len() - 1 - empty;
        assert_eq!(fits(room).1, Ok(()));
        let told = format!(
            "its variables and certificate authorities are too large: with all else that it is told they take 131073 bytes, of 131072 at most: the largest is `RULES` with {} bytes",
            room + 1
        );
        assert_eq!(fits(room + 1).1.unwrap_err().to_string(), told);

        let outbound = &mut assignment.config.outbound;
        outbound.certificate_authorities = vec!["x".repeat(140_000)];
        let json = serde_json::to_string(&assignment).unwrap();
        let told = assignment.fits_variable(&json).unwrap_err().to_string();
        let largest = "the largest is certificateAuthorities[0] with 140000 bytes";
        assert!(told.ends_with(largest), "{told}");
    }

    #[test]
    fn a_key_is_not_printed() {
        assert!(!format!("{:?}", Key("hunter2".into())).contains("hunter2"));
    }
}
