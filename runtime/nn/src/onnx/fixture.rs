//! What do tests in this module load?

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use wisp_contract::config::Device;

use super::library::Library;
use super::session::Request;
use crate::backend::Abort;

/// ONNX Runtime; `None`, which is said, where it isn't here.
pub(super) fn library() -> Option<Arc<Library>> {
    let given = std::env::var_os("WISP_ONNXRUNTIME").map(PathBuf::from);
    match super::library(given.as_deref(), wisp_skip::cache().as_deref()) {
        Ok(library) => Some(library),
        Err(error) => {
            wisp_skip::skip(error);
            None
        }
    }
}

/// The file of a model of `tests/data`.
pub(super) fn file(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/{model}.onnx"))
}

/// Such a model, for one core and one session.
pub(super) fn request(model: &str) -> Request {
    let bytes = Bytes::from(std::fs::read(file(model)).unwrap());
    Request {
        length: bytes.len() as u64,
        bytes,
        beside: None,
        device: Device::Cpu,
        max_rows: NonZeroU32::MIN,
        cores: NonZeroUsize::MIN,
        gpu_memory: None,
        max_sessions: 1,
        trial: None,
        tries_later: false,
        stop: Abort::new(1),
    }
}
