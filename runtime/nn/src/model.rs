//! How is a loaded model called?

use std::fmt::Display;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;
use wisp_contract::config::{Batching, Tried};
use wisp_contract::status::ModelStatus;

use crate::backend::{Item, Lane, Loaded, MakeInline, MoreLanes};
use crate::batch::{
    Ended, Job, JobError, Key, LaneThread, Lanes, Queue, Role, ThreadClock, block_on, work,
};
use crate::metrics::{Metrics, Snapshot};
use crate::name::listed;
use crate::{NamedTensor, Tensor, TensorInfo, sentence, shown};

/// A loaded model, shared by every instance. Dropping it ends its threads.
pub struct Model {
    name: String,
    backend: String,
    device: String,
    device_reason: Option<String>,
    inputs: Vec<TensorInfo>,
    outputs: Vec<TensorInfo>,
    batching: Result<NonZeroU32, String>,
    tried: Option<Tried>,
    load_time: Duration,
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
    /// The thread that makes what is missing yet.
    maker: Mutex<Option<JoinHandle<()>>>,
    /// Its place among those that there may be at once, where that is bounded. Its threads have it, too: they may compute
    /// for a while after it is gone.
    _place: Option<Arc<OwnedSemaphorePermit>>,
}

/// Why a model gave no outputs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The model has no such input.
    #[error("model `{model}` has no input `{name}`: its inputs are {known}")]
    UnknownInput {
        /// The model's name.
        model: String,
        /// The input's name.
        name: String,
        /// The model's inputs.
        known: String,
    },
    /// An input is missing.
    #[error("input `{name}` of model `{model}` is missing: expected {expected}")]
    MissingInput {
        /// The model's name.
        model: String,
        /// The input's name.
        name: String,
        /// Its type and dimensions.
        expected: String,
    },
    /// An input was given twice.
    #[error("input `{name}` of model `{model}` was given twice")]
    DuplicateInput {
        /// The model's name.
        model: String,
        /// The input's name.
        name: String,
    },
    /// A tensor has another type, rank or dimension than the model takes.
    #[error("input `{name}`: expected {expected}, got {got}")]
    Mismatch {
        /// The input's name.
        name: String,
        /// The type and dimensions that the model takes.
        expected: String,
        /// The tensor's.
        got: String,
    },
    /// More calls wait than may.
    #[error("model `{model}` is busy: {limit} calls wait for it already")]
    QueueFull {
        /// The model's name.
        model: String,
        /// How many may wait.
        limit: usize,
    },
    /// The backend failed on these inputs.
    #[error("model `{model}` failed: {message}")]
    Failed {
        /// The model's name.
        model: String,
        /// In the backend's words.
        message: String,
    },
    /// The model's threads are gone: the process ends, or a backend crashed.
    #[error("model `{model}` was stopped")]
    Stopped {
        /// The model's name.
        model: String,
    },
}

impl RunError {
    /// A stable word for metrics and logs.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnknownInput { .. } => "unknown-input",
            Self::MissingInput { .. } => "missing-input",
            Self::DuplicateInput { .. } => "duplicate-input",
            Self::Mismatch { .. } => "mismatched-input",
            Self::QueueFull { .. } => "queue-full",
            Self::Failed { .. } => "failed",
            Self::Stopped { .. } => "stopped",
        }
    }
}

impl Model {
    /// Starts a thread for each lane that hasn't one of `threads`, and waits until those that prepare are done. It began to
    /// be loaded at `started`, and has `place` until its last thread ends.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub(crate) fn start(
        name: String,
        loaded: Loaded,
        mut threads: Vec<LaneThread>,
        batching: Batching,
        queue_limit: NonZeroUsize,
        started: Instant,
        place: Option<OwnedSemaphorePermit>,
    ) -> std::io::Result<Self> {
        let place = place.map(Arc::new);
        let batched = match loaded.joinable {
            Ok(()) if batching.max_size.get() > 1 => Ok(batching.max_size),
            Ok(()) => Err("batching.maxSize is 1".to_owned()),
            Err(why) => Err(why),
        };
        let max_rows = batched.as_ref().copied().unwrap_or(NonZeroU32::MIN);
        let metrics = Arc::new(Metrics::default());
        let made = loaded.lanes.len() + threads.len();
        let lanes = Lanes {
            any: made,
            has_solo: loaded.solo.is_some(),
            growing: loaded.more.size_hint() != (0, Some(0)),
        };
        let queue = Queue::new(
            queue_limit,
            max_rows,
            batching.max_delay,
            lanes,
            Arc::clone(&metrics),
        );
        // Made before the threads: should one not start, dropping it ends those that did.
        let mut model = Self {
            name,
            backend: loaded.backend,
            device: loaded.device,
            device_reason: loaded.device_reason,
            inputs: loaded.inputs,
            outputs: loaded.outputs,
            batching: batched,
            tried: loaded.tried,
            load_time: Duration::ZERO,
            queue: Arc::new(queue),
            metrics,
            maker: Mutex::default(),
            _place: place.clone(),
        };
        let shared = Shared {
            name: model.name.clone(),
            queue: Arc::clone(&model.queue),
            metrics: Arc::clone(&model.metrics),
            place,
        };
        if let Some(lane) = loaded.solo {
            let name = lane_name("solo", &model.name);
            // It has nothing to prepare.
            let thread = LaneThread::start(name, lane, &mpsc::channel().0)?;
            shared.begin(Role::Solo, thread);
        }
        threads.extend(start_lanes(loaded.lanes, &model.name)?);
        for thread in threads {
            shared.begin(Role::Any, thread);
        }
        model.load_time = started.elapsed();
        if lanes.growing || loaded.inline.is_some() {
            let maker = thread::Builder::new()
                .name(format!("nn-more-{}", model.name))
                .spawn(move || shared.make(loaded.more, made, loaded.inline));
            match maker {
                Ok(maker) => model.maker = Mutex::new(Some(maker)),
                Err(error) if lanes.growing => return Err(error),
                // What isn't made then is missed by nobody.
                Err(_) => {}
            }
        }
        Ok(model)
    }

    /// The name guests open it by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it takes.
    #[must_use]
    pub fn inputs(&self) -> &[TensorInfo] {
        &self.inputs
    }

    /// What it gives.
    #[must_use]
    pub fn outputs(&self) -> &[TensorInfo] {
        &self.outputs
    }

    /// The most rows that are computed together, or why calls aren't joined.
    ///
    /// # Errors
    /// One sentence for people.
    pub fn batching(&self) -> Result<NonZeroU32, &str> {
        self.batching.as_ref().copied().map_err(String::as_str)
    }

    /// What it has done since it was loaded.
    #[must_use]
    pub fn metrics(&self) -> Snapshot {
        self.metrics.snapshot()
    }

    /// What the host tells about it.
    #[must_use]
    pub fn status(&self) -> ModelStatus {
        ModelStatus {
            name: self.name.clone(),
            backend: self.backend.clone(),
            device: self.device.clone(),
            device_reason: self.device_reason.clone(),
            batched: self.batching.is_ok(),
            tried: self.tried.clone(),
            inputs: self.inputs.iter().map(ToString::to_string).collect(),
            outputs: self.outputs.iter().map(ToString::to_string).collect(),
            load_millis: u64::try_from(self.load_time.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Computes all outputs, in the model's order. The inputs may come in any order. It blocks for no longer than a small
    /// model takes for a call that is alone, microseconds; all else is computed by other threads.
    ///
    /// Dropping the future frees the inputs of a call that waits, which nobody computes then, though it counts among those
    /// that wait until a lane comes across it or the queue is full. Of one that is being computed they go with its batch;
    /// where nobody else waits for that, the backend is asked to stop.
    ///
    /// # Errors
    /// When the inputs aren't what the model takes, when too many calls wait, or when computing fails.
    pub async fn run(&self, inputs: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, RunError> {
        let inputs = self.order(inputs)?;
        let (key, rows) = self.key(&inputs);
        let item = Item { inputs, rows };
        let inline = self.is_usual(&item).then(|| self.queue.take_inline());
        let reply = if let Some(Some(inline)) = inline {
            inline.compute(item, &self.metrics, &ThreadClock).await
        } else {
            let (job, ticket) = Job::new(item, key, Instant::now());
            match self.queue.push(job) {
                Ok(()) => ticket.wait().await,
                Err(error) => Err(error),
            }
        };
        let outputs = reply.map_err(|error| self.explain(error))?;
        let named = self.outputs.iter().zip(outputs);
        Ok(named
            .map(|(info, tensor)| NamedTensor::new(info.name.clone(), tensor))
            .collect())
    }

    /// Takes no more calls, and waits until no session is being made, which blocks for as long as making one takes: a
    /// process that ended meanwhile would crash in ONNX Runtime.
    pub fn stop(&self) {
        self.queue.close();
        let mut maker = self.maker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(maker) = maker.take() {
            // Lanes that were not made are missed by nobody any more.
            let _ = maker.join();
        }
    }

    /// Checks the inputs and brings them into the model's order.
    fn order(&self, inputs: Vec<NamedTensor>) -> Result<Vec<Tensor>, RunError> {
        let mut ordered: Vec<Option<Tensor>> = vec![None; self.inputs.len()];
        for NamedTensor { name, tensor } in inputs {
            let found = self
                .inputs
                .iter()
                .zip(&mut ordered)
                .find(|(info, _)| info.name == name);
            let Some((info, place)) = found else {
                return Err(RunError::UnknownInput {
                    model: self.name.clone(),
                    name: shown(&name),
                    known: listed(self.inputs.iter()),
                });
            };
            if !info.accepts(&tensor) {
                return Err(RunError::Mismatch {
                    name,
                    expected: info.layout(),
                    got: tensor.to_string(),
                });
            }
            if place.replace(tensor).is_some() {
                return Err(RunError::DuplicateInput {
                    model: self.name.clone(),
                    name,
                });
            }
        }
        let missing = |info: &TensorInfo| RunError::MissingInput {
            model: self.name.clone(),
            name: info.name.clone(),
            expected: info.layout(),
        };
        self.inputs
            .iter()
            .zip(ordered)
            .map(|(info, tensor)| tensor.ok_or_else(|| missing(info)))
            .collect()
    }

    /// Which other items these inputs may be joined with, and their rows.
    fn key(&self, inputs: &[Tensor]) -> (Key, u64) {
        let rows = inputs
            .first()
            .and_then(|input| input.shape().first())
            .copied()
            .unwrap_or(0);
        let same = inputs
            .iter()
            .all(|input| input.shape().first() == Some(&rows));
        match &self.batching {
            Ok(max) if same && (1..=u64::from(max.get())).contains(&rows) => {
                let rest = inputs.iter().flat_map(|input| input.shape().iter().skip(1));
                (Key::Join(rest.copied().collect()), rows)
            }
            _ => (Key::Alone, rows),
        }
    }

    /// Whether it has the size by which the model was tried: one row, where the model doesn't say how many.
    fn is_usual(&self, item: &Item) -> bool {
        let mut inputs = self.inputs.iter().zip(&item.inputs);
        inputs.all(|(info, input)| {
            let usual = info.dims.first().map(|rows| rows.unwrap_or(1));
            input.shape().first().copied() == usual
        })
    }

    fn explain(&self, error: JobError) -> RunError {
        let model = self.name.clone();
        match error {
            JobError::Backend(error) => RunError::Failed {
                model,
                message: sentence(&error.0),
            },
            JobError::QueueFull { limit } => RunError::QueueFull { model, limit },
            JobError::Stopped => RunError::Stopped { model },
        }
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

/// What a model's threads share.
struct Shared {
    name: String,
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
    place: Option<Arc<OwnedSemaphorePermit>>,
}

impl Shared {
    /// Has a lane take from the queue.
    fn begin(&self, role: Role, thread: LaneThread) {
        let ended = Ended::new(&self.queue, role);
        let (queue, metrics) = (Arc::clone(&self.queue), Arc::clone(&self.metrics));
        let place = self.place.clone();
        thread.work(move |lane| {
            // Let go of after the lane.
            let _place = place;
            block_on(work(queue, ended, lane, metrics, ThreadClock));
        });
    }

    /// Makes the lanes that are missing, for as long as the model is there; `made` are there already.
    fn make(self, more: MoreLanes, made: usize, inline: Option<MakeInline>) {
        let grown = Grown(Arc::clone(&self.queue));
        let (preparing, prepared) = mpsc::channel();
        for (index, lane) in more.enumerate() {
            // Asked only now: to make it took a while.
            if !self.queue.lane_begins() {
                break;
            }
            let index = made.saturating_add(index);
            let begun = lane.and_then(|lane| {
                let name = lane_name(index, &self.name);
                let thread = LaneThread::start(name, lane, &preparing);
                self.begin(Role::Any, thread.map_err(|error| error.to_string())?);
                Ok(())
            });
            if let Err(reason) = begun {
                self.queue.lane_ended(Role::Any);
                tracing::warn!(
                    model = self.name,
                    reason,
                    "a model computes less at once than it might"
                );
            }
        }
        drop(grown);
        drop(preparing);
        // Sessions are made for them; whoever stops the model waits for this thread.
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

impl Drop for Model {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests;
