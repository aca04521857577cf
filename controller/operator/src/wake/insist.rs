//! How often are pods asked for where that fails? Everybody who waits for the function would be told of a fault that passes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use wisp_contract::FunctionId;
use wisp_contract::log::chain;

use super::{WakeError, Waker};
use crate::autoscale::ScaleError;

/// After so long they are asked for once more; after twice as long each further time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How many times in a row it may be that nobody answers: a connection broke, and the next is to another API server. Where there is
/// none, who waits is told soon.
const UNANSWERED: u32 = 3;

impl Waker {
    /// Asks for the function's pods again and again, where that `failed`, and says in `is_refused` whether they are yet to be had.
    /// Returns once there is no use in it.
    pub(super) async fn insist(
        &self,
        id: &FunctionId,
        failed: Option<ScaleError>,
        is_refused: &AtomicBool,
        began: Instant,
    ) -> WakeError {
        is_refused.store(failed.is_some(), Ordering::Relaxed);
        let Some(mut error) = failed else {
            return std::future::pending().await;
        };
        let (mut pause, mut unanswered) = (FIRST_PAUSE, 0);
        loop {
            tracing::warn!(function = %id, error = %chain(&error), "pods for a function that is woken could not be asked for");
            unanswered = if error.is_answer() { 0 } else { unanswered + 1 };
            if !error.may_pass() || unanswered > UNANSWERED {
                return WakeError::Scale(id.clone());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            match self.capacity.insist(id).await {
                Ok(()) => {
                    is_refused.store(false, Ordering::Relaxed);
                    self.metrics.wake_phase("scaled", began.elapsed());
                    return std::future::pending().await;
                }
                Err(next) => error = next,
            }
        }
    }
}
