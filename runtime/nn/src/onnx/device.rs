//! Which device does a model get?

use std::fs;
use std::path::Path;

use ort::ep::{ArenaExtendStrategy, CPU, CUDA, ExecutionProvider, ExecutionProviderDispatch};

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

/// The CPU, named so that ONNX Runtime doesn't choose by itself.
pub(crate) fn cpu_provider() -> ExecutionProviderDispatch {
    CPU::default().build().error_on_failure()
}

/// One GPU. It fails where that can't be had, instead of computing on the CPU.
pub(crate) fn gpu_provider(index: usize, memory: Option<u64>) -> ExecutionProviderDispatch {
    let mut provider = CUDA::default()
        .with_device_id(i32::try_from(index).unwrap_or(i32::MAX))
        // Doubling would take the memory of the other models on the same GPU.
        .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested);
    if let Some(memory) = memory {
        provider = provider.with_memory_limit(usize::try_from(memory).unwrap_or(usize::MAX));
    }
    provider.build().error_on_failure()
}
