//! What does a lane do with a batch?

use std::sync::Arc;
use std::time::Duration;

use super::clock::Clock;
use super::job::{Caller, Job, Reply};
use super::linger::{Computed, Took};
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
        let mut taken = Taken {
            queue: &queue,
            computed: None,
        };
        let row = jobs.first().and_then(|job| job.row);
        let batch = Batch::form(jobs, &metrics, &clock);
        let items = batch.items.len();
        let rows = (batch.items.iter()).fold(0_u64, |rows, item| rows.saturating_add(item.rows));
        if items > 0 {
            let took = batch.compute(lane.as_mut(), &metrics, &clock).await;
            taken.computed = took.map(|took| Computed {
                items,
                rows,
                row,
                took,
            });
        }
    }
}

/// However computing a batch ends, even by a panic, its queue hears of it.
struct Taken<'a> {
    queue: &'a Queue,
    computed: Option<Computed>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.queue.computed(self.computed);
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

/// What became of a batch.
enum Attempt {
    Computed(Duration),
    /// Nobody waited any more.
    BrokenOff(Duration),
    /// Its halves, the first one last; none of an item that was by itself.
    Failed(Vec<Batch>),
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
            let Some(item) = job.caller.take_item() else {
                metrics.cancelled();
                continue;
            };
            metrics.waited(now.saturating_duration_since(job.arrived));
            batch.items.push(item);
            batch.callers.push(job.caller);
        }
        batch
    }

    /// Computes all items together and, where that fails, each half of them, and so on, so that one faulty item harms no
    /// other and few are computed again. Gives the time of the batch unless it failed.
    async fn compute(
        self,
        lane: &mut dyn Lane,
        metrics: &Metrics,
        clock: &impl Clock,
    ) -> Option<Took> {
        let mut left = match self.attempt(lane, metrics, clock).await {
            Attempt::Computed(took) => return Some(Took::All(took)),
            Attempt::BrokenOff(took) => return Some(Took::AtLeast(took)),
            Attempt::Failed(halves) => halves,
        };
        while let Some(batch) = left.pop() {
            let batch = batch.without_gone(metrics);
            if batch.items.is_empty() {
                continue;
            }
            metrics.rerun(batch.items.len());
            if let Attempt::Failed(halves) = batch.attempt(lane, metrics, clock).await {
                left.extend(halves);
            }
        }
        None
    }

    /// Computes all items together and answers their callers, unless that fails and there are several.
    async fn attempt(
        mut self,
        lane: &mut dyn Lane,
        metrics: &Metrics,
        clock: &impl Clock,
    ) -> Attempt {
        let abort = Abort::new(self.callers.len());
        for caller in &self.callers {
            caller.join(&abort);
        }
        let (result, took) = run(lane, &self.items, &abort, metrics, clock).await;
        match result {
            Ok(outputs) => {
                for (caller, outputs) in self.callers.into_iter().zip(outputs) {
                    answer(caller, Ok(outputs), metrics);
                }
                Attempt::Computed(took)
            }
            Err(_) if abort.is_aborted() => {
                self.callers.iter().for_each(|_| metrics.cancelled());
                Attempt::BrokenOff(took)
            }
            Err(error) if self.items.len() == 1 => {
                for caller in self.callers {
                    answer(caller, Err(error.clone().into()), metrics);
                }
                Attempt::Failed(Vec::new())
            }
            Err(_) => {
                let half = self.items.len() / 2;
                let second = Self {
                    items: self.items.split_off(half),
                    callers: self.callers.split_off(half),
                };
                Attempt::Failed(vec![second, self])
            }
        }
    }

    /// The items whose callers still wait.
    fn without_gone(self, metrics: &Metrics) -> Self {
        let both = self.items.into_iter().zip(self.callers);
        let (items, callers) = both
            .filter(|(_, caller)| {
                let is_gone = caller.is_gone();
                if is_gone {
                    metrics.cancelled();
                }
                !is_gone
            })
            .unzip();
        Self { items, callers }
    }
}

/// Tells a caller, if it still waits, and counts what it was told.
fn answer(caller: Caller, reply: Reply, metrics: &Metrics) {
    if caller.is_gone() {
        metrics.cancelled();
    } else {
        metrics.done(reply.is_ok());
        caller.answer(reply);
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
