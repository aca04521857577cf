//! What waits in the queue, and how does its caller leave?

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use super::row_time::RowBytes;
use crate::Tensor;
use crate::backend::{Abort, BackendError, Item};

/// Which items may be computed together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    /// With those of the same dimensions, all inputs' one after another, dimension 0 left out. Types and ranks are
    /// the model's, so they needn't be told apart.
    Join(Vec<u64>),
    /// With none.
    Alone,
}

/// Why an item has no outputs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JobError {
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error("{limit} items wait already")]
    QueueFull { limit: usize },
    #[error("the model's threads are gone")]
    Stopped,
}

pub(crate) type Reply = Result<Vec<Tensor>, JobError>;

/// An item in the queue. The item itself is its caller's until a lane takes it: whoever leaves takes it along.
pub(crate) struct Job {
    pub(crate) rows: u64,
    /// What each row has: those of the same key have the same. `None` where it can't be joined.
    pub(crate) row: Option<RowBytes>,
    pub(crate) key: Key,
    pub(crate) arrived: Instant,
    pub(crate) caller: Caller,
}

/// The lane's end of a job.
pub(crate) struct Caller {
    reply: oneshot::Sender<Reply>,
    link: Arc<Link>,
}

/// The caller's end of a job. Dropping it cancels the job, and frees its item unless a lane has it.
pub(crate) struct Ticket {
    reply: oneshot::Receiver<Reply>,
    link: Arc<Link>,
}

struct Link(Mutex<LinkState>);

struct LinkState {
    gone: bool,
    /// Until a lane takes it.
    item: Option<Item>,
    batch: Option<Abort>,
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, LinkState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Job {
    pub(crate) fn new(item: Item, key: Key, now: Instant) -> (Self, Ticket) {
        let (send, receive) = oneshot::channel();
        let rows = item.rows;
        let row = (key != Key::Alone).then(|| row_bytes(&item));
        let link = Arc::new(Link(Mutex::new(LinkState {
            gone: false,
            item: Some(item),
            batch: None,
        })));
        let caller = Caller {
            reply: send,
            link: Arc::clone(&link),
        };
        (
            Self {
                rows,
                row,
                key,
                arrived: now,
                caller,
            },
            Ticket {
                reply: receive,
                link,
            },
        )
    }
}

fn row_bytes(item: &Item) -> RowBytes {
    let bytes: u64 = (item.inputs.iter())
        .map(|input| input.data().len() as u64)
        .sum();
    RowBytes::new(bytes / item.rows.max(1)).unwrap_or(RowBytes::MIN)
}

impl Caller {
    pub(crate) fn is_gone(&self) -> bool {
        self.reply.is_closed()
    }

    /// The item, to be computed. `None` where the caller went.
    pub(crate) fn take_item(&self) -> Option<Item> {
        self.link.lock().item.take()
    }

    /// From now on, leaving means leaving `batch`. A caller that left before leaves it at once.
    pub(crate) fn join(&self, batch: &Abort) {
        let mut state = self.link.lock();
        if state.gone {
            batch.leave();
        } else {
            state.batch = Some(batch.clone());
        }
    }

    pub(crate) fn answer(self, reply: Reply) {
        // A caller that went meanwhile wants no answer.
        let _ = self.reply.send(reply);
    }
}

impl Ticket {
    pub(crate) async fn wait(mut self) -> Reply {
        (&mut self.reply).await.unwrap_or(Err(JobError::Stopped))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.reply.close();
        let mut state = self.link.lock();
        state.gone = true;
        let (item, batch) = (state.item.take(), state.batch.take());
        // To free it may take a while.
        drop(state);
        drop(item);
        if let Some(batch) = batch {
            batch.leave();
        }
    }
}
