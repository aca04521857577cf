//! What the processes of wisp say to each other: the configuration of a function as its host reads it,
//! the Assignment that turns a generic host into one function's replica, HTTP headers, log lines,
//! problem bodies and the status that a host reports.
//!
//! This crate knows neither Kubernetes nor wasmtime, so that every process can depend on it.

pub mod assignment;
pub mod config;
pub mod headers;
pub mod hosts;
pub mod keys;
pub mod log;
pub mod model_file;
pub mod operator;
pub mod parts;
pub mod problem;
pub mod stats;
pub mod status;

mod serde_millis;

pub use assignment::{Assignment, FunctionId, FunctionIdError};
pub use config::FunctionConfig;
pub use problem::Problem;
