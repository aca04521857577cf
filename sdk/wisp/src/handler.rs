//! A handler's answer, whatever the handler returns.

use std::future::Future;
use std::pin::Pin;

use crate::{IntoResponse, Response, Result};

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
