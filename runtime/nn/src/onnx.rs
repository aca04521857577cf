//! How does ONNX Runtime compute a model?

mod arena;
mod device;
mod external;
mod io;
mod lane;
mod library;
mod operators;
mod plan;
mod probe;
mod protobuf;
mod session;
mod sized;

pub use library::LibraryError;
pub use plan::{Plan, plan};

pub(crate) use external::{ExternalData, external_data};
pub(crate) use library::library;
pub(crate) use session::{Refusal, Request, load};
