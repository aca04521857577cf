//! What the macro hands to the platform: a function from request to response.

use std::future::Future;
use std::pin::Pin;

use crate::{IntoResponse, Request, Response, Result};

/// A response to come.
#[allow(
    unreachable_pub,
    reason = "the macros' trait names it, from a module that is hidden"
)]
pub type Answer = Pin<Box<dyn Future<Output = Result<Response>>>>;

/// A function that answers one request.
pub trait Handler {
    /// Begins to answer.
    fn call(self, request: Request) -> Answer;
}

struct WithRequest<F>(F);
struct WithoutRequest<F>(F);

/// A handler that reads its request.
pub fn with_request<F, Fut>(function: F) -> impl Handler
where
    F: FnOnce(Request) -> Fut,
    Fut: Future<Output: IntoResponse> + 'static,
{
    WithRequest(function)
}

/// A handler that needs nothing of its request.
pub fn without_request<F, Fut>(function: F) -> impl Handler
where
    F: FnOnce() -> Fut,
    Fut: Future<Output: IntoResponse> + 'static,
{
    WithoutRequest(function)
}

impl<F, Fut> Handler for WithRequest<F>
where
    F: FnOnce(Request) -> Fut,
    Fut: Future<Output: IntoResponse> + 'static,
{
    fn call(self, request: Request) -> Answer {
        boxed((self.0)(request))
    }
}

impl<F, Fut> Handler for WithoutRequest<F>
where
    F: FnOnce() -> Fut,
    Fut: Future<Output: IntoResponse> + 'static,
{
    fn call(self, _request: Request) -> Answer {
        boxed((self.0)())
    }
}

/// Erases the future's type.
pub(crate) fn boxed(future: impl Future<Output: IntoResponse> + 'static) -> Answer {
    Box::pin(async move { future.await.into_response() })
}
