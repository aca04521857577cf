//! How is a model loaded?

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use ort::session::Session;
use wisp_contract::config::{Device, Trial};

#[cfg(test)]
use super::device::Place;
use super::device::{OnDevice, gpu_name};
use super::io::describe;
use super::lane::OnnxLane;
use super::library::Library;
use super::operators::are_steady;
use super::plan::{is_inline, may_spread, pays};
use super::probe::{Verdict, one_row, probe, takes_long};
use super::survey::Survey;
use crate::backend::{Abort, Lane, LoadLater, Loaded, MakeInline};
use crate::{TensorInfo, trials};
use lanes::{Set, first_plan, measures, sessions_of, side_by_side, spread_out};
use make::{is_prepared, on_cpu, on_gpus};

#[cfg(test)]
pub(super) use make::on;

mod lanes;
mod make;

/// What to load.
#[derive(Clone)]
pub(crate) struct Request {
    /// The model, or its beginning, where it is read from `beside`.
    pub(crate) bytes: Bytes,
    /// How many bytes it has. While it is loaded, those in files beside it count, too.
    pub(crate) length: u64,
    /// Where it is read from, if it is large or some of its numbers lie in files beside it.
    pub(crate) beside: Option<PathBuf>,
    pub(crate) device: Device,
    /// The most rows of calls that are joined, if they may be.
    pub(crate) max_rows: NonZeroU32,
    pub(crate) cores: NonZeroUsize,
    /// Device memory of one model on one GPU, in bytes.
    pub(crate) gpu_memory: Option<u64>,
    /// No more sessions than this.
    pub(crate) max_sessions: usize,
    /// What it showed before, on a CPU of a host like this one.
    pub(crate) trial: Option<Trial>,
    /// Whether it computes before it is tried, on a CPU, where that takes a while.
    pub(crate) tries_later: bool,
    /// Ends a trial early: nobody needs the model any more.
    pub(crate) stop: Abort,
}

impl Request {
    /// Whether calls should be joined if they may be.
    fn joins(&self) -> bool {
        self.max_rows.get() > 1
    }

    /// Whether it may be tried while other sessions of it compute. There may be all of those at once, one more with all cores,
    /// and the same two again for the trial.
    fn may_be_tried_later(&self) -> bool {
        let is_to_be_tried = self.trial.is_none() && self.joins();
        let copies = sessions_of(self, false).sessions.saturating_add(3);
        self.tries_later
            && is_to_be_tried
            && self.beside.is_none()
            && may_spread(copies - 1, self.length)
    }
}

/// Why calls of a model aren't joined that computes before it is tried.
const UNTRIED: &str = "it isn't tried yet";

/// The most bytes of a model's file of which an item may take microseconds: all of it is read each time.
const LARGEST_INLINE: u64 = 4 << 20;

/// Why a model was not loaded.
pub(crate) enum Refusal {
    /// ONNX Runtime says why.
    Model(String),
    /// It asked for a GPU, and there is none to be had.
    Gpu(String),
}

impl Refusal {
    fn into_reason(self) -> String {
        match self {
            Self::Model(reason) | Self::Gpu(reason) => reason,
        }
    }
}

/// Loads a model onto the device it asks for, and never onto another.
pub(crate) fn load(library: &Arc<Library>, request: &Request) -> Result<Loaded, Refusal> {
    let survey = Survey::of(request);
    let request = &surveyed(request, survey.as_ref());
    let first = || on_cpu(library, request, first_plan(request).threads);
    let (sessions, device_reason) = match request.device {
        Device::Cpu => (vec![first()?], None),
        Device::Gpu => on_gpus(library, request).map_err(Refusal::Gpu)?,
        Device::Auto => match on_gpus(library, request) {
            Ok(had) => had,
            Err(reason) => (vec![first()?], Some(reason)),
        },
    };
    let Some(first) = sessions.first() else {
        return Err(Refusal::Model("no session was made".to_owned()));
    };
    let on_gpu = first.place.is_gpu();
    let inputs =
        describe_all(first.inputs()).map_err(|what| Refusal::Model(format!("its input {what}")))?;
    let outputs = describe_all(first.outputs())
        .map_err(|what| Refusal::Model(format!("its output {what}")))?;
    let outlets = Outlets {
        keeps_memory: is_prepared(request),
        inputs: Arc::clone(&inputs),
        outputs: Arc::clone(&outputs),
    };
    let mut lanes: Vec<OnnxLane> = sessions
        .into_iter()
        .map(|session| outlets.lane(session))
        .collect();

    let mut joinable =
        looks_joinable(&inputs, &outputs).and_then(|()| keeps_rows_apart(survey.as_ref()));
    let known = request.trial.as_ref().filter(|_| !on_gpu);
    // Where there is something to be tried that nobody should wait for.
    let mut later = None;
    if !on_gpu
        && request.may_be_tried_later()
        && (joinable.is_ok() || measures(request))
        && lanes.first_mut().is_some_and(takes_long)
    {
        later = Some(load_later(library, request));
        joinable = joinable.and_then(|()| Err(UNTRIED.to_owned()));
    }
    // How long the first session, which has all cores, takes for a row.
    let mut all_cores = None;
    match (&joinable, known, lanes.first_mut()) {
        (Ok(()), Some(Trial::Alone(why) | Trial::Spread(why)), _) => joinable = Err(why.clone()),
        (Ok(()), None, Some(lane)) if request.joins() => {
            // A GPU computes a batch in little more than the time of a row.
            joinable = match probe(lane, !on_gpu, &request.stop) {
                Verdict::Independent(None) => Ok(()),
                Verdict::Independent(Some(pace)) => {
                    all_cores = Some(pace.one_row);
                    pays(pace, sessions_of(request, false).sessions)
                }
                Verdict::Dependent(why) => Err(format!("dimension 0 is no batch: {why}")),
                Verdict::Unknown(why) => Err(format!("it could not be tried: {why}")),
            };
        }
        _ => {}
    }
    still_needed(request)?;
    let is_joined = request.joins() && joinable.is_ok();
    let set = if later.is_some() {
        Set::of(lanes)
    } else if on_gpu {
        side_by_side(library, request, lanes, is_joined, &outlets)
    } else {
        spread_out(library, request, lanes, is_joined, all_cores, &outlets)?
    };
    let trial = known.cloned().or_else(|| {
        let is_tried = request.joins() && !on_gpu && later.is_none();
        is_tried.then(|| match (&joinable, &set.solo) {
            (Ok(()), _) => Trial::Joined,
            (Err(why), Some(_)) => Trial::Spread(why.clone()),
            (Err(why), None) => Trial::Alone(why.clone()),
        })
    });
    let tried = trial.map(|trial| trials::here(trial, request.cores));
    let inline = (!on_gpu && later.is_none())
        .then(|| inline(library, request, &outlets))
        .flatten();
    Ok(Loaded {
        backend: library.name.clone(),
        device: if on_gpu {
            gpu_name().map_or_else(|| "gpu".to_owned(), |name| format!("gpu ({name})"))
        } else {
            "cpu".to_owned()
        },
        device_reason,
        inputs: inputs.to_vec(),
        outputs: outputs.to_vec(),
        joinable,
        tried,
        lanes: set.lanes,
        solo: set.solo,
        more: set.more,
        inline,
        later,
    })
}

/// # Errors
/// When nobody needs the model any more.
fn still_needed(request: &Request) -> Result<(), Refusal> {
    if request.stop.is_aborted() {
        return Err(Refusal::Model("nobody needs it any more".to_owned()));
    }
    Ok(())
}

/// Loads it as if nobody waited for it.
fn load_later(library: &Arc<Library>, request: &Request) -> LoadLater {
    let (library, request) = (Arc::clone(library), request.clone());
    Box::new(move |stop| {
        let request = Request {
            // Where the first one computes: calls don't move.
            device: Device::Cpu,
            tries_later: false,
            stop: stop.clone(),
            ..request.clone()
        };
        load(&library, &request).map_err(Refusal::into_reason)
    })
}

/// Tries whether an item is computed in microseconds, where it looks like that. Each item must take as long as the one
/// that is tried: nothing about it may depend on its numbers, or be its caller's choice.
fn inline(library: &Arc<Library>, request: &Request, outlets: &Outlets) -> Option<MakeInline> {
    let is_small = request.beside.is_none() && request.length <= LARGEST_INLINE;
    let is_one_of_many = request.max_sessions > 1;
    let mut infos = outlets.inputs.iter().chain(outlets.outputs.iter());
    let has_one_size = infos.all(|info| info.dims.iter().skip(1).all(Option::is_some));
    if !(is_small && is_one_of_many && has_one_size && are_steady(&request.bytes)) {
        return None;
    }
    let (library, request, outlets) = (Arc::clone(library), request.clone(), outlets.clone());
    Some(Box::new(move || {
        let mut lane = outlets.lane(on_cpu(&library, &request, 1).ok()?);
        let takes = one_row(&mut lane, &request.stop)?;
        is_inline(takes).then(|| -> Box<dyn Lane> { Box::new(lane) })
    }))
}

/// What a model takes and gives.
#[derive(Clone)]
struct Outlets {
    /// Whether sessions on the CPU keep the memory of a run for the next.
    keeps_memory: bool,
    inputs: Arc<[TensorInfo]>,
    outputs: Arc<[TensorInfo]>,
}

impl Outlets {
    fn lane(&self, session: OnDevice<Session>) -> OnnxLane {
        let keeps_memory = self.keeps_memory && !session.place.is_gpu();
        OnnxLane::new(
            session,
            Arc::clone(&self.inputs),
            Arc::clone(&self.outputs),
            keeps_memory,
        )
    }
}

/// A session with nothing around it.
#[cfg(test)]
pub(super) fn plain(library: &Library, request: &Request) -> OnnxLane {
    let session = on(library, request, Place::Cpu).unwrap();
    let inputs = describe_all(session.inputs()).unwrap();
    let outputs = describe_all(session.outputs()).unwrap();
    let outlets = Outlets {
        keeps_memory: is_prepared(request),
        inputs,
        outputs,
    };
    outlets.lane(OnDevice::new(session, Place::Cpu))
}

fn describe_all(outlets: &[ort::value::Outlet]) -> Result<Arc<[TensorInfo]>, String> {
    outlets.iter().map(describe).collect()
}

/// The same, with what is known by looking through the model: how much all of its weights are, and whether what was found
/// before still counts.
fn surveyed(request: &Request, survey: Option<&Survey>) -> Request {
    let mut request = request.clone();
    if let Some(path) = &request.beside {
        let outside = survey.and_then(|survey| survey.outside(path).ok());
        // What can't be weighed is taken for much.
        request.length = request.length.saturating_add(outside.unwrap_or(u64::MAX));
    }
    if request.trial == Some(Trial::Joined) && keeps_rows_apart(survey).is_err() {
        request.trial = None;
    }
    request
}

/// Whether the model has no operator that is known to look at all rows of a batch.
fn keeps_rows_apart(survey: Option<&Survey>) -> Result<(), String> {
    match survey {
        Some(Survey {
            mixes: Some(why), ..
        }) => Err(format!("dimension 0 is no batch: {why}")),
        Some(_) => Ok(()),
        None => Err("its operators could not be looked through".to_owned()),
    }
}

/// Whether dimension 0 of every input and output is each call's own.
fn looks_joinable(inputs: &[TensorInfo], outputs: &[TensorInfo]) -> Result<(), String> {
    if inputs.is_empty() || outputs.is_empty() {
        return Err("it has no inputs or no outputs".to_owned());
    }
    match inputs
        .iter()
        .chain(outputs)
        .find(|info| info.dims.first() != Some(&None))
    {
        Some(info) => Err(format!("dimension 0 of `{info}` is not dynamic")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
