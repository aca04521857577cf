//! Which device does a model get?

use std::fs;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use ort::ep::cuda::ConvAlgorithmSearch;
use ort::ep::{ArenaExtendStrategy, CPU, CUDA, ExecutionProvider, ExecutionProviderDispatch};

/// Where a session computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Cpu,
    Gpu(Gpu),
}

/// One of the GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gpu {
    pub(crate) index: usize,
    /// Whether what is computed may be recorded as a CUDA graph, and then be launched as one piece.
    pub(crate) graphs: bool,
}

impl Gpu {
    /// As CUDA counts them.
    pub(crate) fn number(self) -> i32 {
        i32::try_from(self.index).unwrap_or(i32::MAX)
    }
}

impl Place {
    pub(crate) fn is_gpu(self) -> bool {
        matches!(self, Self::Gpu(_))
    }

    /// Whether ONNX Runtime must be told of a run whether to record it.
    pub(crate) fn has_graphs(self) -> bool {
        matches!(self, Self::Gpu(Gpu { graphs: true, .. }))
    }

    /// The same without CUDA graphs.
    pub(crate) fn without_graphs(self) -> Self {
        match self {
            Self::Cpu => Self::Cpu,
            Self::Gpu(gpu) => Self::Gpu(Gpu {
                graphs: false,
                ..gpu
            }),
        }
    }

    /// Whoever uses a GPU holds this meanwhile; on the CPU there is nothing to hold.
    pub(crate) fn using(self) -> Option<RwLockReadGuard<'static, ()>> {
        let lock = || RECORDING.read().unwrap_or_else(PoisonError::into_inner);
        self.is_gpu().then(lock)
    }
}

/// While a thread records a CUDA graph, no other may allocate, free or wait for the GPU: the driver would break the
/// recording off (`cudaStreamCaptureModeGlobal`, which ONNX Runtime asks for).
static RECORDING: RwLock<()> = RwLock::new(());

/// Whoever records a CUDA graph holds this meanwhile.
pub(crate) fn recording() -> RwLockWriteGuard<'static, ()> {
    RECORDING.write().unwrap_or_else(PoisonError::into_inner)
}

/// What has memory where it computes, which is given back while nobody records.
pub(crate) struct OnDevice<T> {
    held: ManuallyDrop<T>,
    pub(crate) place: Place,
}

impl<T> OnDevice<T> {
    pub(crate) fn new(held: T, place: Place) -> Self {
        Self {
            held: ManuallyDrop::new(held),
            place,
        }
    }
}

impl<T> Deref for OnDevice<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.held
    }
}

impl<T> DerefMut for OnDevice<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.held
    }
}

impl<T> Drop for OnDevice<T> {
    #[expect(unsafe_code, reason = "it must be dropped before the lock is let go")]
    fn drop(&mut self) {
        let _using = self.place.using();
        // SAFETY: this is the only place where it is dropped, and it is never used again.
        unsafe { ManuallyDrop::drop(&mut self.held) };
    }
}

/// GPUs that this process sees: one at least, so that asking for the first tells why it can't be had.
pub(crate) fn gpus() -> usize {
    let nodes = fs::read_dir("/dev")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            name.to_str()
                .and_then(|name| name.strip_prefix("nvidia"))
                .is_some_and(|rest| rest.parse::<u32>().is_ok())
        });
    let visible = std::env::var("CUDA_VISIBLE_DEVICES")
        .ok()
        .map(|list| list.split(',').count());
    nodes.count().min(visible.unwrap_or(usize::MAX)).max(1)
}

/// The name of the GPU, as its driver has it.
pub(crate) fn gpu_name() -> Option<String> {
    let folder = fs::read_dir("/proc/driver/nvidia/gpus")
        .ok()?
        .flatten()
        .next()?;
    let information = fs::read_to_string(folder.path().join("information")).ok()?;
    let line = information
        .lines()
        .find_map(|line| line.strip_prefix("Model:"))?;
    Some(line.trim().to_owned())
}

/// Whether a GPU is worth trying, or why not.
pub(crate) fn gpu_hope() -> Result<(), String> {
    match CUDA::is_available() {
        Ok(true) => {}
        Ok(false) => return Err("this ONNX Runtime is built without CUDA".to_owned()),
        Err(error) => return Err(error.to_string()),
    }
    if Path::new("/dev/nvidiactl").exists() || Path::new("/dev/dxg").exists() {
        Ok(())
    } else {
        Err("there is no NVIDIA device here (/dev/nvidiactl)".to_owned())
    }
}

/// The CPU, named so that ONNX Runtime doesn't choose by itself. Whether a session keeps the memory of a run for the next:
/// see `arena.rs`.
pub(crate) fn cpu_provider(keeps_memory: bool) -> ExecutionProviderDispatch {
    CPU::default()
        .with_arena_allocator(keeps_memory)
        .build()
        .error_on_failure()
}

/// One GPU. It fails where that can't be had, instead of computing on the CPU.
pub(crate) fn gpu_provider(gpu: Gpu, memory: Option<u64>) -> ExecutionProviderDispatch {
    let mut provider = CUDA::default()
        .with_device_id(gpu.number())
        .with_cuda_graph(gpu.graphs)
        // cuDNN says which algorithm is the fastest, and it is right: to try them all takes ten times as long to begin
        // with, and a batch of EfficientNet then as long as with these.
        .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic)
        // Doubling would take the memory of the other models on the same GPU.
        .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested);
    if let Some(memory) = memory {
        provider = provider.with_memory_limit(usize::try_from(memory).unwrap_or(usize::MAX));
    }
    provider.build().error_on_failure()
}
