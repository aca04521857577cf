//! Where replicas come from.

use std::sync::Arc;

use futures::future::BoxFuture;
use wisp_contract::FunctionId;

use crate::autoscale::{Autoscaler, ScaleError};

/// Provides pods for a function that is woken. They appear among the cluster's pods, with the function's labels, and
/// are waited for there: whether they are new or were warm already makes no difference to who wakes.
pub trait Capacity: Send + Sync + 'static {
    /// Sees to it that pods come. Returns when they were asked for, not when they are there.
    fn provide<'a>(&'a self, function: &'a FunctionId) -> BoxFuture<'a, Result<(), ScaleError>>;
}

/// Pods from the Deployment of the function's revision.
pub struct Deployments(pub Arc<Autoscaler>);

impl Capacity for Deployments {
    fn provide<'a>(&'a self, function: &'a FunctionId) -> BoxFuture<'a, Result<(), ScaleError>> {
        Box::pin(self.0.push(function))
    }
}
