//! What the client is told when a request cannot be answered: the only module that knows statuses.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use wisp_admit::Refused;
use wisp_contract::problem::{Fault, MEDIA_TYPE};
use wisp_contract::{FunctionId, Problem};

use crate::activate::ActivateError;
use crate::body::Outgoing;
use crate::identify;

/// Why a request is not answered by its function.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{detail}")]
    BadRequest {
        reason: &'static str,
        detail: String,
    },
    #[error("the request has {fields} header fields, of {allowed} that it may have")]
    TooManyFields { fields: usize, allowed: usize },
    #[error("the method `{0}` is not supported")]
    MethodNotSupported(http::Method),
    #[error("{0}")]
    NoSuchFunction(String),
    #[error(
        "in which namespace `{name}` is meant could not be learnt from the API server: `{name}.<namespace>` says so itself"
    )]
    UnknownNamespace { name: String },
    #[error(
        "the body of {declared} bytes is larger than the {allowed} bytes that {function} takes"
    )]
    BodyTooLarge {
        function: FunctionId,
        declared: u64,
        allowed: u64,
    },
    #[error("the body is larger than the {allowed} bytes that {function} takes")]
    BodyGrewTooLarge { function: FunctionId, allowed: u64 },
    #[error("{function}: {refused}")]
    Refused {
        function: FunctionId,
        refused: Refused,
    },
    #[error(
        "{function}: the queues are full: those who wait may hold {allowed} bytes together, and those for one function as many as they leave"
    )]
    QueuesFull { function: FunctionId, allowed: u64 },
    #[error("no replica of {function} became ready within {waited:?}")]
    NotReady {
        function: FunctionId,
        waited: Duration,
    },
    #[error("{function} could not be started: {error}")]
    Activation {
        function: FunctionId,
        error: ActivateError,
    },
    #[error("no replica of {function} could be reached")]
    Unreachable { function: FunctionId },
    #[error("{function} did not answer within {allowed:?}")]
    TooSlow {
        function: FunctionId,
        allowed: Duration,
    },
    #[error("the request's body did not arrive within the {allowed:?} that {function} has")]
    BodyTooSlow {
        function: FunctionId,
        allowed: Duration,
    },
    #[error("{function} broke the connection before it answered")]
    Broken { function: FunctionId },
    #[error("{function} changed to a protocol that nobody asked for")]
    Unasked { function: FunctionId },
    #[error("the request's body broke off")]
    BodyBrokeOff,
    #[error("{function} is being removed")]
    Removed { function: FunctionId },
}

impl Failure {
    /// A stable word for metrics and problem bodies.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::BadRequest { reason, .. } => reason,
            Self::TooManyFields { .. } => "too-many-header-fields",
            Self::MethodNotSupported(_) => "method-not-supported",
            Self::NoSuchFunction(_) => "no-such-function",
            Self::UnknownNamespace { .. } => "namespace-unknown",
            Self::BodyTooLarge { .. } | Self::BodyGrewTooLarge { .. } => "body-too-large",
            Self::Refused { refused, .. } => refused.reason(),
            Self::QueuesFull { .. } => "queues-full",
            Self::NotReady { .. } => "not-ready",
            Self::Activation { error, .. } => error.reason(),
            Self::Unreachable { .. } => "unreachable",
            Self::TooSlow { .. } => "timeout",
            Self::BodyTooSlow { .. } => "body-too-slow",
            Self::Broken { .. } => "connection-broken",
            Self::Unasked { .. } => "unasked-upgrade",
            Self::BodyBrokeOff => "body-broke-off",
            Self::Removed { .. } => "function-removed",
        }
    }

    /// The status, whose fault it is, and after how long a retry can help.
    fn status(&self) -> (StatusCode, Fault, Option<Duration>) {
        const SOON: Option<Duration> = Some(Duration::from_secs(1));
        match self {
            Self::BadRequest { .. } | Self::BodyBrokeOff => {
                (StatusCode::BAD_REQUEST, Fault::Client, None)
            }
            Self::TooManyFields { .. } => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                Fault::Client,
                None,
            ),
            Self::MethodNotSupported(_) => (StatusCode::NOT_IMPLEMENTED, Fault::Client, None),
            Self::NoSuchFunction(_) => (StatusCode::NOT_FOUND, Fault::Client, None),
            Self::BodyTooLarge { .. } | Self::BodyGrewTooLarge { .. } => {
                (StatusCode::PAYLOAD_TOO_LARGE, Fault::Client, None)
            }
            Self::UnknownNamespace { .. }
            | Self::Refused { .. }
            | Self::QueuesFull { .. }
            | Self::NotReady { .. }
            | Self::Unreachable { .. }
            | Self::Removed { .. } => (StatusCode::SERVICE_UNAVAILABLE, Fault::Platform, SOON),
            Self::Activation { error, .. } => (
                StatusCode::SERVICE_UNAVAILABLE,
                error.fault(),
                error.retry_after().or(SOON),
            ),
            Self::TooSlow { .. } => (StatusCode::GATEWAY_TIMEOUT, Fault::Function, None),
            Self::BodyTooSlow { .. } => (StatusCode::REQUEST_TIMEOUT, Fault::Client, None),
            Self::Broken { .. } | Self::Unasked { .. } => {
                (StatusCode::BAD_GATEWAY, Fault::Function, None)
            }
        }
    }
}

/// The answer to a request that failed, which its client takes `within` that time; to HEAD, where it `is_head`, without the body.
pub(crate) fn problem(
    failure: &Failure,
    request_id: &HeaderValue,
    is_head: bool,
    within: Duration,
) -> Response<Outgoing> {
    let (status, fault, retry_after) = failure.status();
    let id = request_id.to_str().unwrap_or_default();
    let body = Problem::new(
        status,
        failure.reason(),
        fault,
        retry_after.is_some(),
        failure.to_string(),
        id,
    )
    .to_json();
    let length = HeaderValue::from(body.len());
    // Over HTTP/2 hyper would send it to HEAD, too, which is an error of the stream to clients.
    let sent = if is_head { Vec::new() } else { body };
    let mut response = Response::new(Outgoing::full(Bytes::from(sent), within));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_LENGTH, length);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    response
        .headers_mut()
        .insert(identify::REQUEST_ID, request_id.clone());
    if let Some(after) = retry_after {
        let seconds = after
            .as_secs()
            .saturating_add(u64::from(after.subsec_nanos() > 0))
            .max(1);
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
