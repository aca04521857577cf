//! Outgoing requests: to the test's upstreams.

use crate::http::{Cause, Timeouts};
use crate::test::fakes;
use crate::{Request, Response};

pub(crate) async fn send(request: Request, _timeouts: Timeouts) -> Result<Response, Cause> {
    let origin = origin(request.uri());
    let upstream =
        fakes::with(|fakes| fakes.upstreams.get(&origin).cloned()).ok_or(Cause::Denied)?;
    upstream(request)
        .await
        .map_err(|error| Cause::Failed(error.chain()))
}

/// `scheme://authority`.
pub(crate) fn origin(uri: &::http::Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or_default();
    format!(
        "{scheme}://{}",
        uri.authority().map_or("", |authority| authority.as_str())
    )
}
