//! How is a session made?

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use ort::environment::Environment;
use ort::ep::ExecutionProviderDispatch;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;

use super::{Refusal, Request};
use crate::onnx::device::{Gpu, OnDevice, Place, cpu_provider, gpu_hope, gpu_provider, gpus};
use crate::onnx::library::Library;
use crate::onnx::operators::are_steady;
use crate::sentence;

/// A folder that there can't be.
const NOWHERE: &str = "/dev/null/nowhere";

/// With so many threads.
pub(super) fn on_cpu(
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

/// One session on each GPU that can be had, and why the others can't.
pub(super) fn on_gpus(
    library: &Library,
    request: &Request,
) -> Result<Had<OnDevice<Session>>, String> {
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
pub(super) type Had<T> = (Vec<T>, Option<String>);

/// The first `most` that can be had. Fails, with all reasons, where none can.
pub(super) fn some_of<T>(
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

/// Whether it is prepared for: a guest's own model may be gone soon, and there may be many; another may never end, or take
/// more memory than the shapes of its inputs tell.
pub(super) fn is_prepared(request: &Request) -> bool {
    request.max_sessions > 1 && request.beside.is_none() && are_steady(&request.bytes)
}

/// A session with one thread.
pub(in crate::onnx) fn on(
    library: &Library,
    request: &Request,
    place: Place,
) -> Result<Session, String> {
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
