//! Which items are computed next?

use std::collections::VecDeque;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::clock::Clock;
use super::inline::Inline;
use super::job::{Job, JobError, Key};
use super::linger::{Computed, Decision, Linger, View};
use super::row_time::RowBytes;
use crate::backend::Lane;
use crate::metrics::Metrics;

/// Who computes what a queue holds, to begin with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lanes {
    /// Those that take whatever comes.
    pub(crate) any: usize,
    /// Whether there is one for items that are alone.
    pub(crate) has_solo: bool,
    /// Whether more are being made: [`Queue::grown`] says when no longer.
    pub(crate) growing: bool,
}

/// A model's bounded queue, shared by its callers and its lanes.
pub(crate) struct Queue {
    state: Mutex<State>,
    /// An item arrived, for a lane that has nothing to do.
    arrived: Notify,
    /// An item arrived that is alone, for the lane that takes such.
    solo: Notify,
    /// A batch is full, for the lane that waits for company.
    full: Notify,
    limit: usize,
    max_rows: u64,
    metrics: Arc<Metrics>,
}

struct State {
    /// Items that may be joined, by key. Each holds at least one.
    groups: Vec<Group>,
    waiting: usize,
    /// Lanes that take whatever comes.
    lanes: usize,
    /// Whether more of them are being made.
    growing: bool,
    solo: Solo,
    /// The lane that computes on its caller's thread, while it doesn't.
    inline: Option<Box<dyn Lane>>,
    running: usize,
    /// Whether a lane waits for company. One at most does.
    lingering: bool,
    closed: bool,
    linger: Linger,
}

/// What a lane takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Whatever comes.
    Any,
    /// An item that is alone, with nobody computing. It has all cores, which others would miss.
    Solo,
}

/// The lane for items that are alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Solo {
    None,
    Free,
    /// It computes, or is about to look for something to.
    Busy,
}

struct Group {
    key: Key,
    jobs: VecDeque<Job>,
    rows: u64,
}

enum Step {
    Take(Vec<Job>),
    Linger(Instant),
    Idle,
    Closed,
}

impl Queue {
    pub(crate) fn new(
        limit: NonZeroUsize,
        max_rows: NonZeroU32,
        max_delay: Duration,
        lanes: Lanes,
        metrics: Arc<Metrics>,
    ) -> Self {
        let state = State {
            groups: Vec::new(),
            waiting: 0,
            lanes: lanes.any,
            growing: lanes.growing,
            solo: if lanes.has_solo {
                Solo::Busy
            } else {
                Solo::None
            },
            inline: None,
            running: 0,
            lingering: false,
            closed: false,
            linger: Linger::new(max_delay),
        };
        Self {
            state: Mutex::new(state),
            arrived: Notify::new(),
            solo: Notify::new(),
            full: Notify::new(),
            limit: limit.get(),
            max_rows: u64::from(max_rows.get()),
            metrics,
        }
    }

    /// Adds an item, or says why not.
    pub(crate) fn push(&self, job: Job) -> Result<(), JobError> {
        let mut state = self.lock();
        if state.closed {
            return Err(JobError::Stopped);
        }
        if state.waiting >= self.limit {
            state.purge(&self.metrics);
        }
        if state.waiting >= self.limit {
            self.metrics.rejected();
            return Err(JobError::QueueFull { limit: self.limit });
        }
        let row = job.row;
        let rows = state.push(job);
        let is_full = rows >= self.most_rows(&state, row);
        self.metrics.queued(state.waiting);
        let lingering = state.lingering;
        let is_solos = state.is_solos();
        drop(state);
        if is_solos {
            self.solo.notify_one();
        } else if !lingering {
            // The lane that computed last: its numbers are in the caches, and others' memory isn't needed.
            self.arrived.notify_last();
        } else if is_full {
            self.full.notify_one();
        }
        Ok(())
    }

    /// From now on [`Queue::take_inline`] gives this lane.
    pub(crate) fn set_inline(&self, lane: Box<dyn Lane>) {
        self.lock().inline = Some(lane);
    }

    /// A lane for an item that is alone, to be computed by its caller; `None` where there is none, or it isn't alone.
    pub(crate) fn take_inline(&self) -> Option<Inline<'_>> {
        let mut state = self.lock();
        if state.closed || state.running > 0 || state.waiting > 0 {
            return None;
        }
        let lane = state.inline.take()?;
        state.running += 1;
        drop(state);
        Some(Inline::new(self, lane))
    }

    /// The next batch, or `None` when there will be none. Follow it by [`Queue::computed`].
    pub(crate) async fn next(&self, role: Role, clock: &impl Clock) -> Option<Vec<Job>> {
        let free_since = clock.now();
        loop {
            let step = self.step(role, clock.now(), free_since);
            match (step, role) {
                (Step::Take(jobs), _) => return Some(jobs),
                (Step::Closed, _) => return None,
                (Step::Idle, Role::Any) => self.arrived.notified().await,
                (Step::Idle, Role::Solo) => self.solo.notified().await,
                (Step::Linger(until), _) => {
                    tokio::select! {
                        () = self.full.notified() => {}
                        () = clock.sleep_until(until) => {}
                    }
                    self.lock().lingering = false;
                }
            }
        }
    }

    fn step(&self, role: Role, now: Instant, free_since: Instant) -> Step {
        let mut state = self.lock();
        if role == Role::Solo {
            state.solo = Solo::Free;
        }
        let Some(index) = state.oldest() else {
            return if state.closed {
                Step::Closed
            } else {
                Step::Idle
            };
        };
        match role {
            Role::Any if state.is_solos() => {
                self.solo.notify_one();
                return Step::Idle;
            }
            Role::Solo if !state.is_solos() => return Step::Idle,
            _ if state.lingering => return Step::Idle,
            _ => {}
        }
        let view = state.groups.get(index).and_then(|group| {
            let first = group.jobs.front()?;
            Some(View {
                since: first.arrived.max(free_since),
                rows: group.rows,
                max_rows: self.most_rows(&state, first.row),
                running: state.running,
            })
        });
        let max_rows = view.map_or(0, |view| view.max_rows);
        // The lane for what is alone waits for nobody: with company it would have nothing to take.
        let view = view.filter(|_| role == Role::Any);
        let decision = view.map(|view| state.linger.decide(now, view));
        if let Some(Decision::Wait(until)) = decision {
            state.lingering = true;
            return Step::Linger(until);
        }
        let jobs = state.take(index, max_rows);
        self.metrics.queued(state.waiting);
        state.running += 1;
        if role == Role::Solo {
            state.solo = Solo::Busy;
        }
        let more = state.waiting > 0;
        drop(state);
        if more {
            self.arrived.notify_last();
        }
        Step::Take(jobs)
    }

    /// The most rows of a batch; 0 where they can't be joined, and there is nothing to wait for.
    fn most_rows(&self, state: &State, row: Option<RowBytes>) -> u64 {
        row.map_or(0, |row| state.linger.most_rows(row, self.max_rows))
    }

    /// A lane is done with what it took: `None` where that was not computed as one batch.
    pub(crate) fn computed(&self, batch: Option<Computed>) {
        let mut state = self.lock();
        state.running = state.running.saturating_sub(1);
        if let Some(batch) = batch {
            state.linger.computed(batch);
        }
    }

    /// Takes no more items; the lanes end when they have computed those that wait.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.wake_all();
    }

    /// Whether no more items are taken.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// A lane is about to begin. Returns whether it is of any use.
    pub(crate) fn lane_begins(&self) -> bool {
        let mut state = self.lock();
        if !state.closed {
            state.lanes = state.lanes.saturating_add(1);
        }
        !state.closed
    }

    /// A lane ended. After the last one, nobody computes what waits.
    pub(crate) fn lane_ended(&self, role: Role) {
        self.fewer(|state| match role {
            Role::Any => state.lanes = state.lanes.saturating_sub(1),
            Role::Solo => state.solo = Solo::None,
        });
    }

    /// No more lanes are being made.
    pub(crate) fn grown(&self) {
        self.fewer(|state| state.growing = false);
    }

    fn fewer(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let is_left = state.lanes > 0 || state.solo != Solo::None || state.growing;
        let orphans = if !is_left {
            state.closed = true;
            state.waiting = 0;
            self.metrics.queued(0);
            std::mem::take(&mut state.groups)
        } else {
            // A lane that was about to wait when the queue was closed has missed that.
            self.arrived.notify_one();
            self.solo.notify_one();
            Vec::new()
        };
        drop(state);
        for job in orphans.into_iter().flat_map(|group| group.jobs) {
            self.metrics.done(false);
            job.caller.answer(Err(JobError::Stopped));
        }
    }

    fn wake_all(&self) {
        // A permit is kept for a lane that is about to wait; each lane that ends passes one on.
        self.arrived.notify_one();
        self.arrived.notify_waiters();
        self.solo.notify_one();
        self.full.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether what waits is for the lane that takes what is alone. Until there are all others, everything is.
    fn is_solos(&self) -> bool {
        let is_alone = self.running == 0 && self.waiting == 1;
        self.solo == Solo::Free && (is_alone || self.growing || self.lanes == 0)
    }

    /// Adds an item to its group, and says how many rows the group has then.
    fn push(&mut self, job: Job) -> u64 {
        self.waiting += 1;
        let rows = job.rows;
        if let Some(group) = self.groups.iter_mut().find(|group| group.key == job.key) {
            group.rows = group.rows.saturating_add(rows);
            group.jobs.push_back(job);
            return group.rows;
        }
        self.groups.push(Group {
            key: job.key.clone(),
            jobs: VecDeque::from([job]),
            rows,
        });
        rows
    }

    /// The group whose first item waits longest.
    fn oldest(&self) -> Option<usize> {
        let heads = self
            .groups
            .iter()
            .enumerate()
            .filter_map(|(index, group)| Some((group.jobs.front()?.arrived, index)));
        heads.min().map(|(_, index)| index)
    }

    /// The first items of a group, as many as fit; one at least.
    fn take(&mut self, index: usize, max_rows: u64) -> Vec<Job> {
        let mut taken = Vec::new();
        let Some(group) = self.groups.get_mut(index) else {
            return taken;
        };
        let mut rows = 0_u64;
        while let Some(job) = group.jobs.front() {
            let fits = group.key != Key::Alone && rows.saturating_add(job.rows) <= max_rows;
            if !taken.is_empty() && !fits {
                break;
            }
            let Some(job) = group.jobs.pop_front() else {
                break;
            };
            rows = rows.saturating_add(job.rows);
            taken.push(job);
        }
        group.rows = group.rows.saturating_sub(rows);
        if group.jobs.is_empty() {
            self.groups.swap_remove(index);
        }
        self.waiting = self.waiting.saturating_sub(taken.len());
        taken
    }

    /// Removes the items whose callers went.
    fn purge(&mut self, metrics: &Metrics) {
        for group in &mut self.groups {
            group.jobs.retain(|job| {
                let gone = job.caller.is_gone();
                if gone {
                    metrics.cancelled();
                }
                !gone
            });
            group.rows = group
                .jobs
                .iter()
                .fold(0, |rows, job| rows.saturating_add(job.rows));
        }
        self.groups.retain(|group| !group.jobs.is_empty());
        self.waiting = self.groups.iter().map(|group| group.jobs.len()).sum();
    }
}
