//! Wakes functions through the operator.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use wisp_contract::FunctionId;
use wisp_gateway::{ActivateError, Activator};
use wisp_traces::Context;

use crate::counts::Counts;
use crate::operator::Operator;
use crate::table::Table;

/// Asks the operator for a replica, and inserts what it names at once: the watch tells later.
pub(crate) struct Waker {
    pub(crate) operator: Arc<Operator>,
    pub(crate) table: Arc<Table>,
    pub(crate) counts: Arc<Counts>,
    /// The longest that the operator takes for a wake-up.
    pub(crate) patience: Duration,
}

impl Activator for Waker {
    fn ensure<'a>(
        &'a self,
        function: &'a FunctionId,
        trace: Option<Context>,
    ) -> BoxFuture<'a, Result<(), ActivateError>> {
        Box::pin(async move {
            let ensured = self.operator.ensure(function, trace, self.patience).await;
            let ensured = ensured.map_err(|error| {
                // That a replica takes long to start, or a function can't be, is no failure of the operator's.
                if !error.is_functions() {
                    self.counts.ensure.add();
                }
                error.told()
            })?;
            self.table.woken(function, &ensured.replicas);
            Ok(())
        })
    }
}
