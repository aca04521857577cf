//! How is a model loaded?

use std::num::{NonZeroU32, NonZeroUsize};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ort::environment::Environment;
use ort::ep::ExecutionProviderDispatch;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use wisp_contract::config::{Device, Trial};

use super::device::{Gpu, OnDevice, Place, cpu_provider, gpu_hope, gpu_name, gpu_provider, gpus};
use super::io::describe;
use super::lane::OnnxLane;
use super::library::Library;
use super::operators::are_steady;
use super::plan::{Plan, is_inline, may_spread, pays, plan, spreads};
use super::probe::{PATIENCE, Verdict, one_row, probe};
use super::sized::{SizedLane, sizes};
use super::survey::Survey;
use crate::backend::{Lane, Loaded, MakeInline, MoreLanes};
use crate::{TensorInfo, sentence, trials};

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
}

impl Request {
    /// Whether calls should be joined if they may be.
    fn joins(&self) -> bool {
        self.max_rows.get() > 1
    }
}

/// The most bytes of a model's file of which an item may take microseconds: all of it is read each time.
const LARGEST_INLINE: u64 = 4 << 20;

/// A folder that there can't be.
const NOWHERE: &str = "/dev/null/nowhere";

/// Why a model was not loaded.
pub(crate) enum Refusal {
    /// ONNX Runtime says why.
    Model(String),
    /// It asked for a GPU, and there is none to be had.
    Gpu(String),
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
    // How long the first session, which has all cores, takes for a row.
    let mut all_cores = None;
    match (&joinable, known, lanes.first_mut()) {
        (Ok(()), Some(Trial::Alone(why) | Trial::Spread(why)), _) => joinable = Err(why.clone()),
        (Ok(()), None, Some(lane)) if request.joins() => {
            // A GPU computes a batch in little more than the time of a row.
            joinable = match probe(lane, !on_gpu) {
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
    let is_joined = request.joins() && joinable.is_ok();
    let set = if on_gpu {
        side_by_side(library, request, lanes, is_joined, &outlets)
    } else {
        spread_out(library, request, lanes, is_joined, all_cores, &outlets)?
    };
    let trial = known.cloned().or_else(|| {
        let is_tried = request.joins() && !on_gpu;
        is_tried.then(|| match (&joinable, &set.solo) {
            (Ok(()), _) => Trial::Joined,
            (Err(why), Some(_)) => Trial::Spread(why.clone()),
            (Err(why), None) => Trial::Alone(why.clone()),
        })
    });
    let tried = trial.map(|trial| trials::here(trial, request.cores));
    let inline = (!on_gpu)
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
        let takes = one_row(&mut lane)?;
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

/// What computes a model.
struct Set {
    lanes: Vec<Box<dyn Lane>>,
    solo: Option<Box<dyn Lane>>,
    more: MoreLanes,
}

fn boxed(lane: OnnxLane) -> Box<dyn Lane> {
    Box::new(lane)
}

/// How many sessions a model gets on the CPU, and with how many threads.
fn sessions_of(request: &Request, is_joined: bool) -> Plan {
    let Plan { sessions, threads } = plan(request.cores, is_joined, request.length);
    match sessions.min(request.max_sessions) {
        // There is nothing to share the cores with.
        1 => plan(request.cores, true, request.length),
        sessions => Plan { sessions, threads },
    }
}

/// The first session was made before it was known how many there are to be. One is needed to begin with; the others are
/// made later.
fn spread_out(
    library: &Arc<Library>,
    request: &Request,
    mut lanes: Vec<OnnxLane>,
    is_joined: bool,
    all_cores: Option<Duration>,
    outlets: &Outlets,
) -> Result<Set, Refusal> {
    let plan = sessions_of(request, is_joined);
    let mut solo = None;
    if plan.threads < first_plan(request).threads {
        match &request.trial {
            Some(Trial::Spread(_)) => solo = lanes.pop(),
            None if request.joins() && may_spread(plan.sessions, request.length) => {
                // What was measured a while ago may have been disturbed by what is no more.
                let again = lanes.first_mut().and_then(one_row);
                let of_all = all_cores.into_iter().chain(again).min();
                let pays = match of_all {
                    // One core would take longer than loading may.
                    Some(of_all) if of_all > PATIENCE => true,
                    Some(of_all) => {
                        let mut narrow = outlets.lane(on_cpu(library, request, plan.threads)?);
                        let of_one = one_row(&mut narrow);
                        lanes.push(narrow);
                        of_one.is_some_and(|of_one| spreads(of_all, of_one))
                    }
                    None => false,
                };
                let first = lanes.swap_remove(0);
                solo = pays.then_some(first);
            }
            _ => lanes.clear(),
        }
    }
    if lanes.is_empty() && solo.is_none() {
        lanes.push(outlets.lane(on_cpu(library, request, plan.threads)?));
    }
    let missing = plan.sessions.saturating_sub(lanes.len());
    let (library, request, outlets) = (Arc::clone(library), request.clone(), outlets.clone());
    let more = (0..missing).map(move |_| {
        let session =
            on_cpu(&library, &request, plan.threads).map_err(|refusal| match refusal {
                Refusal::Model(reason) | Refusal::Gpu(reason) => reason,
            })?;
        Ok(boxed(outlets.lane(session)))
    });
    Ok(Set {
        lanes: lanes.into_iter().map(boxed).collect(),
        solo: solo.map(boxed),
        more: Box::new(more),
    })
}

/// Each GPU gets a second session, so that one computes while the other brings its numbers over; unless the memory that a
/// model may have is bounded, or it is large.
fn side_by_side(
    library: &Arc<Library>,
    request: &Request,
    lanes: Vec<OnnxLane>,
    is_joined: bool,
    outlets: &Outlets,
) -> Set {
    let max_rows = is_joined.then(|| u64::from(request.max_rows.get()));
    let sizes = is_prepared(request)
        .then(|| sizes(&outlets.inputs, &outlets.outputs, max_rows))
        .flatten();
    let (again, kept) = (Arc::clone(library), request.clone());
    let finish = move |lane: OnnxLane| -> Box<dyn Lane> {
        let Some(sizes) = sizes.clone() else {
            return boxed(lane);
        };
        // One size is no reason for another session.
        let is_free = kept.gpu_memory.is_none() && sizes.count() > 1;
        let may_copy = is_free && may_copy(&kept, sizes.count());
        let (library, request) = (Arc::clone(&again), kept.clone());
        let make = move |place| on(&library, &request, place);
        Box::new(SizedLane::new(lane, sizes, may_copy, Box::new(make)))
    };
    let free = request.max_sessions.saturating_sub(lanes.len());
    let is_free = request.gpu_memory.is_none() && may_copy(request, 1);
    let more = if is_free { free } else { 0 };
    let places: Vec<Place> = lanes.iter().map(|lane| lane.session.place).collect();
    let lanes = lanes.into_iter().map(&finish).collect();
    let (library, request, outlets) = (Arc::clone(library), request.clone(), outlets.clone());
    let more = places.into_iter().take(more).map(move |place| {
        let session = on(&library, &request, place)?;
        Ok(finish(outlets.lane(OnDevice::new(session, place))))
    });
    Set {
        lanes,
        solo: None,
        more: Box::new(more),
    }
}

/// The plan of the session that is made first, to ask the model what it is.
fn first_plan(request: &Request) -> Plan {
    sessions_of(request, !matches!(request.trial, Some(Trial::Alone(_))))
}

fn on_cpu(
    library: &Library,
    request: &Request,
    threads: usize,
) -> Result<OnDevice<Session>, Refusal> {
    let session = session(
        &library.environment,
        request,
        threads,
        cpu_provider(is_prepared(request)),
    );
    let session = session.map_err(Refusal::Model)?;
    Ok(OnDevice::new(session, Place::Cpu))
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

/// One session on each GPU that can be had, and why the others can't.
fn on_gpus(library: &Library, request: &Request) -> Result<Had<OnDevice<Session>>, String> {
    gpu_hope()?;
    let each = (0..gpus()).map(|index| (index, on_gpu(library, request, index)));
    some_of(each, request.max_sessions)
}

fn on_gpu(library: &Library, request: &Request, index: usize) -> Result<OnDevice<Session>, String> {
    let graphs = Place::Gpu(Gpu {
        index,
        // What repeats as often as a number says can't be recorded.
        graphs: is_prepared(request),
    });
    let plain = graphs.without_graphs();
    // ONNX Runtime refuses to where a part of it is computed on the CPU.
    let recorded = if graphs == plain {
        None
    } else {
        on(library, request, graphs).ok()
    };
    Ok(match recorded {
        Some(session) => OnDevice::new(session, graphs),
        None => OnDevice::new(on(library, request, plain)?, plain),
    })
}

/// What could be had of GPUs, and why the rest couldn't.
type Had<T> = (Vec<T>, Option<String>);

/// The first `most` that can be had. Fails, with all reasons, where none can.
fn some_of<T>(
    each: impl Iterator<Item = (usize, Result<T, String>)>,
    most: usize,
) -> Result<Had<T>, String> {
    let (mut had, mut reasons) = (Vec::new(), Vec::new());
    for (index, one) in each {
        match one {
            Ok(one) => had.push(one),
            Err(reason) => reasons.push(format!("GPU {index}: {reason}")),
        }
        if had.len() >= most {
            break;
        }
    }
    let reasons = reasons.join("; ");
    if had.is_empty() {
        return Err(reasons);
    }
    if reasons.is_empty() {
        return Ok((had, None));
    }
    tracing::warn!(reasons, "a model computes on fewer GPUs than there are");
    Ok((had, Some(reasons)))
}

/// Whether a GPU may hold so many more copies of the weights. What lies in other files is taken for much.
fn may_copy(request: &Request, copies: usize) -> bool {
    request.beside.is_none() && may_spread(copies, request.length)
}

/// Whether it is prepared for: a guest's own model may be gone soon, and there may be many; another may never end, or take
/// more memory than the shapes of its inputs tell.
fn is_prepared(request: &Request) -> bool {
    request.max_sessions > 1 && request.beside.is_none() && are_steady(&request.bytes)
}

/// A session with one thread.
pub(super) fn on(library: &Library, request: &Request, place: Place) -> Result<Session, String> {
    let provider = match place {
        Place::Cpu => cpu_provider(is_prepared(request)),
        Place::Gpu(gpu) => gpu_provider(gpu, request.gpu_memory),
    };
    let _using = place.using();
    session(&library.environment, request, 1, provider)
}

fn session(
    environment: &Environment,
    request: &Request,
    threads: usize,
    provider: ExecutionProviderDispatch,
) -> Result<Session, String> {
    let make = || -> ort::Result<Session> {
        let mut builder = Session::builder(environment)?
            .with_execution_providers([provider])?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(threads)?
            .with_inter_threads(1)?
            // Spinning threads would take the cores that guests run on.
            .with_intra_op_spinning(false)?
            .with_inter_op_spinning(false)?
            // It keeps a plan for every shape it ever saw, and guests choose the shapes.
            .with_memory_pattern(false)?;
        match &request.beside {
            Some(path) => builder.commit_from_file(path),
            // It has no files beside it. Were it to name some all the same, ONNX Runtime would look for them where the
            // process runs.
            None => builder
                .with_config_entry(
                    "session.model_external_initializers_file_folder_path",
                    NOWHERE,
                )?
                .commit_from_memory(&request.bytes),
        }
    };
    let began = Instant::now();
    // The binding asserts what it believes of ONNX Runtime, and a model can prove it wrong.
    let made = catch_unwind(AssertUnwindSafe(make))
        .map_err(|_| "the ONNX Runtime binding panicked".to_owned())?
        .map_err(|error| sentence(error.message()));
    tracing::debug!(
        millis = began.elapsed().as_secs_f64() * 1e3,
        threads,
        "a session was made"
    );
    made
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
