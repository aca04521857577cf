//! How a guest's call went, told to those who wait for it and to the response body that outlives it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::SetOnce;

use crate::failure::Failure;

/// Written by the call, read by the response. A failure is set before the guest's instance is dropped: a response body
/// that comes to its end because its writer is gone finds here whether it is complete.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    failure: SetOnce<Failure>,
    nn_nanos: AtomicU64,
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

    /// How long the guest waited for models.
    pub(crate) fn set_nn_time(&self, time: Duration) {
        self.0.nn_nanos.store(
            u64::try_from(time.as_nanos()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
    }

    /// What [`Outcome::set_nn_time`] told; zero before.
    pub(crate) fn nn_time(&self) -> Duration {
        Duration::from_nanos(self.0.nn_nanos.load(Ordering::Relaxed))
    }
}
