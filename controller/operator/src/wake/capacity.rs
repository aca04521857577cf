//! Where replicas come from.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use wisp_contract::FunctionId;
use wisp_contract::operator::Replica;
use wisp_traces::Span;

use crate::autoscale::{Autoscaler, ScaleError};

/// So long the API server has to answer: who waits for a function is told then.
const PATIENCE: Duration = Duration::from_secs(10);

/// Provides pods for a function that is woken.
pub trait Capacity: Send + Sync + 'static {
    /// Sees to it that pods come. Either one serves already, and is returned; or they were asked for, and appear among
    /// the cluster's pods with the function's labels. It is part of `wake`.
    fn provide<'a>(
        &'a self,
        function: &'a FunctionId,
        wake: &'a Span,
    ) -> BoxFuture<'a, Result<Option<Replica>, ScaleError>>;

    /// Asks for pods once more, where that failed.
    fn insist<'a>(&'a self, function: &'a FunctionId) -> BoxFuture<'a, Result<(), ScaleError>>;
}

/// Pods from the Deployment of the function's revision.
pub struct Deployments(pub Arc<Autoscaler>);

impl Capacity for Deployments {
    fn provide<'a>(
        &'a self,
        function: &'a FunctionId,
        wake: &'a Span,
    ) -> BoxFuture<'a, Result<Option<Replica>, ScaleError>> {
        Box::pin(async move {
            let _scaling = wake.child("scale");
            self.insist(function).await.map(|()| None)
        })
    }

    fn insist<'a>(&'a self, function: &'a FunctionId) -> BoxFuture<'a, Result<(), ScaleError>> {
        Box::pin(async move {
            let pushed = tokio::time::timeout(PATIENCE, self.0.push_serving(function)).await;
            pushed.unwrap_or(Err(ScaleError::Silence(PATIENCE)))
        })
    }
}
