//! What turns a file into something that serves: inspection, pre-initialisation, compilation, the artifact cache and
//! the wasmtime engines that run the result.
//!
//! The host and the command line share this crate, so that what `wisp dev` compiles ahead of time is byte for byte
//! what the host maps.

pub mod cache;
mod cpu;
mod engines;
pub mod inspect;
pub mod interface;
pub mod preinit;
mod residency;
pub mod sealed;
mod shim;
mod ticker;

pub use cache::{LoadError, Loaded, Loader, compatibility};
pub use cpu::{Cpu, CpuError};
pub use engines::{EngineError, EngineOptions, Engines};
pub use inspect::{Footprint, InspectError, Inspection, Wasi, inspect};
pub use interface::InterfaceName;
pub use preinit::{Outcome, Preinit, PreinitError, preinit};
pub use ticker::{TICK, Ticking, Ticks};
