//! A handler's answer, whatever the handler returns.

use std::future::Future;
use std::pin::Pin;

use ::http::{HeaderValue, StatusCode, header};

use crate::{Body, IntoResponse, Response, Result};

/// A response to come.
#[allow(
    unreachable_pub,
    reason = "the macros' code names it, by a path that is hidden"
)]
pub type Answer = Pin<Box<dyn Future<Output = Result<Response>>>>;

/// Erases the type of a handler's future.
#[allow(
    unreachable_pub,
    reason = "the macros' code calls it, by a path that is hidden"
)]
pub fn answer(future: impl Future<Output: IntoResponse> + 'static) -> Answer {
    Box::pin(async move { future.await.into_response() })
}

/// Makes a response what may be sent: with the length of its body, and without a body where there is none
/// (RFC 9110, sections 6.4.1 and 9.3.2).
pub(crate) fn finish(response: &mut Response, is_head: bool) {
    if is_head || !allows_body(response.status()) {
        // A length that no body of that length follows would be an error to the host.
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = Body::empty();
    } else if let Some(size) = response.body().size() {
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    }
}

fn allows_body(status: StatusCode) -> bool {
    !(status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED)
}
