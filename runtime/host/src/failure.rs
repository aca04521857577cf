//! Everything that can keep a request from its answer. The sentences are written for clients.

use std::time::Duration;

use wisp_admit::Refused;
use wisp_contract::problem::Fault;

use crate::meter::Refusal;

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the header `wisp-key` is missing or wrong")]
    WrongKey,
    #[error("the request names no host: HTTP/1.1 requires exactly one valid `host` header")]
    InvalidHost,
    #[error(
        "the request's body is larger than the {allowed} bytes that this function takes (limits.requestBody)"
    )]
    BodyTooLarge { allowed: u64 },
    #[error(
        "the request's body didn't arrive within the {} ms that the function has (limits.timeout)",
        .allowed.as_millis()
    )]
    BodyTooSlow { allowed: Duration },
    #[error("the request's body broke off, or isn't what its framing says")]
    BodyBroken,
    #[error("this replica takes no more requests now: {0}")]
    Refused(#[from] Refused),
    #[error("the function didn't answer within the {} ms that it has (limits.timeout)", .allowed.as_millis())]
    Timeout { allowed: Duration },
    #[error("the function trapped; its log has the details under this request's id")]
    Trapped,
    #[error("the function's call stack is exhausted: it recurses too deeply")]
    StackExhausted,
    #[error("the function wanted {wanted} bytes of memory, {allowed} are allowed (limits.memory)")]
    Memory { wanted: usize, allowed: usize },
    #[error(
        "the function wanted {wanted} table elements, {allowed} are allowed (limits.tableElements)"
    )]
    TableElements { wanted: usize, allowed: usize },
    #[error("the function holds too many resource handles, {allowed} are allowed (limits.handles)")]
    Handles { allowed: usize },
    #[error("the function called exit({status}) without a whole answer")]
    Exited { status: i32 },
    #[error("the function ended without a whole answer")]
    NoResponse,
    #[error(
        "the function answered with an error instead of a response; its log has the details under this request's id"
    )]
    ErrorCode,
    #[error("the function answered with the status {status}, allowed are 200 to 599")]
    InvalidStatus { status: u16 },
    #[error("the function's response is longer than the {declared} bytes of its content-length")]
    BodyTooLong { declared: u64 },
    #[error("the function's response has {written} of the {declared} bytes of its content-length")]
    BodyTooShort { declared: u64, written: u64 },
    #[error(
        "the function gave its response's body up: it didn't finish it, or not with the length that it declares"
    )]
    BodyGivenUp,
    #[error("this replica can't start another instance now")]
    NoInstance,
    #[error("the platform failed; its log has the details under this request's id")]
    Internal,
}

impl Failure {
    /// A stable word for problem bodies, metrics and log lines.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::WrongKey => "wrong-key",
            Self::InvalidHost => "invalid-host",
            Self::BodyTooLarge { .. } => "body-too-large",
            Self::BodyTooSlow { .. } => "body-too-slow",
            Self::BodyBroken => "body-broken",
            Self::Refused(refused) => refused.reason(),
            Self::Timeout { .. } => "timeout",
            Self::Trapped => "trapped",
            Self::StackExhausted => "stack-exhausted",
            Self::Memory { .. } => "memory-exceeded",
            Self::TableElements { .. } => "table-elements-exceeded",
            Self::Handles { .. } => "handles-exceeded",
            Self::Exited { .. } => "exited",
            Self::NoResponse => "no-response",
            Self::ErrorCode => "error-code",
            Self::InvalidStatus { .. } => "invalid-status",
            Self::BodyTooLong { .. } | Self::BodyTooShort { .. } | Self::BodyGivenUp => {
                "invalid-body"
            }
            Self::NoInstance => "no-instance",
            Self::Internal => "internal",
        }
    }

    /// Who must change something for the request to succeed.
    pub(crate) fn fault(&self) -> Fault {
        match self {
            Self::WrongKey
            | Self::InvalidHost
            | Self::BodyTooLarge { .. }
            | Self::BodyTooSlow { .. }
            | Self::BodyBroken => Fault::Client,
            Self::Refused(_) | Self::NoInstance | Self::Internal => Fault::Platform,
            Self::Timeout { .. }
            | Self::Trapped
            | Self::StackExhausted
            | Self::Memory { .. }
            | Self::TableElements { .. }
            | Self::Handles { .. }
            | Self::Exited { .. }
            | Self::NoResponse
            | Self::ErrorCode
            | Self::InvalidStatus { .. }
            | Self::BodyTooLong { .. }
            | Self::BodyTooShort { .. }
            | Self::BodyGivenUp => Fault::Function,
        }
    }

    /// Whether the same request may succeed later.
    pub(crate) fn retryable(&self) -> bool {
        matches!(
            self,
            Self::Refused(_)
                | Self::NoInstance
                | Self::Timeout { .. }
                | Self::BodyTooSlow { .. }
                | Self::BodyBroken
        )
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Memory { wanted, allowed } => Self::Memory { wanted, allowed },
            Refusal::Elements { wanted, allowed } => Self::TableElements { wanted, allowed },
        }
    }
}
