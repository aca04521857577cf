//! What computes a model?

use std::fmt::Display;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::thread::{self, JoinHandle};

use tokio::sync::OwnedSemaphorePermit;
use wisp_contract::config::{Batching, Tried};

use crate::activity::Activity;
use crate::backend::{Lane, Loaded, MakeInline, MoreLanes};
use crate::batch::{Ended, LaneThread, Lanes, Queue, Role, ThreadClock, block_on, work};
use crate::metrics::Metrics;

/// What all engines of one model share.
#[derive(Clone)]
pub(crate) struct Around {
    /// The model's name.
    pub(crate) name: String,
    pub(crate) batching: Batching,
    /// Calls that may wait.
    pub(crate) limit: NonZeroUsize,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) activity: Arc<Activity>,
    /// The model's place among those that there may be at once, where that is bounded. Threads have it, too: they may compute
    /// for a while after the model is gone.
    pub(crate) place: Option<Arc<OwnedSemaphorePermit>>,
}

/// A queue, and the lanes that take from it. Dropping it ends its threads, once they have computed what waits.
pub(super) struct Engine {
    /// The most rows that are computed together, or why calls aren't joined.
    pub(super) batching: Result<NonZeroU32, String>,
    tried: OnceLock<Tried>,
    pub(super) queue: Arc<Queue>,
    /// The thread that makes what is missing yet.
    maker: Mutex<Option<JoinHandle<()>>>,
}

impl Engine {
    /// Starts a thread for each lane that hasn't one of `threads`, and waits until those that prepare are done.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub(super) fn start(
        around: &Around,
        loaded: Loaded,
        mut threads: Vec<LaneThread>,
    ) -> std::io::Result<Self> {
        let Batching {
            max_size,
            max_delay,
        } = around.batching;
        let batching = match loaded.joinable {
            Ok(()) if max_size.get() > 1 => Ok(max_size),
            Ok(()) => Err("batching.maxSize is 1".to_owned()),
            Err(why) => Err(why),
        };
        let max_rows = batching.as_ref().copied().unwrap_or(NonZeroU32::MIN);
        let made = loaded.lanes.len() + threads.len();
        let lanes = Lanes {
            any: made,
            has_solo: loaded.solo.is_some(),
            growing: loaded.more.size_hint() != (0, Some(0)),
        };
        let metrics = Arc::clone(&around.metrics);
        let queue = Queue::new(around.limit, max_rows, max_delay, lanes, metrics);
        // Made before the threads: should one not start, dropping it ends those that did.
        let mut engine = Self {
            batching,
            tried: loaded.tried.map(OnceLock::from).unwrap_or_default(),
            queue: Arc::new(queue),
            maker: Mutex::default(),
        };
        let shared = Shared {
            queue: Arc::clone(&engine.queue),
            around: around.clone(),
        };
        if let Some(lane) = loaded.solo {
            let name = lane_name("solo", &around.name);
            // It has nothing to prepare.
            let thread = LaneThread::start(name, lane, &mpsc::channel().0)?;
            shared.begin(Role::Solo, thread);
        }
        threads.extend(start_lanes(loaded.lanes, &around.name)?);
        for thread in threads {
            shared.begin(Role::Any, thread);
        }
        if lanes.growing || loaded.inline.is_some() {
            let maker = thread::Builder::new()
                .name(format!("nn-more-{}", around.name))
                .spawn(move || shared.make(loaded.more, made, loaded.inline));
            match maker {
                Ok(maker) => engine.maker = Mutex::new(Some(maker)),
                Err(error) if lanes.growing => return Err(error),
                // What isn't made then is missed by nobody.
                Err(_) => {}
            }
        }
        Ok(engine)
    }

    /// Logs whether calls are joined.
    pub(super) fn tell(&self, model: &str) {
        match &self.batching {
            Ok(size) => tracing::info!(model, size, "calls are joined into batches"),
            Err(why) => tracing::info!(model, why, "calls are not joined into batches"),
        }
    }

    /// What trying it showed, where that is sure.
    pub(super) fn tried(&self) -> Option<&Tried> {
        self.tried.get()
    }

    /// What it was made for is sure by now.
    pub(super) fn learn(&self, tried: Option<Tried>) {
        if let Some(tried) = tried {
            // It may have been told.
            let _ = self.tried.set(tried);
        }
    }

    /// Takes no more calls, and waits until no session is being made.
    pub(super) fn stop(&self) {
        self.queue.close();
        self.made();
    }

    /// Waits until no session is being made.
    fn made(&self) {
        let mut maker = self.maker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(maker) = maker.take() {
            // Lanes that were not made are missed by nobody any more.
            let _ = maker.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The engine that takes a model's calls now. One before it goes on until its last call is answered; until then the model's
/// count of calls that wait is that of whichever of the two changed last.
pub(super) struct Current(RwLock<Arc<Engine>>);

impl Current {
    pub(super) fn new(engine: Engine) -> Self {
        Self(RwLock::new(Arc::new(engine)))
    }

    pub(super) fn get(&self) -> Arc<Engine> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has `engine` take the calls that come. Waits until none of the sessions of the one before is being made.
    pub(super) fn set(&self, engine: Engine) {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *current, Arc::new(engine));
        drop(current);
        // Not where its last call ends, which may be on an executor.
        before.made();
    }
}

/// What the thread of a lane is called.
fn lane_name(what: impl Display, model: &str) -> String {
    format!("nn-{what}-{model}")
}

/// Starts a thread for each of the lanes, and waits until those that prepare are done.
fn start_lanes(lanes: Vec<Box<dyn Lane>>, model: &str) -> std::io::Result<Vec<LaneThread>> {
    let (preparing, prepared) = mpsc::channel();
    let threads = lanes
        .into_iter()
        .enumerate()
        .map(|(index, lane)| LaneThread::start(lane_name(index, model), lane, &preparing));
    let threads = threads.collect::<std::io::Result<_>>()?;
    drop(preparing);
    // Nobody sends anything: it ends once nobody could any more.
    let _ = prepared.recv();
    Ok(threads)
}

impl Loaded {
    /// Prepares those of its lanes that want it, each on the thread that will compute.
    pub(crate) fn prepare(&mut self, model: &str) -> std::io::Result<Vec<LaneThread>> {
        let prepares = |lane: &mut Box<dyn Lane>| lane.prepares();
        start_lanes(self.lanes.extract_if(.., prepares).collect(), model)
    }
}

/// What an engine's threads share.
struct Shared {
    queue: Arc<Queue>,
    around: Around,
}

impl Shared {
    /// Has a lane take from the queue.
    fn begin(&self, role: Role, thread: LaneThread) {
        let ended = Ended::new(&self.queue, role);
        let queue = Arc::clone(&self.queue);
        let metrics = Arc::clone(&self.around.metrics);
        let place = self.around.place.clone();
        thread.work(move |lane| {
            // Let go of after the lane.
            let _place = place;
            block_on(work(queue, ended, lane, metrics, ThreadClock));
        });
    }

    /// Makes the lanes that are missing, for as long as the engine is there; `made` are there already.
    fn make(self, more: MoreLanes, made: usize, inline: Option<MakeInline>) {
        let name = &self.around.name;
        let grown = Grown(Arc::clone(&self.queue));
        let (preparing, prepared) = mpsc::channel();
        for (index, lane) in more.enumerate() {
            // Asked only now: to make it took a while.
            if !self.queue.lane_begins() {
                break;
            }
            let index = made.saturating_add(index);
            let begun = lane.and_then(|lane| {
                let thread = LaneThread::start(lane_name(index, name), lane, &preparing);
                self.begin(Role::Any, thread.map_err(|error| error.to_string())?);
                Ok(())
            });
            if let Err(reason) = begun {
                self.queue.lane_ended(Role::Any);
                tracing::warn!(
                    model = name,
                    reason,
                    "a model computes less at once than it might"
                );
            }
        }
        drop(grown);
        drop(preparing);
        // Sessions are made for them; whoever stops the engine waits for this thread.
        let _ = prepared.recv();
        let inline = inline.filter(|_| !self.queue.is_closed());
        if let Some(lane) = inline.and_then(|make| make()) {
            self.queue.set_inline(lane);
        }
    }
}

/// However making lanes ends, even by a panic, their queue hears of it.
struct Grown(Arc<Queue>);

impl Drop for Grown {
    fn drop(&mut self) {
        self.0.grown();
    }
}
