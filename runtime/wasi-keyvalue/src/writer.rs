//! One thread that writes, so that writes which wait at the same time reach the disk together.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::{io, thread};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::database::{Reopened, Use, caught};
use crate::store::{Error, StorageError};
use crate::tables::Writable;

/// Bytes of all writes that wait. Who comes later waits to be taken, without blocking a thread.
const QUEUE_BYTES: usize = 64 << 20;

/// What every write is counted as in addition to its bytes.
const QUEUE_OVERHEAD: usize = 4 << 10;

/// Writes that one transaction holds, at most, so that the first one doesn't wait for all that come after it.
const BATCH: usize = 256;

/// Runs in the transaction, or is told why it doesn't; gives what to do once it is known whether the transaction was committed.
type Run =
    Box<dyn FnOnce(Result<&mut Writable<'_>, StorageError>) -> Result<Done, StorageError> + Send>;
type Done = Box<dyn FnOnce(Result<(), StorageError>) + Send>;

struct Job {
    run: Run,
    room: OwnedSemaphorePermit,
}

/// Hands writes to the thread, which ends when the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Writer {
    jobs: Sender<Job>,
    room: Arc<Semaphore>,
}

impl Writer {
    pub(crate) fn spawn(name: &str, database: Arc<Reopened>) -> io::Result<Self> {
        let (jobs, queue) = channel();
        thread::Builder::new()
            .name(format!("kv-{name}"))
            .spawn(move || work(&queue, &database))?;
        Ok(Self {
            jobs,
            room: Arc::new(Semaphore::new(QUEUE_BYTES)),
        })
    }

    /// Runs `operation` in a transaction, and returns when it is on disk. `bytes` is what it carries. Where the caller
    /// goes away, an operation that has not begun never does.
    pub(crate) async fn write<R: Send + 'static>(
        &self,
        bytes: usize,
        operation: impl FnOnce(&mut Writable<'_>) -> Result<R, Error> + Send + 'static,
    ) -> Result<R, Error> {
        let cost = u32::try_from(bytes.saturating_add(QUEUE_OVERHEAD).min(QUEUE_BYTES))
            .unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room)
            .acquire_many_owned(cost)
            .await
            .map_err(|_| StorageError::Stopped)?;
        let (reply, answer) = oneshot::channel();
        let run: Run = Box::new(move |tables| {
            if reply.is_closed() {
                return Ok(Box::new(|_| ()));
            }
            let ended = match tables {
                // Its caller is told of a panic, whose unwinding would take `reply` with it.
                Ok(tables) => caught(|| operation(tables)),
                Err(error) => Err(Error::Storage(error)),
            };
            let result = match ended {
                Err(Error::Storage(error)) => {
                    let _ = reply.send(Err(Error::Storage(error.clone())));
                    return Err(error);
                }
                result => result,
            };
            Ok(Box::new(move |committed| {
                // Nobody listens any more where the guest was stopped meanwhile.
                let _ = reply.send(committed.map_err(Error::Storage).and(result));
            }))
        });
        self.jobs
            .send(Job { run, room })
            .map_err(|_| StorageError::Stopped)?;
        answer.await.map_err(|_| StorageError::Stopped)?
    }
}

fn work(queue: &Receiver<Job>, database: &Reopened) {
    while let Ok(first) = queue.recv() {
        let mut batch = vec![first];
        batch.extend(queue.try_iter().take(BATCH - 1));
        let mut done = Vec::with_capacity(batch.len());
        let mut rooms = Vec::with_capacity(batch.len());
        let mut runs = batch.into_iter().map(|job| {
            rooms.push(job.room);
            job.run
        });
        let committed = database
            .with(Use::Write, |open| {
                Ok(transact(
                    open,
                    database.max_bytes(),
                    runs.by_ref(),
                    &mut done,
                )?)
            })
            .map_err(|error| match error {
                Error::Storage(error) => error,
                _ => StorageError::Stopped,
            });
        if let Err(error) = &committed {
            // Those that it didn't come to.
            for run in runs {
                let _ = run(Err(error.clone()));
            }
        }
        for done in done {
            done(committed.clone());
        }
    }
}

fn transact(
    database: &redb::Database,
    max_bytes: u64,
    runs: impl Iterator<Item = Run>,
    done: &mut Vec<Done>,
) -> Result<(), StorageError> {
    let transaction = database.begin_write()?;
    {
        let mut tables = Writable::open(&transaction, max_bytes)?;
        for run in runs {
            done.push(run(Ok(&mut tables))?);
        }
        tables.finish()?;
    }
    transaction.commit()?;
    Ok(())
}
