//! Inference: models loaded once, shared by every instance, batched across them.
//!
//! A [`ModelStore`] loads each model of a function once per process. [`Model::run`] puts a call into the model's bounded
//! queue; threads of the model's own, its lanes, take what waits, join calls of different instances along dimension 0
//! where the model allows it, compute, and give each caller its own rows back. None sees another's numbers. A call only
//! computes on the thread that makes it where it is alone and the model was seen to take microseconds; otherwise it never
//! blocks that thread.
//!
//! # Backends
//! ONNX Runtime computes ONNX models. Its shared library is opened at run time, and only when a model asks for it.
//! It needs 1.24 or newer.
//!
//! A pure-Rust backend (`tract`) was weighed and left out: it takes ten minutes of CPU time to build, which every
//! contributor and every CI run would pay; on the models measured it is 1.6 to 3.3 times slower; and some of them
//! don't load. A place without the shared library gets an error that says how to install it.
//!
//! # Threads
//! [`onnx::plan`] says how many sessions and threads a model gets on the CPU, and why. On each GPU it gets two, or one where
//! the memory that it may have there is bounded, or it is large; and one for each size of batch where these can't be recorded.

mod activity;
mod backend;
mod batch;
mod buffer;
mod dtype;
mod info;
mod metrics;
mod model;
mod name;
pub mod onnx;
mod store;
mod tensor;
mod trials;

pub use backend::{Abort, BackendError, Item, Lane, LoadLater, Loaded, MakeInline, MoreLanes};
pub use dtype::DType;
pub use info::TensorInfo;
pub use metrics::{BATCH_SIZE_BUCKETS, Metrics, Snapshot};
pub use model::{Model, RunError};
pub use name::{sentence, shown};
pub use onnx::LibraryError;
pub use store::{LoadError, ModelStore, Options, Preloaded, UnknownModel, load_library};
pub use tensor::{MAX_RANK, NamedTensor, Tensor, TensorError, byte_len};
