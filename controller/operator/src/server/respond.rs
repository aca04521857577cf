//! Answers, and the only place that knows HTTP statuses.

use std::fs::File;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use wisp_contract::problem::{self, Fault};
use wisp_contract::{Problem, headers};

use crate::artifacts;
use crate::wake::WakeError;

pub(super) type Body = BoxBody<Bytes, std::io::Error>;

/// Why a request isn't answered with what it asks for.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// Who asks has no key, or not the right one.
    #[error("the header {} must hold the key for this", headers::KEY)]
    Forbidden,
    /// There is no such path.
    #[error("there is no {0} here")]
    NoPath(String),
    /// The path is for another method.
    #[error("{path} is for {method}")]
    Method { path: String, method: &'static str },
    /// The body is none.
    #[error("the body can't be read: {0}")]
    Body(String),
    /// There is no such artifact.
    #[error("there is no artifact {0} here now")]
    NoArtifact(String),
    /// Too many fetch artifacts.
    #[error("as many artifacts are being fetched as may be at once")]
    Busy,
    /// The store failed.
    #[error("the artifact can't be read just now")]
    Store,
    /// Another operator leads, or this one is about to.
    #[error("this operator doesn't lead, or not yet")]
    NotLeading,
    /// The function can't be woken.
    #[error(transparent)]
    Wake(#[from] WakeError),
}

impl Refusal {
    fn parts(&self) -> (StatusCode, &'static str, Fault, Option<Duration>) {
        let second = Some(Duration::from_secs(1));
        match self {
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden", Fault::Client, None),
            Self::NoPath(_) => (StatusCode::NOT_FOUND, "not-found", Fault::Client, None),
            Self::Method { .. } => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                Fault::Client,
                None,
            ),
            Self::Body(_) => (StatusCode::BAD_REQUEST, "invalid-body", Fault::Client, None),
            // It may be fetched anew just now: replicas ask again after a server's error.
            Self::NoArtifact(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "no-artifact",
                Fault::Platform,
                second,
            ),
            Self::Busy => (
                StatusCode::SERVICE_UNAVAILABLE,
                "busy",
                Fault::Platform,
                second,
            ),
            Self::Store => (
                StatusCode::SERVICE_UNAVAILABLE,
                "store-failed",
                Fault::Platform,
                second,
            ),
            Self::NotLeading => (
                StatusCode::SERVICE_UNAVAILABLE,
                "not-leading",
                Fault::Platform,
                second,
            ),
            Self::Wake(error) => {
                let status = match error {
                    WakeError::Unknown(_) => StatusCode::NOT_FOUND,
                    _ => StatusCode::SERVICE_UNAVAILABLE,
                };
                (status, error.reason(), error.fault(), error.retry_after())
            }
        }
    }

    pub(super) fn response(&self, request_id: &str) -> Response<Body> {
        let (status, reason, fault, retry_after) = self.parts();
        let problem = Problem::new(
            status,
            reason,
            fault,
            retry_after.is_some(),
            self.to_string(),
            request_id,
        );
        let mut response = respond(status, problem::MEDIA_TYPE, problem.to_json());
        if let Some(after) = retry_after {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        response
    }
}

pub(super) fn respond(
    status: StatusCode,
    media_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    let body = Full::new(body.into())
        .map_err(|never| match never {})
        .boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

pub(super) fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    respond(status, "text/plain; charset=utf-8", text)
}

pub(super) fn json(value: &impl serde::Serialize) -> Response<Body> {
    respond(
        StatusCode::OK,
        "application/json",
        serde_json::to_vec(value).unwrap_or_default(),
    )
}

pub(super) fn nothing() -> Response<Body> {
    let mut response = text(StatusCode::NO_CONTENT, "");
    response.headers_mut().remove(CONTENT_TYPE);
    response
}

pub(super) fn file(file: File, length: u64) -> Response<Body> {
    let mut response = Response::new(StreamBody::new(artifacts::frames(file)).boxed());
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    response
}
