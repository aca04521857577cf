//! Benchmarks, each with its baseline in the same run: what runs the programs, loads them, measures them and tells.
//!
//! [`Report`] is what every bench writes to `target/bench/<name>.json` and prints. [`FakeCluster`] stands in for a
//! Kubernetes and an operator where one program is to be run alone, in tests too.

mod child;
mod cluster;
mod cores;
mod hello;
#[cfg(feature = "baselines")]
mod infer;
#[cfg(any(test, feature = "baselines"))]
mod libraries;
mod machine;
mod nginx;
#[cfg(any(test, feature = "baselines"))]
mod outputs;
mod pace;
mod peers;
#[cfg(feature = "baselines")]
mod phases;
mod ports;
mod report;
mod runtime;
#[cfg(feature = "baselines")]
mod serve;
mod server;
#[cfg(feature = "baselines")]
mod state;
mod turns;
mod wrk;

pub mod gateway;
#[cfg(feature = "baselines")]
pub mod gpu;
pub mod host;
pub mod memory;
pub mod nn;
pub mod start;

pub use child::{Child, Memory, Used};
pub use cluster::{FakeCluster, GATEWAY_NAMESPACE};
pub use hello::{Answer, serve as serve_hello};
#[cfg(feature = "baselines")]
pub use infer::{Kind, serve as serve_model};
pub use machine::Machine;
pub use peers::Peers;
pub use report::{Aim, Report, Row, Sample};
pub use runtime::Place;
#[cfg(feature = "baselines")]
pub use serve::{Reuse, serve as serve_component};
