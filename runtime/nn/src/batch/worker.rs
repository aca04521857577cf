//! What does a lane do with a batch?

use std::sync::Arc;
use std::time::Duration;

use super::clock::Clock;
use super::job::{Caller, Job};
use super::queue::{Queue, Role};
use crate::Tensor;
use crate::backend::{Abort, BackendError, Item, Lane};
use crate::metrics::Metrics;

/// Takes batches, computes them and answers their callers, until the queue is closed and empty.
pub(crate) async fn work(
    queue: Arc<Queue>,
    ended: Ended,
    mut lane: Box<dyn Lane>,
    metrics: Arc<Metrics>,
    clock: impl Clock,
) {
    while let Some(jobs) = queue.next(ended.1, &clock).await {
        let batch = Batch::form(jobs, &metrics, &clock);
        let mut taken = Taken {
            queue: &queue,
            items: batch.items.len(),
            took: None,
        };
        if taken.items > 0 {
            taken.took = batch.compute(lane.as_mut(), &metrics, &clock).await;
        }
    }
}

/// However computing a batch ends, even by a panic, its queue hears of it.
struct Taken<'a> {
    queue: &'a Queue,
    items: usize,
    took: Option<Duration>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.queue.computed(self.items, self.took);
    }
}

/// However a lane ends, even by a panic or before it began, its queue hears of it.
pub(crate) struct Ended(Arc<Queue>, Role);

impl Ended {
    pub(crate) fn new(queue: &Arc<Queue>, role: Role) -> Self {
        Self(Arc::clone(queue), role)
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.lane_ended(self.1);
    }
}

/// Items and, in the same order, who waits for them.
struct Batch {
    items: Vec<Item>,
    callers: Vec<Caller>,
}

impl Batch {
    /// Leaves out the items whose callers went: nobody needs them computed.
    fn form(jobs: Vec<Job>, metrics: &Metrics, clock: &impl Clock) -> Self {
        let now = clock.now();
        let mut batch = Self {
            items: Vec::with_capacity(jobs.len()),
            callers: Vec::with_capacity(jobs.len()),
        };
        for job in jobs {
            if job.caller.is_gone() {
                metrics.cancelled();
                continue;
            }
            metrics.waited(now.saturating_duration_since(job.arrived));
            batch.items.push(job.item);
            batch.callers.push(job.caller);
        }
        batch
    }

    /// Computes all items together and, where that fails, each alone, so that one faulty item harms no other.
    /// Gives the time of the batch where it succeeded.
    async fn compute(
        self,
        lane: &mut dyn Lane,
        metrics: &Metrics,
        clock: &impl Clock,
    ) -> Option<Duration> {
        let abort = Abort::new(self.callers.len());
        for caller in &self.callers {
            caller.join(&abort);
        }
        let (result, took) = run(lane, &self.items, &abort, metrics, clock).await;
        match result {
            Ok(outputs) => {
                for (caller, outputs) in self.callers.into_iter().zip(outputs) {
                    metrics.done(true);
                    caller.answer(Ok(outputs));
                }
                Some(took)
            }
            Err(error) if self.items.len() == 1 => {
                for caller in self.callers {
                    metrics.done(false);
                    caller.answer(Err(error.clone().into()));
                }
                None
            }
            Err(_) => {
                for (item, caller) in self.items.iter().zip(self.callers) {
                    if caller.is_gone() {
                        metrics.cancelled();
                        continue;
                    }
                    metrics.rerun();
                    let abort = Abort::new(1);
                    caller.join(&abort);
                    let (result, _) =
                        run(lane, std::slice::from_ref(item), &abort, metrics, clock).await;
                    metrics.done(result.is_ok());
                    caller.answer(
                        result
                            .map(|mut outputs| outputs.pop().unwrap_or_default())
                            .map_err(Into::into),
                    );
                }
                None
            }
        }
    }
}

pub(super) async fn run(
    lane: &mut dyn Lane,
    items: &[Item],
    abort: &Abort,
    metrics: &Metrics,
    clock: &impl Clock,
) -> (Result<Vec<Vec<Tensor>>, BackendError>, Duration) {
    let started = clock.now();
    let result = lane.run(items, abort).await;
    let took = clock.now().saturating_duration_since(started);
    abort.disarm();
    metrics.batch(items.len(), took);
    let checked = result.and_then(|outputs| {
        if outputs.len() == items.len() {
            Ok(outputs)
        } else {
            Err(BackendError(format!(
                "the backend answered {} of {} items",
                outputs.len(),
                items.len()
            )))
        }
    });
    (checked, took)
}
