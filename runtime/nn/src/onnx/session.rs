//! How is a model loaded?

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ort::environment::Environment;
use ort::ep::ExecutionProviderDispatch;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use wisp_contract::config::{Device, Trial};

use super::device::{cpu_provider, gpu_hope, gpu_name, gpu_provider, gpus};
use super::io::describe;
use super::lane::OnnxLane;
use super::library::Library;
use super::plan::{Plan, pays, plan};
use super::probe::{Verdict, probe};
use crate::TensorInfo;
use crate::backend::{Lane, Loaded};

/// What to load.
pub(crate) struct Request<'a> {
    /// The model, or its beginning, where it is read from `beside`.
    pub(crate) bytes: &'a [u8],
    /// How many bytes it has.
    pub(crate) length: u64,
    /// Where it is read from, if it is large or some of its numbers lie in files beside it.
    pub(crate) beside: Option<&'a Path>,
    pub(crate) device: Device,
    /// Whether calls should be joined if they may be.
    pub(crate) join: bool,
    pub(crate) cores: NonZeroUsize,
    /// Device memory of one model on one GPU, in bytes.
    pub(crate) gpu_memory: Option<u64>,
    /// No more sessions than this.
    pub(crate) max_sessions: usize,
    /// What it showed before, on a CPU.
    pub(crate) trial: Option<Trial>,
}

/// Why a model was not loaded.
pub(crate) enum Refusal {
    /// ONNX Runtime says why.
    Model(String),
    /// It asked for a GPU, and there is none to be had.
    Gpu(String),
}

/// Loads a model onto the device it asks for, and never onto another.
pub(crate) fn load(library: &Library, request: &Request<'_>) -> Result<Loaded, Refusal> {
    let (sessions, device, device_reason) = match request.device {
        Device::Cpu => (vec![on_cpu(library, request, None)?], Place::Cpu, None),
        Device::Gpu => (
            on_gpus(library, request).map_err(Refusal::Gpu)?,
            Place::Gpu,
            None,
        ),
        Device::Auto => match on_gpus(library, request) {
            Ok(sessions) => (sessions, Place::Gpu, None),
            Err(reason) => (
                vec![on_cpu(library, request, None)?],
                Place::Cpu,
                Some(reason),
            ),
        },
    };
    let Some(first) = sessions.first() else {
        return Err(Refusal::Model("no session was made".to_owned()));
    };
    let (inputs, input_names) =
        describe_all(first.inputs()).map_err(|what| Refusal::Model(format!("its input {what}")))?;
    let (outputs, output_names) = describe_all(first.outputs())
        .map_err(|what| Refusal::Model(format!("its output {what}")))?;
    let mut lanes: Vec<OnnxLane> = sessions
        .into_iter()
        .map(|session| OnnxLane {
            session,
            inputs: Arc::clone(&inputs),
            outputs: Arc::clone(&outputs),
        })
        .collect();

    let mut joinable = looks_joinable(&inputs, &outputs);
    let mut trial = None;
    if let (Ok(()), Place::Cpu, Some(known)) = (&joinable, &device, &request.trial) {
        trial = Some(known.clone());
        joinable = match known {
            Trial::Joined => Ok(()),
            Trial::Alone(why) => Err(why.clone()),
        };
    } else if let (Ok(()), true, Some(lane)) = (&joinable, request.join, lanes.first_mut()) {
        joinable = match probe(lane) {
            // A GPU computes a batch in little more than the time of a row.
            Verdict::Independent(_) if matches!(device, Place::Gpu) => Ok(()),
            Verdict::Independent(pace) => {
                let alone = plan(request.cores, false, request.length)
                    .sessions
                    .min(request.max_sessions);
                pays(pace, alone)
            }
            Verdict::Dependent(why) => Err(format!("dimension 0 is no batch: {why}")),
            Verdict::Unknown => same_name(&input_names, &output_names),
        };
        if let Place::Cpu = device {
            trial = Some(match &joinable {
                Ok(()) => Trial::Joined,
                Err(why) => Trial::Alone(why.clone()),
            });
        }
    }
    if let Place::Cpu = device {
        // The first session was made as if its calls were joined; only now is that known.
        let plan = plan(
            request.cores,
            request.join && joinable.is_ok(),
            request.length,
        );
        if plan.threads != first_plan(request).threads {
            lanes.clear();
        }
        for _ in lanes.len()..plan.sessions.min(request.max_sessions) {
            let session = on_cpu(library, request, Some(plan))?;
            lanes.push(OnnxLane {
                session,
                inputs: Arc::clone(&inputs),
                outputs: Arc::clone(&outputs),
            });
        }
    }
    Ok(Loaded {
        backend: library.name.clone(),
        device: match device {
            Place::Cpu => "cpu".to_owned(),
            Place::Gpu => {
                gpu_name().map_or_else(|| "gpu".to_owned(), |name| format!("gpu ({name})"))
            }
        },
        device_reason,
        inputs: inputs.to_vec(),
        outputs: outputs.to_vec(),
        joinable,
        trial,
        lanes: lanes
            .into_iter()
            .map(|lane| -> Box<dyn Lane> { Box::new(lane) })
            .collect(),
    })
}

enum Place {
    Cpu,
    Gpu,
}

/// The plan of the session that is made first, to ask the model what it is.
fn first_plan(request: &Request<'_>) -> Plan {
    let joined = !matches!(request.trial, Some(Trial::Alone(_)));
    plan(request.cores, joined, request.length)
}

fn on_cpu(
    library: &Library,
    request: &Request<'_>,
    plan: Option<Plan>,
) -> Result<Session, Refusal> {
    let threads = plan.unwrap_or_else(|| first_plan(request)).threads;
    session(&library.environment, request, threads, cpu_provider()).map_err(Refusal::Model)
}

/// One session on each GPU.
fn on_gpus(library: &Library, request: &Request<'_>) -> Result<Vec<Session>, String> {
    gpu_hope()?;
    let provider = |index| gpu_provider(index, request.gpu_memory);
    (0..gpus().min(request.max_sessions))
        .map(|index| session(&library.environment, request, 1, provider(index)))
        .collect()
}

fn session(
    environment: &Environment,
    request: &Request<'_>,
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
        match request.beside {
            Some(path) => builder.commit_from_file(path),
            None => builder.commit_from_memory(request.bytes),
        }
    };
    let began = Instant::now();
    // The binding asserts what it believes of ONNX Runtime, and a model can prove it wrong.
    let made = catch_unwind(AssertUnwindSafe(make))
        .map_err(|_| "the ONNX Runtime binding panicked".to_owned())?
        .map_err(|error| error.message().to_owned());
    tracing::debug!(
        millis = began.elapsed().as_secs_f64() * 1e3,
        threads,
        "a session was made"
    );
    made
}

type Described = (Arc<[TensorInfo]>, Vec<Option<String>>);

fn describe_all(outlets: &[ort::value::Outlet]) -> Result<Described, String> {
    let described = outlets
        .iter()
        .map(describe)
        .collect::<Result<Vec<_>, _>>()?;
    let (infos, names): (Vec<_>, Vec<_>) = described.into_iter().unzip();
    Ok((infos.into(), names))
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

/// Whether the model gives dimension 0 one name everywhere, which is what exporters do with a batch.
fn same_name(inputs: &[Option<String>], outputs: &[Option<String>]) -> Result<(), String> {
    let first = inputs.first().and_then(Option::as_ref);
    if first.is_some()
        && inputs
            .iter()
            .chain(outputs)
            .all(|name| name.as_ref() == first)
    {
        Ok(())
    } else {
        Err(
            "it could not be tried with made-up inputs, and dimension 0 has no common name"
                .to_owned(),
        )
    }
}
