//! Log lines: every process of wisp writes one JSON object per line to its standard output.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Line<'a> {
    /// RFC 3339, UTC, microseconds.
    pub ts: Cow<'a, str>,
    /// How grave it is.
    pub level: Level,
    /// Who says it: a Rust module path, or one of [`GUEST_STDOUT`], [`GUEST_STDERR`], [`GUEST_LOG`].
    pub target: Cow<'a, str>,
    /// What happened, for people.
    pub message: Cow<'a, str>,
    /// What happened, for machines: one of [`event`]'s names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<Cow<'a, str>>,
    /// `namespace/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<Cow<'a, str>>,
    /// The request that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Cow<'a, str>>,
    /// Everything else.
    #[serde(flatten)]
    pub fields: BTreeMap<String, serde_json::Value>,
}

/// The `target` of a line that a guest wrote to its standard output.
pub const GUEST_STDOUT: &str = "guest.stdout";
/// The `target` of a line that a guest wrote to its standard error.
pub const GUEST_STDERR: &str = "guest.stderr";
/// The `target` of a line that a guest logged through `wasi:logging`.
pub const GUEST_LOG: &str = "guest.log";

/// How grave a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Every step.
    Trace,
    /// For whoever looks for a mistake.
    Debug,
    /// What is worth knowing.
    Info,
    /// Somebody should look at it soon.
    Warn,
    /// Something failed.
    Error,
}

/// Names of events that other processes rely on.
pub mod event {
    /// The host's ports are bound; fields `data` and `control`, socket addresses.
    pub const LISTENING: &str = "listening";
    /// The host serves its function; field `millis`, since the process began.
    pub const READY: &str = "ready";
    /// The host cannot become its function; `message` says why. The process ends with status 1.
    pub const FAILED: &str = "failed";
    /// One request was answered; fields `method`, `path`, `status`, `millis`, `reason` (of a problem, else absent).
    pub const REQUEST: &str = "request";
    /// The host takes no new requests and finishes those it has.
    pub const DRAINING: &str = "draining";
}

/// An error with all that it came from, in one line. Where one tells its source itself, that isn't told twice.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let told = cause.to_string();
        if !text.ends_with(&told) {
            text.push_str(": ");
            text.push_str(&told);
        }
        source = cause.source();
    }
    text
}
