//! How does ONNX Runtime compute a model?

mod arena;
mod device;
mod external;
#[cfg(test)]
mod fixture;
mod io;
mod lane;
mod library;
mod message;
mod operators;
mod plan;
mod probe;
mod protobuf;
mod session;
mod sized;
mod survey;

pub use library::{LibraryError, left_out};
pub use plan::{Plan, plan};

pub(crate) use external::{ExternalData, external_data};
pub(crate) use library::library;
pub(crate) use session::{Refusal, Request, load};
