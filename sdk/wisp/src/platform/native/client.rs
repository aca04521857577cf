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
    if let (Some(limit), None) = (timeouts.between_bytes, response.body().size()) {
        *response.body_mut() = limited(std::mem::take(response.body_mut()), limit);
    }
    Ok(response)
}

/// The body, which breaks off where one of its parts takes longer than `limit`.
fn limited(mut body: Body, limit: Duration) -> Body {
    Body::writer(async move |mut out| {
        let late = |_| ReadError::new("timed out".to_owned());
        while let Some(chunk) = time::timeout(limit, body.chunk()).await.map_err(late)?? {
            out.write(chunk).await;
        }
        Ok(())
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
