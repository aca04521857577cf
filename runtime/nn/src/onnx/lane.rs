//! How is a batch computed?

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use ort::session::{RunOptions, Session, SessionInputValue, SessionInputs};

use super::arena::Arena;
use super::device::{OnDevice, Place};
use super::io;
use crate::backend::{Abort, BackendError, Item, Lane};
use crate::buffer::{Buffer, split};
use crate::{Tensor, TensorInfo, sentence};

/// One session. It computes on the thread that polls it.
pub(crate) struct OnnxLane {
    pub(crate) session: OnDevice<Session>,
    pub(crate) inputs: Arc<[TensorInfo]>,
    pub(crate) outputs: Arc<[TensorInfo]>,
    /// Where the session keeps memory.
    arena: Option<Arena>,
}

impl Lane for OnnxLane {
    fn run<'a>(
        &'a mut self,
        items: &'a [Item],
        abort: &'a Abort,
    ) -> BoxFuture<'a, Result<Vec<Vec<Tensor>>, BackendError>> {
        ready(self.compute(items, abort)).boxed()
    }
}

impl OnnxLane {
    pub(super) fn new(
        session: OnDevice<Session>,
        inputs: Arc<[TensorInfo]>,
        outputs: Arc<[TensorInfo]>,
        keeps_memory: bool,
    ) -> Self {
        Self {
            session,
            inputs,
            outputs,
            arena: keeps_memory.then(Arena::default),
        }
    }

    pub(crate) fn compute(
        &mut self,
        items: &[Item],
        abort: &Abort,
    ) -> Result<Vec<Vec<Tensor>>, BackendError> {
        guarded(|| self.try_compute(items, abort))
    }

    /// Has the session give back the memory that it keeps, after runs of such an `item`.
    pub(super) fn forget(&mut self, item: &Item) {
        let Some(arena) = &mut self.arena else { return };
        *arena = Arena::default();
        let gave_back = guarded(|| {
            let inputs = inputs(std::slice::from_ref(item), self.inputs.len())?;
            self.give_back(&inputs)
        });
        if let Err(BackendError(error)) = gave_back {
            tracing::debug!(error, "a session keeps the memory that it has");
        }
    }

    /// Has the session give back the memory that it keeps: at the end of another run, which ends at once. Of the run before,
    /// outputs still lay in it.
    fn give_back(&mut self, inputs: &[Input<'_>]) -> Result<(), BackendError> {
        let mut options = RunOptions::new().map_err(told)?;
        // `kOrtRunOptionsConfigEnableMemoryArenaShrinkage` in ONNX Runtime's headers.
        let set = options.set("memory.enable_memory_arena_shrinkage", "cpu:0");
        set.map_err(told)?;
        options.terminate().map_err(told)?;
        let lent = lent(&self.inputs, inputs)?;
        let ended = self
            .session
            .run_with_options(SessionInputs::<0>::ValueMap(lent), &options);
        // That it was ended is an error.
        drop(ended);
        Ok(())
    }

    fn try_compute(
        &mut self,
        items: &[Item],
        abort: &Abort,
    ) -> Result<Vec<Vec<Tensor>>, BackendError> {
        let inputs = inputs(items, self.inputs.len())?;
        let bytes = inputs.iter().map(|input| input.bytes().len() as u64).sum();
        let arena = self.arena.as_mut();
        let gives_back = arena.is_some_and(|arena| arena.begins(bytes));
        let answers = self.answer(items, &inputs, abort);
        // Also where it failed, or nobody waited for its end: nothing smaller would have it given back.
        if gives_back && let Err(BackendError(error)) = self.give_back(&inputs) {
            tracing::warn!(error, "a session keeps the memory that a large call took");
        }
        answers
    }

    fn answer(
        &mut self,
        items: &[Item],
        inputs: &[Input<'_>],
        abort: &Abort,
    ) -> Result<Vec<Vec<Tensor>>, BackendError> {
        let place = self.session.place;
        let options = run_options(place, None, abort)?;
        let lent = lent(&self.inputs, inputs)?;
        let _using = place.using();
        let values = self
            .session
            .run_with_options(SessionInputs::<0>::ValueMap(lent), &options)
            .map_err(told)?;

        let rows: Vec<u64> = items.iter().map(|item| item.rows).collect();
        let mut answers: Vec<Vec<Tensor>> = items
            .iter()
            .map(|_| Vec::with_capacity(self.outputs.len()))
            .collect();
        for info in self.outputs.iter() {
            let missing = || BackendError(format!("output `{}` was not computed", info.name));
            let value = values.get(&info.name).ok_or_else(missing)?;
            let (dtype, shape, bytes) = io::read(&info.name, value)?;
            for (answer, part) in answers
                .iter_mut()
                .zip(split(&info.name, dtype, &shape, bytes, &rows)?)
            {
                answer.push(part);
            }
        }
        Ok(answers)
    }
}

/// The `count` inputs of all items.
fn inputs(items: &[Item], count: usize) -> Result<Vec<Input<'_>>, BackendError> {
    (0..count).map(|index| Input::of(items, index)).collect()
}

/// What a session is given: names, and tensors on inputs' own bytes.
type Lent<'a> = Vec<(Cow<'a, str>, SessionInputValue<'a>)>;

fn lent<'a>(infos: &'a [TensorInfo], inputs: &'a [Input<'_>]) -> Result<Lent<'a>, BackendError> {
    let lend = |(info, input): (&'a TensorInfo, &'a Input<'_>)| {
        let value =
            io::lend(info.dtype, &input.shape, input.bytes()).map_err(|BackendError(error)| {
                BackendError(format!("input `{}`: {error}", info.name))
            })?;
        Ok((Cow::Borrowed(info.name.as_str()), value))
    };
    infos.iter().zip(inputs).map(lend).collect()
}

/// The binding asserts what it believes of ONNX Runtime. Where it is wrong, one call fails, not the model.
pub(super) fn guarded<T>(
    compute: impl FnOnce() -> Result<T, BackendError>,
) -> Result<T, BackendError> {
    catch_unwind(AssertUnwindSafe(compute))
        .unwrap_or_else(|_| Err(BackendError("the ONNX Runtime binding panicked".to_owned())))
}

/// The rows of all items.
pub(super) fn rows(items: &[Item]) -> u64 {
    items
        .iter()
        .fold(0, |rows, item| rows.saturating_add(item.rows))
}

/// One input of all items: a single caller's own bytes, or a copy of several callers'.
struct Input<'a> {
    shape: Vec<i64>,
    own: &'a [u8],
    copy: Option<Buffer>,
}

impl<'a> Input<'a> {
    fn of(items: &'a [Item], index: usize) -> Result<Self, BackendError> {
        let tensors: Vec<&Tensor> = items
            .iter()
            .filter_map(|item| item.inputs.get(index))
            .collect();
        let Some(first) = tensors.first() else {
            return Err(BackendError("a batch is empty".to_owned()));
        };
        let mut shape = first.shape().to_vec();
        if let (Some(dim), true) = (shape.first_mut(), tensors.len() > 1) {
            *dim = rows(items);
        }
        let shape = shape
            .into_iter()
            .map(i64::try_from)
            .collect::<Result<_, _>>();
        let shape =
            shape.map_err(|_| BackendError(format!("{first} has a dimension above 2^63")))?;
        let own = if tensors.len() == 1 {
            first.data().as_ref()
        } else {
            &[]
        };
        let lendable = tensors.len() == 1 && io::is_aligned(first.dtype(), own);
        let copy = (!lendable)
            .then(|| Buffer::concat(tensors.iter().map(|tensor| tensor.data().as_ref())));
        Ok(Self { shape, own, copy })
    }

    fn bytes(&self) -> &[u8] {
        self.copy.as_ref().map_or(self.own, Buffer::bytes)
    }
}

/// For one run, which ends where nobody waits for it any more. `graph` is the number of the CUDA graph that it is recorded
/// as, or that is launched.
pub(super) fn run_options(
    place: Place,
    graph: Option<u64>,
    abort: &Abort,
) -> Result<Arc<RunOptions>, BackendError> {
    let mut options = RunOptions::new().map_err(told)?;
    if place.has_graphs() {
        // -1 is for a run that isn't recorded: `kOrtRunOptionsConfigCudaGraphAnnotation` in ONNX Runtime's headers.
        let graph = graph.map_or_else(|| "-1".to_owned(), |graph| graph.to_string());
        options.set("gpu_graph_id", graph).map_err(told)?;
    }
    let options = Arc::new(options);
    let running = Arc::clone(&options);
    abort.on_abort(move || {
        // It ends between two operators. Where it can't be told, its result is dropped.
        let _ = running.terminate();
    });
    Ok(options)
}

#[expect(clippy::needless_pass_by_value, reason = "map_err passes it by value")]
pub(super) fn told(error: ort::Error) -> BackendError {
    BackendError(sentence(error.message()))
}
