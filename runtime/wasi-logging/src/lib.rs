//! wasi:logging and standard streams for guests, as log lines with a request id.
//!
//! A replica has one [`Logs`]: the function's name, the rate that all its instances share, and the [`Sink`] that lines
//! go to. Each instance gets an [`InstanceLog`] from it: [`InstanceLog::stdout`] and [`InstanceLog::stderr`] for its
//! `WasiCtx`, and [`WasiLogging`] for [`add_to_linker`]. What an instance wrote without a line's end is flushed when
//! the last clone of its `InstanceLog` is dropped.
//!
//! [`Writer`] is the sink for a whole process: a thread that writes one JSON object per line, which never makes its
//! callers wait. [`Tracing`] sends the process' own `tracing` events there.

mod assemble;
mod clock;
mod host;
mod instance;
mod rate;
mod sink;
mod stream;
mod tracing_layer;
mod writer;

pub use clock::Now;
pub use host::{WasiLogging, add_to_linker};
pub use instance::{InstanceLog, Logs, Options};
pub use sink::{Memory, Sink};
pub use stream::GuestStream;
pub use tracing_layer::Tracing;
pub use writer::Writer;
