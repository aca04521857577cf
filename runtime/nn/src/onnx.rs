//! How does ONNX Runtime compute a model?

mod device;
mod external;
mod io;
mod lane;
mod library;
mod plan;
mod probe;
mod session;

pub use library::LibraryError;
pub use plan::{Plan, plan};

pub(crate) use external::{ExternalData, external_data};
pub(crate) use library::library;
pub(crate) use session::{Refusal, Request, load};
