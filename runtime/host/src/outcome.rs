//! How a guest's call went, told to those who wait for it and to the response body that outlives it.

use std::sync::Arc;

use tokio::sync::SetOnce;

use crate::failure::Failure;

/// Written by the call, read by the response. A failure is set before the guest's instance is dropped: a response body
/// that comes to its end because its writer is gone finds here whether it is complete.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    failure: SetOnce<Failure>,
}

impl Outcome {
    pub(crate) fn fail(&self, failure: Failure) {
        // The first failure is the cause of all later ones.
        let _ = self.0.failure.set(failure);
    }

    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.0.failure.get()
    }

    /// The failure, as soon as there is one.
    pub(crate) async fn failed(&self) -> &Failure {
        self.0.failure.wait().await
    }
}
