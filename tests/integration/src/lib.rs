//! Processes on loopback, driven as a user drives them: what the tests in `tests/` share.

mod arm64;
mod build;
mod client;
mod host;
mod models;
mod readme;
mod refusal;
mod terminal;
mod wisp;

pub use arm64::{Arm64, arm64};
pub use build::{binary, component, target_folder};
pub use client::{Answer, Body, Client, Opened, request};
pub use host::{Host, assignment};
pub use models::{model, onnxruntime, small_model};
pub use readme::{Readme, repository};
pub use refusal::refused;
pub use terminal::{Job, Terminal};
pub use wisp::{Dev, is_running, run, signal_process, wisp};

use std::time::Duration;

/// The longest that anything in a test is waited for. Nothing is expected to come near it.
pub const PATIENCE: Duration = Duration::from_secs(60);
