//! How do requests of different instances come to be computed together?
//!
//! Each model has one [`Queue`]. Its lanes, each on a thread of its own, take batches from it, compute them and answer
//! every caller alone ([`worker`]). How long a lane waits for company, and how much of it, is decided in [`linger`], and
//! nowhere else; [`row_time`] tells it what to expect.

mod clock;
mod inline;
mod job;
mod linger;
mod queue;
mod row_time;
mod thread;
mod worker;

pub(crate) use clock::{ThreadClock, block_on};
pub(crate) use job::{Job, JobError, Key};
pub(crate) use linger::LONGEST_BATCH;
pub(crate) use queue::{Lanes, Queue, Role};
pub(crate) use thread::LaneThread;
pub(crate) use worker::{Ended, work};

#[cfg(test)]
mod tests;
