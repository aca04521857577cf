//! What happens to an item that is alone, of a model that takes microseconds? It is computed where it is asked for: handing
//! it to another thread and back takes longer.

use std::time::Duration;

use super::clock::Clock;
use super::job::Reply;
use super::queue::Queue;
use super::worker::run;
use crate::backend::{Abort, Item, Lane};
use crate::metrics::Metrics;

/// A lane without a thread, taken for one item. It counts as running, so that nobody else is alone meanwhile.
pub(crate) struct Inline<'a> {
    queue: &'a Queue,
    lane: Option<Box<dyn Lane>>,
}

impl<'a> Inline<'a> {
    pub(super) fn new(queue: &'a Queue, lane: Box<dyn Lane>) -> Self {
        Self {
            queue,
            lane: Some(lane),
        }
    }

    pub(crate) async fn compute(
        mut self,
        item: Item,
        metrics: &Metrics,
        clock: &impl Clock,
    ) -> Reply {
        let Some(lane) = &mut self.lane else {
            return Ok(Vec::new());
        };
        metrics.waited(Duration::ZERO);
        let items = std::slice::from_ref(&item);
        let (result, _) = run(lane.as_mut(), items, &Abort::new(1), metrics, clock).await;
        metrics.done(result.is_ok());
        let mut outputs = result?;
        Ok(outputs.pop().unwrap_or_default())
    }
}

impl Drop for Inline<'_> {
    fn drop(&mut self) {
        if let Some(lane) = self.lane.take() {
            self.queue.set_inline(lane);
        }
        // It says nothing about how long batches take, or whether others are to be expected.
        self.queue.computed(None);
    }
}
