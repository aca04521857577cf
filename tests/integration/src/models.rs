//! Models, and what computes them.

use std::path::{Path, PathBuf};

use wisp_contract::config::{Batching, Device, Model, ModelFormat};

use crate::readme::repository;

/// ONNX Runtime's library, where `cargo xtask` put it. Without it there is nothing to test, which CI doesn't accept.
///
/// # Panics
/// When it is missing and this is CI.
#[must_use]
pub fn onnxruntime() -> Option<PathBuf> {
    let file = std::env::var_os("WISP_ONNXRUNTIME")
        .map(PathBuf::from)
        .or_else(|| Some(wisp_skip::cache()?.join("onnxruntime/1.31.1/libonnxruntime.so")))?;
    if file.is_file() {
        return Some(file);
    }
    wisp_skip::skip(format!(
        "{} is missing: run cargo xtask setup",
        file.display()
    ));
    None
}

/// One of the small models that the tests of the inference crate load.
#[must_use]
pub fn small_model(name: &str) -> Model {
    let file = repository()
        .join("runtime/nn/tests/data")
        .join(format!("{name}.onnx"));
    model(name, &file)
}

/// The model in `file`, on the CPU.
#[must_use]
pub fn model(name: &str, file: &Path) -> Model {
    Model {
        name: name.to_owned(),
        format: ModelFormat::Onnx,
        file: file.to_owned(),
        sha256: None,
        device: Device::Cpu,
        batching: Batching::default(),
        trials: Vec::new(),
    }
}
