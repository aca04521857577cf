//! Why an artifact isn't there: one word for conditions and metrics, one sentence for people.

use std::path::PathBuf;
use std::time::Duration;

use wisp_contract::log::chain;
use wisp_engine::inspect::InspectError;
use wisp_engine::preinit::PreinitError;
use wisp_engine::{EngineError, LoadError};

/// Where bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// An OCI registry.
    Registry,
    /// A URL.
    Url,
}

/// Why there is no artifact.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text names no image.
    #[error(
        "`{text}` is no image: {why}; expected `registry/repository:tag` or `registry/repository@sha256:…`"
    )]
    Reference {
        /// The text.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The text is no URL to load from.
    #[error("`{url}` is no URL: expected `https://…` or `http://…`")]
    Url {
        /// The text.
        url: String,
    },
    /// A text that should hold a registry's credentials doesn't.
    #[error("the registry credentials can't be read: {why}")]
    Credentials {
        /// What is wrong, without any of the text.
        why: String,
    },
    /// There is no such thing.
    #[error("{what} doesn't exist")]
    NotFound {
        /// The image or URL.
        what: String,
    },
    /// Whoever has it refuses to give or take it.
    #[error("{host} refuses {what}: {}{said}", refusal(*.authenticated))]
    Unauthorized {
        /// The registry or server.
        host: String,
        /// The image or URL.
        what: String,
        /// Whether credentials were sent.
        authenticated: bool,
        /// What it says of that, after a colon; empty where it says nothing.
        said: String,
    },
    /// The registry has no place for what is pushed: no such repository, say, and it makes none.
    #[error("{host} doesn't take {what}: {why}")]
    NotTaken {
        /// The registry.
        host: String,
        /// The image.
        what: String,
        /// What it answers.
        why: String,
    },
    /// Whoever has it doesn't answer, or says that it can't now.
    #[error("{host} can't be reached for {what}: {why}")]
    Unavailable {
        /// What kind of place it is.
        origin: Origin,
        /// The registry or server.
        host: String,
        /// The image or URL.
        what: String,
        /// What happened.
        why: String,
        /// How long it asks to be left alone, where it does.
        retry_after: Option<Duration>,
    },
    /// Nothing is fetched from the address that is named, or that a redirect leads to.
    #[error("{what} isn't fetched from {host}: {why}")]
    AddressRefused {
        /// The registry or server.
        host: String,
        /// The image or URL.
        what: String,
        /// Which address it is.
        why: String,
    },
    /// Whoever has it was spoken to by TLS, and doesn't speak it.
    #[error("{host} can't be reached for {what}: it doesn't speak TLS ({why})")]
    NoTls {
        /// What kind of place it is.
        origin: Origin,
        /// The registry or server.
        host: String,
        /// The image or URL.
        what: String,
        /// What came instead.
        why: String,
    },
    /// The answer is none that can be worked with.
    #[error("{host} answers {what} with what isn't understood: {why}")]
    Answer {
        /// What kind of place it is.
        origin: Origin,
        /// The registry or server.
        host: String,
        /// The image or URL.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// Fewer bytes came than there are.
    #[error("{what} was cut off: {found} of {expected} bytes came")]
    Truncated {
        /// What kind of place it came from.
        origin: Origin,
        /// The image or URL.
        what: String,
        /// The length that was promised.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// The bytes are not those that were asked for.
    #[error("{what} has the digest sha256:{found}, but sha256:{expected} was asked for")]
    DigestMismatch {
        /// The image, URL or file.
        what: String,
        /// What was asked for, in lower-case hex.
        expected: String,
        /// What came, in lower-case hex.
        found: String,
    },
    /// There are more bytes than allowed.
    #[error("{what} has more than the {limit} bytes that it may have")]
    TooLarge {
        /// The image, URL or file.
        what: String,
        /// The most bytes.
        limit: u64,
    },
    /// An image that is no Wasm artifact.
    #[error("{what} is no Wasm artifact: {why}; `wisp push` makes one")]
    NotWasm {
        /// The image.
        what: String,
        /// What it is instead.
        why: String,
    },
    /// An image that holds no model that could be told from what else it holds.
    #[error(
        "{what} is no model artifact: {why}; `wisp push --model NAME=FILE` and `oras push` make one"
    )]
    NotModel {
        /// The image.
        what: String,
        /// What it is instead.
        why: String,
    },
    /// An image without any signature, where one is demanded.
    #[error("{what} has no signature, and {by} demands one: `cosign sign --key` makes it")]
    NotSigned {
        /// The image, with its digest.
        what: String,
        /// What demands it.
        by: String,
    },
    /// An image with signatures, none of which is one that is demanded.
    #[error("{what} has no signature by a key of {by}: {why}")]
    Untrusted {
        /// The image, with its digest.
        what: String,
        /// What demands it.
        by: String,
        /// What was found instead.
        why: String,
    },
    /// Bytes that no host would serve.
    #[error("this can't be served")]
    Component(#[source] InspectError),
    /// The function's own initialisation fails.
    #[error("the component can't be prepared")]
    Init(#[source] PreinitError),
    /// The component doesn't compile.
    #[error("the component can't be compiled")]
    Compile(#[source] LoadError),
    /// The process that prepares the component asked for more memory than it may have.
    #[error(
        "the component can't be prepared: its initialisation (#[wisp::init]) and compiling it take more than the {} MiB of \
         memory that there are for it",
        limit >> 20
    )]
    OutOfMemory {
        /// The most bytes.
        limit: u64,
    },
    /// The process that prepares the component took longer than it may.
    #[error(
        "the component can't be prepared: its initialisation (#[wisp::init]) and compiling it take longer than the {} s that \
         there are for it",
        limit.as_secs_f64()
    )]
    TooSlow {
        /// The longest.
        limit: Duration,
    },
    /// The process that prepares the component ended early.
    #[error("the component can't be prepared: the process that does so ended early ({why})")]
    Crashed {
        /// How, and what it said last.
        why: String,
    },
    /// The process that prepares the component couldn't do its work, which is no fault of the component.
    #[error("the component can't be prepared now: the process that does so {why}")]
    Unprepared {
        /// What became of it.
        why: String,
    },
    /// Another process prepared the component, and this is what went wrong.
    #[error("{sentence}")]
    Told {
        /// Its [`Error::reason`].
        reason: &'static str,
        /// Its [`Error::sentence`].
        sentence: String,
        /// Its [`Error::is_transient`].
        is_transient: bool,
    },
    /// An artifact that should be in the store isn't.
    #[error("the store has no artifact sha256:{sha256}")]
    Missing {
        /// Its digest, in lower-case hex.
        sha256: String,
    },
    /// The store is full of what is in use.
    #[error(
        "the store has no room for the {needed} bytes of {what}: what is in use, or just came, takes up {held} of its \
         {capacity} bytes"
    )]
    StoreFull {
        /// What was to be stored.
        what: String,
        /// How many bytes it has, as far as they are known.
        needed: u64,
        /// What can't be removed.
        held: u64,
        /// The store's size.
        capacity: u64,
    },
    /// A namespace has as much of the store as it may.
    #[error(
        "`{whom}` may have {share} bytes of the store, and has {held} already: not the {needed} bytes of {what}, too"
    )]
    ShareFull {
        /// What was to be stored.
        what: String,
        /// The namespace.
        whom: String,
        /// How many bytes it has, as far as they are known.
        needed: u64,
        /// How many the namespace has.
        held: u64,
        /// How many it may have.
        share: u64,
        /// Whether they fit once nothing else is fetched for the namespace.
        is_soon: bool,
    },
    /// The store's folder, or a file to push, can't be used.
    #[error("{} can't be used", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No HTTP client can be made.
    #[error("no HTTPS client can be made")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A thread ended early.
    #[error("a thread of this process ended early")]
    Thread,
}

/// Where nothing says more.
const PREPARE_FAILED: &str = "PrepareFailed";

/// The words for what can be wrong with a component, as another process tells them.
const OF_COMPONENTS: [&str; 10] = [
    "CompileFailed",
    "EngineFailed",
    "InitFailed",
    "NoHandler",
    "NotWasm",
    "OutOfMemory",
    "StoreFailed",
    "TooLarge",
    "TooSlow",
    "UnsupportedImport",
];

impl Error {
    /// What another process, or an earlier one, said of a component.
    pub(crate) fn told(reason: &str, sentence: String, is_transient: bool) -> Self {
        let known = OF_COMPONENTS.into_iter().find(|known| *known == reason);
        Self::Told {
            reason: known.unwrap_or(PREPARE_FAILED),
            sentence,
            is_transient,
        }
    }

    /// A word for conditions, events and metrics, one of few.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Reference { .. } => "InvalidReference",
            Self::Url { .. } => "InvalidURL",
            Self::Credentials { .. } => "InvalidCredentials",
            Self::NotFound { .. } | Self::NotTaken { .. } => "NotFound",
            Self::Unauthorized { .. } => "Unauthorized",
            Self::Unavailable {
                origin: Origin::Registry,
                ..
            }
            | Self::NoTls {
                origin: Origin::Registry,
                ..
            } => "RegistryUnavailable",
            Self::Answer {
                origin: Origin::Registry,
                ..
            }
            | Self::Truncated {
                origin: Origin::Registry,
                ..
            } => "ImagePullFailed",
            Self::Unavailable { .. }
            | Self::NoTls { .. }
            | Self::Answer { .. }
            | Self::Truncated { .. } => "DownloadFailed",
            Self::AddressRefused { .. } => "AddressRefused",
            Self::DigestMismatch { .. } => "DigestMismatch",
            Self::TooLarge { .. } => "TooLarge",
            Self::NotWasm { .. } => "NotWasm",
            Self::NotModel { .. } => "NotModel",
            Self::NotSigned { .. } => "NotSigned",
            Self::Untrusted { .. } => "UntrustedSignature",
            Self::Component(error) => component(error),
            Self::Init(PreinitError::Inspect(error)) | Self::Compile(LoadError::Inspect(error)) => {
                component(error)
            }
            Self::Init(PreinitError::Compile(_)) | Self::Compile(LoadError::Compile(_)) => {
                "CompileFailed"
            }
            Self::Init(PreinitError::Engine(_)) | Self::Compile(_) => "EngineFailed",
            Self::Init(PreinitError::TooLarge { .. }) => "TooLarge",
            Self::Init(_) => "InitFailed",
            Self::OutOfMemory { .. } => "OutOfMemory",
            Self::TooSlow { .. } => "TooSlow",
            Self::Crashed { .. } | Self::Unprepared { .. } => PREPARE_FAILED,
            Self::Told { reason, .. } => reason,
            Self::StoreFull { .. } => "StoreFull",
            Self::ShareFull { .. } => "ShareFull",
            Self::Missing { .. } | Self::Io { .. } | Self::Client(_) | Self::Thread => {
                "StoreFailed"
            }
        }
    }

    /// Whether the same call may succeed soon although nobody mends anything. What isn't transient may still be mended
    /// where it is (an image is pushed, a Secret corrected), so it is worth trying again as well, but seldom.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable { .. }
            | Self::NoTls { .. }
            | Self::Truncated { .. }
            | Self::Missing { .. }
            | Self::Unprepared { .. }
            | Self::StoreFull { .. }
            | Self::ShareFull { is_soon: true, .. }
            | Self::Io { .. }
            | Self::Client(_)
            | Self::Thread
            | Self::Told {
                is_transient: true, ..
            } => true,
            Self::Init(PreinitError::Engine(_)) => true,
            Self::Compile(error) => matches!(error, LoadError::Engine(_) | LoadError::Thread),
            _ => false,
        }
    }

    /// How long whoever has it asks to be left alone, where it does.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The message and those of its sources, as one sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        chain(self)
    }
}

impl From<EngineError> for Error {
    fn from(error: EngineError) -> Self {
        Self::Compile(LoadError::Engine(error))
    }
}

fn component(error: &InspectError) -> &'static str {
    match error {
        InspectError::Imports(_) => "UnsupportedImport",
        InspectError::NoHandler { .. } | InspectError::DraftHandler { .. } => "NoHandler",
        _ => "NotWasm",
    }
}

fn refusal(authenticated: bool) -> &'static str {
    if authenticated {
        "it doesn't exist, or the credentials don't allow it"
    } else {
        "it doesn't exist, or credentials are needed and none were given"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if the page on what to watch lacked a reason, or told another that it is theirs to mend.
    #[test]
    fn whose_fault_it_is_is_told() {
        let page = include_str!("../../operator/docs/watching.md");
        let text = String::new;
        for error in [
            Error::AddressRefused {
                host: text(),
                what: text(),
                why: text(),
            },
            Error::Unavailable {
                origin: Origin::Registry,
                host: text(),
                what: text(),
                why: text(),
                retry_after: None,
            },
            Error::NotFound { what: text() },
            Error::ShareFull {
                what: text(),
                whom: text(),
                needed: 1,
                held: 1,
                share: 1,
                is_soon: false,
            },
            Error::NotModel {
                what: text(),
                why: text(),
            },
            Error::OutOfMemory { limit: 1 },
            Error::Unprepared { why: text() },
            Error::StoreFull {
                what: text(),
                needed: 1,
                held: 1,
                capacity: 1,
            },
            Error::Thread,
        ] {
            let word = format!("`{}`", error.reason());
            let whose = match error.is_transient() {
                true => "| installation |",
                false => "| owner |",
            };
            let mut rows = page
                .lines()
                .filter(|line| line.starts_with("| `ComponentReady`"));
            assert!(
                rows.any(|row| row.contains(&word) && row.contains(whose)),
                "{word}"
            );
        }
    }
}
