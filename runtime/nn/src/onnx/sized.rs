//! How is a batch computed where another size costs time to prepare?
//!
//! On a GPU it does: ONNX Runtime plans each convolution anew where a batch has another size than the one before, which
//! takes EfficientNet 60 to 900 ms, for 1 to 3 ms of computing. So batches are filled up to one of a few sizes, each with
//! buffers of its own, and what is computed with these is recorded as a CUDA graph, which is then launched as one piece:
//! <https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html#using-cuda-graphs-preview>. Where that can't
//! be, each size gets a session, unless the model is large. Only models whose operators take as long whatever their numbers are
//! are prepared so.

use std::time::Instant;

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, Session};
use ort::value::DynTensor;

use super::device::{OnDevice, Place, recording};
use super::io;
use super::lane::{OnnxLane, guarded, rows, run_options, told};
use super::plan;
use super::probe::{alike, made_up};
use crate::backend::{Abort, BackendError, Item, Lane};
use crate::buffer::{Buffer, split};
use crate::{DType, Tensor, TensorInfo, byte_len};

/// The most bytes of a row, inputs and outputs together: larger ones take so long that nothing is gained.
const LARGEST: u64 = 64 << 20;

/// Makes one more session of the same model.
pub(crate) type MakeSession = Box<dyn Fn(Place) -> Result<Session, String> + Send>;

/// A model whose batches have few sizes.
pub(crate) struct SizedLane {
    /// In the order of their sizes; none until they are made. They go before what they were made of.
    seats: Vec<OnDevice<Seat>>,
    /// Computes what has none of the sizes.
    whole: OnnxLane,
    sizes: Sizes,
    may_copy: bool,
    make: MakeSession,
}

/// Which sizes there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sizes {
    /// The one that the model says.
    Fixed,
    /// So many rows, the fewest first: items may be joined.
    Rows(Vec<u64>),
}

impl Sizes {
    /// How many.
    pub(crate) fn count(&self) -> usize {
        match self {
            Self::Fixed => 1,
            Self::Rows(rows) => rows.len(),
        }
    }
}

impl SizedLane {
    /// Without graphs, each size gets a session if the weights may be copied so often.
    pub(crate) fn new(whole: OnnxLane, sizes: Sizes, may_copy: bool, make: MakeSession) -> Self {
        Self {
            seats: Vec::new(),
            whole,
            sizes,
            may_copy,
            make,
        }
    }

    /// Seats for all sizes. Where they aren't recorded, each has a session of its own.
    fn take_seats(&mut self, place: Place) -> Result<(), BackendError> {
        let began = Instant::now();
        let sizes = match &self.sizes {
            Sizes::Fixed => vec![None],
            Sizes::Rows(sizes) => sizes.iter().copied().map(Some).collect(),
        };
        for rows in sizes {
            let own = if place.has_graphs() {
                None
            } else {
                Some((self.make)(place).map_err(BackendError)?)
            };
            let mut seat = OnDevice::new(Seat::new(own, place, rows, &self.whole)?, place);
            seat.fill(&[])?;
            // It plans first, which takes a while; nobody else may use the GPU while something is recorded.
            seat.run(&mut self.whole.session, None, &Abort::new(1))?;
            if let Some(graph) = seat.graph() {
                let _recording = recording();
                seat.launch(&mut self.whole.session, Some(graph), &Abort::new(1))?;
            }
            for seed in [1, 2] {
                self.try_seat(&mut seat, seed)?;
            }
            self.seats.push(seat);
        }
        tracing::debug!(
            millis = began.elapsed().as_secs_f64() * 1e3,
            recorded = place.has_graphs(),
            sizes = ?self.sizes,
            "a model is prepared for the sizes of its batches"
        );
        Ok(())
    }

    /// Whether a seat computes what the session does without it. It doesn't where what is taken of an input before, or while
    /// something is recorded, counts from then on: numbers that ONNX Runtime wants in the host's memory, say.
    fn try_seat(&mut self, seat: &mut Seat, seed: u64) -> Result<(), BackendError> {
        let rows = seat.rows.unwrap_or(1);
        let inputs = self.whole.inputs.iter().map(|info| {
            let rows = info.dims.first().copied().flatten().unwrap_or(rows);
            made_up(info, rows, 1, seed)
        });
        let inputs: Option<Vec<Tensor>> = inputs.collect();
        let inputs =
            inputs.ok_or_else(|| BackendError("it is too large to be tried".to_owned()))?;
        let items = [Item { inputs, rows }];
        let abort = Abort::new(1);
        let found = seat.compute(&mut self.whole, &items, &abort)?;
        let expected = self.whole.compute(&items, &abort)?;
        let mut both = found.iter().flatten().zip(expected.iter().flatten());
        if both.all(|(found, expected)| alike(found, expected)) {
            Ok(())
        } else {
            Err(BackendError(
                "its outputs are others than those of a call that is alone".to_owned(),
            ))
        }
    }

    fn try_compute(
        &mut self,
        items: &[Item],
        abort: &Abort,
    ) -> Result<Vec<Vec<Tensor>>, BackendError> {
        let mut answers = Vec::with_capacity(items.len());
        let mut rest = items;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.first_group(rest));
            rest = later;
            answers.extend(self.compute_group(now, abort)?);
        }
        Ok(answers)
    }

    /// How many items are computed together, of the first: as many as fit the largest size.
    fn first_group(&self, items: &[Item]) -> usize {
        let Sizes::Rows(sizes) = &self.sizes else {
            return 1;
        };
        let most = sizes.last().copied().unwrap_or(0);
        let mut rows = 0_u64;
        let fit = |item: &&Item| {
            rows = rows.saturating_add(item.rows);
            rows <= most
        };
        items.iter().take_while(fit).count().max(1)
    }

    fn compute_group(
        &mut self,
        items: &[Item],
        abort: &Abort,
    ) -> Result<Vec<Vec<Tensor>>, BackendError> {
        let rows = rows(items);
        let seat = self.seats.iter_mut().find(|seat| match seat.rows {
            None => true,
            Some(size) => rows > 0 && rows <= size && items.iter().all(has_rows),
        });
        let seat = seat.filter(|seat| items.iter().all(|item| seat.has_shapes_of(item)));
        let Some(seat) = seat else {
            return self.whole.compute(items, abort);
        };
        seat.compute(&mut self.whole, items, abort)
    }
}

/// Whether all inputs have the rows that the item says.
fn has_rows(item: &Item) -> bool {
    let mut inputs = item.inputs.iter();
    inputs.all(|input| input.shape().first() == Some(&item.rows))
}

impl Lane for SizedLane {
    fn prepares(&self) -> bool {
        true
    }

    /// On the thread that computes, because ONNX Runtime keeps a recorded graph for the thread that recorded it.
    fn prepare(&mut self) {
        let wanted = self.whole.session.place;
        let plain = wanted.without_graphs();
        let recorded = wanted.has_graphs().then_some(wanted);
        for place in recorded.into_iter().chain(self.may_copy.then_some(plain)) {
            let Err(BackendError(reason)) = guarded(|| self.take_seats(place)) else {
                return;
            };
            self.seats.clear();
            tracing::warn!(
                reason,
                recorded = place.has_graphs(),
                "a model is not prepared for the sizes of its batches"
            );
            if !place.has_graphs() {
                continue;
            }
            // A session that failed to record something may compute nothing else either.
            match (self.make)(plain) {
                Ok(session) => self.whole.session = OnDevice::new(session, plain),
                Err(reason) => tracing::error!(reason, "a model's session can't be made anew"),
            }
        }
    }

    fn run<'a>(
        &'a mut self,
        items: &'a [Item],
        abort: &'a Abort,
    ) -> BoxFuture<'a, Result<Vec<Vec<Tensor>>, BackendError>> {
        ready(guarded(|| self.try_compute(items, abort))).boxed()
    }
}

/// Buffers for batches of one size, and what computes with them.
struct Seat {
    /// `None` where the model says it.
    rows: Option<u64>,
    place: Place,
    /// `None` where it is the lane's.
    own: Option<Session>,
    binding: IoBinding,
    inputs: Vec<Outlet>,
    outputs: Vec<Outlet>,
}

/// A tensor that stays where it is.
struct Outlet {
    host: DynTensor,
    /// `None` where the session takes it from the host's memory.
    device: Option<DynTensor>,
    dtype: DType,
    shape: Vec<u64>,
}

impl Seat {
    /// Allocates the buffers, and binds them to `own`, or to the lane's session.
    fn new(
        own: Option<Session>,
        place: Place,
        rows: Option<u64>,
        lane: &OnnxLane,
    ) -> Result<Self, BackendError> {
        let _using = place.using();
        Self::bound(own, place, rows, lane)
    }

    /// Its own session, where this fails, goes while the lock is held.
    fn bound(
        own: Option<Session>,
        place: Place,
        rows: Option<u64>,
        lane: &OnnxLane,
    ) -> Result<Self, BackendError> {
        let session = own.as_ref().unwrap_or(&lane.session);
        let memory = Memory::of(session, place).map_err(told)?;
        let outlets = |infos: &[TensorInfo], host| -> Result<Vec<Outlet>, BackendError> {
            let outlet = |info| Outlet::new(info, rows, host, memory.device.as_ref());
            infos.iter().map(outlet).collect()
        };
        let inputs = outlets(&lane.inputs, &memory.inputs)?;
        let mut outputs = outlets(&lane.outputs, &memory.outputs)?;
        let mut binding = session.create_binding().map_err(told)?;
        for (info, input) in lane.inputs.iter().zip(&inputs) {
            let bound = input.device.as_ref().unwrap_or(&input.host);
            binding
                .bind_input(info.name.as_str(), bound)
                .map_err(told)?;
        }
        for (info, output) in lane.outputs.iter().zip(&mut outputs) {
            let Outlet { host, device, .. } = output;
            let bound = device.as_mut().unwrap_or(host);
            binding
                .bind_output(info.name.as_str(), bound)
                .map_err(told)?;
        }
        Ok(Self {
            rows,
            place,
            own,
            binding,
            inputs,
            outputs,
        })
    }

    /// Whether its inputs have an item's shapes, but for the rows where it may be filled up. They don't where the model
    /// doesn't say how many dimensions there are, which then look like none.
    fn has_shapes_of(&self, item: &Item) -> bool {
        let first = usize::from(self.rows.is_some());
        let mut both = self.inputs.iter().zip(&item.inputs);
        both.all(|(outlet, input)| {
            let (seat, item) = (outlet.shape.iter(), input.shape().iter());
            seat.skip(first).eq(item.skip(first))
        })
    }

    /// The number of its CUDA graph.
    fn graph(&self) -> Option<u64> {
        self.place.has_graphs().then(|| self.rows.unwrap_or(1))
    }

    /// The outputs of each item; no more of them than there is room for.
    fn compute(
        &mut self,
        lane: &mut OnnxLane,
        items: &[Item],
        abort: &Abort,
    ) -> Result<Vec<Vec<Tensor>>, BackendError> {
        self.fill(items)?;
        self.run(&mut lane.session, self.graph(), abort)?;
        self.fetch()?;
        self.read(&lane.outputs, items)
    }

    /// Brings the inputs of all items to where they are computed, with zeros for the rows that are missing.
    fn fill(&mut self, items: &[Item]) -> Result<(), BackendError> {
        for (index, outlet) in self.inputs.iter_mut().enumerate() {
            let parts = items.iter().map(|item| {
                let tensor = item.inputs.get(index);
                let tensor =
                    tensor.ok_or_else(|| BackendError(format!("input {index} is missing")))?;
                Ok(tensor.data().as_ref())
            });
            let parts = parts.collect::<Result<Vec<&[u8]>, BackendError>>()?;
            let dtype = outlet.dtype;
            if parts.iter().all(|part| io::is_aligned(dtype, part)) {
                io::fill(&mut outlet.host, dtype, parts.into_iter())?;
            } else {
                let aligned = Buffer::concat(parts.into_iter());
                io::fill(&mut outlet.host, dtype, std::iter::once(aligned.bytes()))?;
            }
            if let Some(device) = &mut outlet.device {
                let _using = self.place.using();
                outlet.host.copy_into(device).map_err(told)?;
            }
        }
        Ok(())
    }

    /// Computes what was filled in, while nobody records.
    fn run(
        &mut self,
        lanes: &mut Session,
        graph: Option<u64>,
        abort: &Abort,
    ) -> Result<(), BackendError> {
        let _using = self.place.using();
        self.launch(lanes, graph, abort)
    }

    /// Computes what was filled in: as the graph of this number, which the first time records it.
    fn launch(
        &mut self,
        lanes: &mut Session,
        graph: Option<u64>,
        abort: &Abort,
    ) -> Result<(), BackendError> {
        let options = run_options(self.place, graph, abort)?;
        let session = self.own.as_mut().unwrap_or(lanes);
        let run = session.run_binding_with_options(&self.binding, &options);
        run.map(drop).map_err(told)
    }

    /// Brings the outputs to the host's memory.
    fn fetch(&mut self) -> Result<(), BackendError> {
        let _using = self.place.using();
        for output in &mut self.outputs {
            if let Some(device) = &output.device {
                device.copy_into(&mut output.host).map_err(told)?;
            }
        }
        Ok(())
    }

    /// The outputs of each item.
    fn read(&self, infos: &[TensorInfo], items: &[Item]) -> Result<Vec<Vec<Tensor>>, BackendError> {
        let used = rows(items);
        let rows: Vec<u64> = items.iter().map(|item| item.rows).collect();
        let mut answers: Vec<Vec<Tensor>> = Vec::new();
        answers.resize_with(items.len(), || Vec::with_capacity(infos.len()));
        for (info, outlet) in infos.iter().zip(&self.outputs) {
            let dtype = outlet.dtype;
            let mut bytes = io::bytes(&outlet.host, dtype)?;
            let mut shape = outlet.shape.clone();
            if let (Some(rows), Some(dim)) = (self.rows, shape.first_mut()) {
                *dim = used;
                let row = bytes.len() as u64 / rows.max(1);
                let len = usize::try_from(row.saturating_mul(used)).unwrap_or(usize::MAX);
                bytes = bytes.get(..len).unwrap_or(bytes);
            }
            let parts = split(&info.name, dtype, &shape, bytes, &rows)?;
            for (answer, part) in answers.iter_mut().zip(parts) {
                answer.push(part);
            }
        }
        Ok(answers)
    }
}

impl Outlet {
    fn new(
        info: &TensorInfo,
        rows: Option<u64>,
        host: &Allocator,
        device: Option<&Allocator>,
    ) -> Result<Self, BackendError> {
        let shape = shape(info, rows)
            .ok_or_else(|| BackendError(format!("`{info}` has no size of its own")))?;
        let dims = shape.iter().map(|dim| i64::try_from(*dim));
        let dims = dims
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| BackendError(format!("`{info}` has a dimension above 2^63")))?;
        let allocate = |allocator| io::allocate(allocator, info.dtype, &dims).map_err(told);
        Ok(Self {
            host: allocate(host)?,
            device: device.map(allocate).transpose()?,
            dtype: info.dtype,
            shape,
        })
    }
}

/// The shape of a tensor with so many rows, where the model leaves that open; `None` where it leaves more open.
fn shape(info: &TensorInfo, rows: Option<u64>) -> Option<Vec<u64>> {
    let dims = info.dims.iter().enumerate();
    dims.map(|(index, dim)| dim.or(rows.filter(|_| index == 0)))
        .collect()
}

/// The sizes to prepare for, where there are few; joined items come up to `max_rows`.
pub(crate) fn sizes(
    inputs: &[TensorInfo],
    outputs: &[TensorInfo],
    max_rows: Option<u64>,
) -> Option<Sizes> {
    let rows = max_rows.map(|_| 1);
    let mut bytes = 0_u64;
    for info in inputs.iter().chain(outputs) {
        let len = byte_len(info.dtype, &shape(info, rows)?).ok()?;
        // There is nothing to compute, or not to be copied in one piece.
        if len == 0 {
            return None;
        }
        bytes = bytes.saturating_add(len);
    }
    if bytes > LARGEST {
        return None;
    }
    Some(match max_rows {
        Some(max_rows) => Sizes::Rows(plan::sizes(max_rows, bytes)),
        None => Sizes::Fixed,
    })
}

/// Where a seat's tensors are.
struct Memory {
    /// The GPU reads it by itself, at the full speed of its bus.
    inputs: Allocator,
    /// No such memory: ONNX Runtime takes that for the GPU's own, and copies nothing to there.
    outputs: Allocator,
    device: Option<Allocator>,
}

impl Memory {
    fn of(session: &Session, place: Place) -> ort::Result<Self> {
        let allocator = |device, kind| {
            let Place::Gpu(gpu) = place else {
                return Ok(None);
            };
            let info = MemoryInfo::new(device, gpu.number(), AllocatorType::Device, kind)?;
            Allocator::new(session, info).map(Some)
        };
        let pinned = allocator(AllocationDevice::CUDA_PINNED, MemoryType::CPUInput)?;
        Ok(Self {
            inputs: pinned.unwrap_or_default(),
            outputs: Allocator::default(),
            device: allocator(AllocationDevice::CUDA, MemoryType::Default)?,
        })
    }
}

#[cfg(test)]
mod tests;
