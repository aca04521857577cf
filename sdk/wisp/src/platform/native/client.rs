//! Outgoing requests: to the test's upstreams.

use std::time::Duration;

use crate::body::ReadError;
use crate::http::{Cause, Timeouts};
use crate::test::fakes;
use crate::{Body, Request, Response, time};

pub(crate) async fn send(request: Request, timeouts: Timeouts) -> Result<Response, Cause> {
    let origin = origin(request.uri());
    let upstream =
        fakes::with(|fakes| fakes.upstreams.get(&origin).cloned()).ok_or(Cause::Denied)?;
    let mut response = upstream(request)
        .await
        .map_err(|error| Cause::Failed(error.chain()))?;
    if response.body().size().is_none() {
        let body = std::mem::take(response.body_mut());
        *response.body_mut() = received(body, timeouts.between_bytes);
    }
    Ok(response)
}

/// The body as a host hands it over: why it breaks off is a text, and it does where one of its parts takes longer than
/// `limit`.
fn received(mut body: Body, limit: Option<Duration>) -> Body {
    Body::writer(async move |mut out| {
        loop {
            let chunk = match limit {
                Some(limit) => time::timeout(limit, body.chunk())
                    .await
                    .map_err(|_| ReadError::timed_out())?,
                None => body.chunk().await,
            };
            match chunk.map_err(|error| ReadError::new(error.chain()))? {
                Some(chunk) => out.write(chunk).await,
                None => return Ok(()),
            }
        }
    })
}

/// `scheme://authority`.
pub(crate) fn origin(uri: &::http::Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or_default();
    format!(
        "{scheme}://{}",
        uri.authority().map_or("", |authority| authority.as_str())
    )
}
