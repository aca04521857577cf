//! Tells the operator what the gateway sees: every second, and at once when requests begin to wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use wisp_contract::log::chain;
use wisp_contract::operator::Report;
use wisp_contract::stats::FunctionStats;
use wisp_gateway::Gateway;

use crate::counts::Counts;
use crate::operator::Operator;

/// How often.
const INTERVAL: Duration = Duration::from_secs(1);
/// The least time between two reports, however many queues grow.
const LEAST: Duration = Duration::from_millis(20);

/// Reports until `shutdown`, and then a last time.
pub(crate) async fn run(
    gateway: Arc<Gateway>,
    operator: Arc<Operator>,
    counts: Arc<Counts>,
    name: String,
    shutdown: CancellationToken,
) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut was_taken = true;
    loop {
        let (urgent, is_last) = tokio::select! {
            biased;
            () = shutdown.cancelled() => (false, true),
            _ = ticks.tick() => (false, false),
            () = gateway.queue_growth() => (true, false),
        };
        let mut functions = gateway.stats(Instant::now());
        functions.retain(is_active);
        let report = Report {
            gateway: name.clone(),
            urgent,
            is_last,
            functions,
        };
        let outcome = operator.report(&report).await;
        let is_taken = outcome.is_ok();
        if let Err(error) = &outcome {
            counts.report.add();
            if was_taken {
                tracing::warn!(
                    error = chain(error),
                    "the operator does not take reports: for a while it takes no replica away from the functions that it knows are in use"
                );
            }
        } else if !was_taken {
            tracing::info!("the operator takes reports again");
        }
        was_taken = is_taken;
        if is_last {
            return;
        }
        tokio::time::sleep(LEAST).await;
    }
}

/// Whether there is anything to say of a function.
fn is_active(stats: &FunctionStats) -> bool {
    stats.requests > 0
        || stats.in_flight > 0
        || stats.queued > 0
        || stats.concurrency > 0.0
        || stats.queue > 0.0
        || stats.answers.iter().any(|count| *count > 0)
}
