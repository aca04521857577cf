//! How is a loaded model called?

use std::mem::take;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wisp_contract::status::ModelStatus;

use crate::backend::{Item, Loaded};
use crate::batch::{Job, JobError, Key, LaneThread, ThreadClock};
use crate::metrics::Snapshot;
use crate::name::listed;
use crate::{NamedTensor, Tensor, TensorInfo, sentence, shown};

pub(crate) use engine::Around;

use engine::{Current, Engine};
use later::Beside;

mod engine;
mod later;

/// A loaded model, shared by every instance. Dropping it ends its threads.
pub struct Model {
    around: Around,
    backend: String,
    device: String,
    device_reason: Option<String>,
    inputs: Vec<TensorInfo>,
    outputs: Vec<TensorInfo>,
    load_time: Duration,
    current: Arc<Current>,
    beside: Beside,
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
    /// be loaded at `started`, and has its place until its last thread ends.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub(crate) fn start(
        around: Around,
        mut loaded: Loaded,
        threads: Vec<LaneThread>,
        started: Instant,
    ) -> std::io::Result<Self> {
        let (backend, device) = (take(&mut loaded.backend), take(&mut loaded.device));
        let device_reason = loaded.device_reason.take();
        let (inputs, outputs) = (take(&mut loaded.inputs), take(&mut loaded.outputs));
        let later = loaded.later.take();
        let engine = Engine::start(&around, loaded, threads)?;
        let current = Arc::new(Current::new(engine));
        let load_time = started.elapsed();
        let beside = later.map(|load| Beside::begin(load, around.clone(), Arc::clone(&current)));
        Ok(Self {
            backend,
            device,
            device_reason,
            inputs,
            outputs,
            load_time,
            current,
            beside: beside.unwrap_or_default(),
            around,
        })
    }

    /// Logs whether its calls are joined.
    pub(crate) fn tell(&self) {
        self.current.get().tell(self.name());
    }

    /// The name guests open it by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.around.name
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

    /// What it is going to give for these `inputs`, as far as that is known: where calls are joined, each output has a row for each
    /// of theirs, and most models say how large a row is. Nothing of inputs that it doesn't take.
    #[must_use]
    pub fn outputs_of(&self, inputs: &[NamedTensor]) -> Vec<TensorInfo> {
        let is_taken = |input: &NamedTensor| {
            let mut own = self.inputs.iter();
            own.any(|own| own.name == input.name && own.accepts(&input.tensor))
        };
        let rows = inputs.iter().map(|input| input.tensor.shape().first());
        let rows = rows.map(|rows| rows.copied().unwrap_or(0)).min();
        let is_known = self.current.get().batching.is_ok() && inputs.iter().all(is_taken);
        let Some(rows) = rows.filter(|_| is_known) else {
            return Vec::new();
        };
        let known = |output: &TensorInfo| {
            let mut output = output.clone();
            match output.dims.split_first_mut()? {
                (rows_of @ None, rest) if rest.iter().all(Option::is_some) => *rows_of = Some(rows),
                _ => return None,
            }
            Some(output)
        };
        self.outputs.iter().filter_map(known).collect()
    }

    /// The most rows that are computed together, or why calls aren't joined.
    ///
    /// # Errors
    /// One sentence for people.
    pub fn batching(&self) -> Result<NonZeroU32, String> {
        self.current.get().batching.clone()
    }

    /// What it has done since it was loaded.
    #[must_use]
    pub fn metrics(&self) -> Snapshot {
        self.around.metrics.snapshot()
    }

    /// What the host tells about it.
    #[must_use]
    pub fn status(&self) -> ModelStatus {
        // Asked first: what is tried no more has its last engine.
        let trying = self.beside.goes_on();
        let engine = self.current.get();
        ModelStatus {
            name: self.around.name.clone(),
            backend: self.backend.clone(),
            device: self.device.clone(),
            device_reason: self.device_reason.clone(),
            batched: engine.batching.is_ok(),
            tried: engine.tried().cloned(),
            trying,
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
        let _call = self.around.activity.call();
        // It computes for as long as it is had.
        let engine = self.current.get();
        let rows = rows(&inputs);
        let item = Item { inputs, rows };
        let inline = self.is_usual(&item).then(|| engine.queue.take_inline());
        let reply = if let Some(Some(inline)) = inline {
            inline
                .compute(item, &self.around.metrics, &ThreadClock)
                .await
        } else {
            let key = key(&engine, &item);
            let (job, ticket) = Job::new(item, key, Instant::now());
            match engine.queue.push(job) {
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

    /// Takes no more calls, breaks off a trial, and waits until no session is being made, which blocks for as long as making
    /// one takes: exit handlers that ran meanwhile would crash in ONNX Runtime.
    fn stop(&self) {
        // First: it would have another take calls.
        self.beside.stop();
        self.current.get().stop();
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
                    model: self.around.name.clone(),
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
                    model: self.around.name.clone(),
                    name,
                });
            }
        }
        let missing = |info: &TensorInfo| RunError::MissingInput {
            model: self.around.name.clone(),
            name: info.name.clone(),
            expected: info.layout(),
        };
        self.inputs
            .iter()
            .zip(ordered)
            .map(|(info, tensor)| tensor.ok_or_else(|| missing(info)))
            .collect()
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
        let model = self.around.name.clone();
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

/// How many rows the inputs have, where they have as many.
fn rows(inputs: &[Tensor]) -> u64 {
    let rows = inputs.first().and_then(|input| input.shape().first());
    rows.copied().unwrap_or(0)
}

/// Which other items this one may be joined with.
fn key(engine: &Engine, item: &Item) -> Key {
    let mut inputs = item.inputs.iter();
    let same = inputs.all(|input| input.shape().first() == Some(&item.rows));
    match &engine.batching {
        Ok(max) if same && (1..=u64::from(max.get())).contains(&item.rows) => {
            let rest = item.inputs.iter().flat_map(|it| it.shape().iter().skip(1));
            Key::Join(rest.copied().collect())
        }
        _ => Key::Alone,
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests;
