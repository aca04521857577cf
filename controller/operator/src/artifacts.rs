//! Where components and models come from, as the operator sees it: from a source to bytes that are known by their
//! digest.

mod admit;
mod memory;
mod others;
mod store;

use std::collections::HashMap;
use std::fs::File;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{Stream, TryStreamExt as _};
use hyper::body::Frame;
use serde::{Deserialize, Serialize};
use tokio_util::io::ReaderStream;
use wisp_artifacts::{Cpu, Usage};
use wisp_contract::assignment::Facts;
use wisp_contract::config::Tried;

pub(crate) use memory::share_of_memory;
pub use store::StoreArtifacts;

/// How much of a file is read at once. Hundreds of replicas may fetch at once, and each has two of these.
const CHUNK: usize = 256 << 10;

/// What a host found out about a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learned {
    /// What it found.
    pub tried: Tried,
    /// When it was learned, in seconds since 1970.
    pub at: u64,
}

/// What hosts found out about models, by the namespaces whose pods said so and the names of the models' files: one of each kind
/// of host.
pub type Trials = HashMap<String, HashMap<String, Vec<Learned>>>;

/// A place to fetch bytes from.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// An OCI artifact.
    Image {
        /// As the Function names it, or pinned to the digest that it had before.
        reference: String,
        /// The contents of Secrets of type kubernetes.io/dockerconfigjson.
        credentials: Vec<Vec<u8>>,
        /// The digest that the content must have, where it is given.
        sha256: Option<String>,
    },
    /// A download.
    Url {
        /// Where.
        url: String,
        /// The digest that the content must have.
        sha256: String,
    },
    /// Bytes that are at hand.
    Bytes {
        /// What they are called in errors.
        what: String,
        /// They.
        bytes: Vec<u8>,
        /// The digest that they must have, where it is given.
        sha256: Option<String>,
    },
}

/// What a Function names, as far as the signature policy asks.
#[derive(Debug, Clone, Copy)]
pub enum Origin<'a> {
    /// An OCI artifact, or an image that nodes mount.
    Image {
        /// As the Function names it, or pinned to the digest that it had before.
        reference: &'a str,
        /// The contents of Secrets of type kubernetes.io/dockerconfigjson.
        credentials: &'a [Vec<u8>],
    },
    /// What can't be signed, as errors call it.
    Other(&'static str),
}

/// For whom something is fetched.
#[derive(Clone, Copy)]
pub struct Whom<'a> {
    /// The namespace: each has its turn.
    pub namespace: &'a str,
    /// Is told how far it is.
    pub told: &'a (dyn Fn(Stage) + Send + Sync),
    /// Is told the digest of what came, which is yet to be prepared.
    pub came: &'a (dyn Fn(&str) + Send + Sync),
}

/// How far the component is of what isn't there yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stage {
    /// It is being fetched.
    #[default]
    Fetching,
    /// It is fetched, and is prepared once it is its turn.
    Preparing,
    /// It is ready, and the models aren't yet.
    Prepared,
}

/// Bytes in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The digest of what the source holds, in lower-case hex.
    pub source: String,
    /// How many bytes that is.
    pub size: u64,
    /// The digest of what replicas load, in lower-case hex: a component is initialised beforehand where it can be.
    pub sha256: String,
    /// For an image: the reference with the digest of its manifest.
    pub pinned: Option<String>,
    /// For a component: its machine code, at first for one level of processors, then for each that replicas are known to
    /// have.
    pub compiled: Vec<Code>,
    /// For a component: how many bytes of linear memory an instance begins with.
    pub memory: u64,
}

/// What is counted of a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// How full it is.
    pub usage: Usage,
    /// How many components wait to be prepared.
    pub waiting: usize,
}

/// Machine code in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    /// The engine it fits.
    pub engine: String,
    /// Its digest, in lower-case hex.
    pub sha256: String,
    /// What hosts have to know of the component.
    pub facts: Facts,
}

/// Why there are no bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ArtifactError {
    /// One word, for conditions and metrics.
    pub reason: &'static str,
    /// A sentence that names the source and what is wrong with it.
    pub message: String,
    /// Whether it may be otherwise in a moment, without anybody changing anything.
    pub is_transient: bool,
    /// How long the registry or server asks to be left alone, where it does.
    pub retry_after: Option<Duration>,
}

/// The artifact store.
pub trait Artifacts: Send + Sync + 'static {
    /// Asks the signature policy whether `origin` may be used in `namespace`. Gives an image with the digest that was
    /// verified; `None` where no signature is demanded.
    fn admit<'a>(
        &'a self,
        namespace: &'a str,
        origin: Origin<'a>,
    ) -> BoxFuture<'a, Result<Option<String>, ArtifactError>>;
    /// Fetches a component unless `known`, the digest that it had before, is in the store; checks that it is one, and
    /// compiles it.
    fn component<'a>(
        &'a self,
        whom: Whom<'a>,
        source: Source,
        known: Option<String>,
    ) -> BoxFuture<'a, Result<Stored, ArtifactError>>;
    /// Fetches a model for `namespace`, unless `known`, the digest that it had before, is in the store.
    fn model<'a>(
        &'a self,
        namespace: &'a str,
        source: Source,
        known: Option<String>,
    ) -> BoxFuture<'a, Result<Stored, ArtifactError>>;
    /// From now on components are compiled for these processors, too. Returns whether they weren't before: what was
    /// compiled lacks that.
    fn learn(&self, cpu: Cpu) -> bool;
    /// Whether nothing more would be compiled for these processors.
    fn knows(&self, cpu: Cpu) -> bool;
    /// Waits until there is machine code of a component for more processors than before, and gives the digest of what
    /// replicas load.
    fn more(&self) -> BoxFuture<'_, String>;
    /// What earlier processes knew of models, as far as it can be read.
    fn trials(&self) -> BoxFuture<'_, Trials>;
    /// Notes what is known of models, for later processes.
    fn note_trials(&self, trials: Trials) -> BoxFuture<'_, Result<(), ArtifactError>>;
    /// An artifact's or machine code's file and length; `None` where it isn't in the store.
    fn open<'a>(
        &'a self,
        sha256: &'a str,
    ) -> BoxFuture<'a, Result<Option<(File, u64)>, ArtifactError>>;
    /// A replica waits for an artifact or machine code that isn't in the store: what it is of is prepared before all else.
    fn hurry(&self, sha256: &str);
    /// How full the store is, and how many components wait to be prepared.
    fn figures(&self) -> BoxFuture<'_, Result<Figures, ArtifactError>>;
    /// From now on `owner` needs exactly `digests`: they stay in the store.
    fn hold(&self, owner: &str, digests: Vec<String>);
    /// `owner` needs nothing any more.
    fn release(&self, owner: &str);
}

/// A file's bytes, for a body.
pub(crate) fn frames(
    file: File,
) -> impl Stream<Item = std::io::Result<Frame<Bytes>>> + Send + Sync + use<> {
    let mut file = tokio::fs::File::from_std(file);
    file.set_max_buf_size(CHUNK);
    ReaderStream::with_capacity(file, CHUNK).map_ok(Frame::data)
}

impl Stored {
    /// All of the store that it consists of.
    #[must_use]
    pub fn digests(&self) -> Vec<String> {
        let code = self.compiled.iter().map(|code| code.sha256.clone());
        [self.source.clone(), self.sha256.clone()]
            .into_iter()
            .chain(code)
            .collect()
    }
}
