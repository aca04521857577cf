//! The one place that knows HTTP statuses: from a failure to a response.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use wisp_contract::{Problem, problem};

use crate::body::{Body, Sent};
use crate::failure::Failure;
use crate::record::Record;
use crate::request::REQUEST_ID;

/// What clients are told to wait before they try again, in seconds.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// The status that stands in the log where the client left before it was answered; it is never sent.
pub(crate) const CLIENT_GONE: u16 = 499;

/// The problem response of `failure`, and what of it is sent.
pub(crate) fn problem(failure: &Failure, sent: Sent, mut record: Record) -> Response<Body> {
    let status = status(failure);
    let problem = Problem::new(
        status,
        failure.reason(),
        failure.fault(),
        failure.retryable(),
        failure.to_string(),
        record.id(),
    );
    record.answered(status.as_u16(), Some(failure.reason()));
    let id = record.id_header();
    let json = Bytes::from(problem.to_json());
    let length = HeaderValue::from(json.len());
    let mut response = Response::new(Body::full(json, sent, record));
    *response.status_mut() = status;
    let map = response.headers_mut();
    if sent != Sent::Body {
        // What nobody asks the body for, over HTTP/2.
        map.insert(CONTENT_LENGTH, length);
    }
    map.insert(CONTENT_TYPE, HeaderValue::from_static(problem::MEDIA_TYPE));
    map.insert(REQUEST_ID, id);
    if failure.retryable() && status == StatusCode::SERVICE_UNAVAILABLE {
        map.insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
    }
    response
}

fn status(failure: &Failure) -> StatusCode {
    match failure {
        Failure::WrongKey => StatusCode::FORBIDDEN,
        Failure::InvalidHost | Failure::BodyBroken => StatusCode::BAD_REQUEST,
        Failure::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        Failure::BodyTooSlow { .. } => StatusCode::REQUEST_TIMEOUT,
        Failure::Refused(_) | Failure::NoInstance => StatusCode::SERVICE_UNAVAILABLE,
        Failure::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
        Failure::Trapped
        | Failure::StackExhausted
        | Failure::Memory { .. }
        | Failure::TableElements { .. }
        | Failure::Handles { .. }
        | Failure::Exited { .. }
        | Failure::NoResponse
        | Failure::ErrorCode
        | Failure::InvalidStatus { .. }
        | Failure::BodyTooLong { .. }
        | Failure::BodyTooShort { .. }
        | Failure::BodyGivenUp => StatusCode::BAD_GATEWAY,
        Failure::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
