//! Benchmarks, each with its baseline in the same run: what runs the programs, loads them, measures them and tells.
//!
//! [`Report`] is what every bench writes to `target/bench/<name>.json` and prints. [`FakeCluster`] stands in for a
//! Kubernetes and an operator where one program is to be run alone, in tests too.

mod child;
mod cluster;
mod hello;
mod machine;
mod nginx;
mod report;
mod server;
mod wrk;

pub mod gateway;

pub use child::Child;
pub use cluster::{FakeCluster, GATEWAY_NAMESPACE};
pub use hello::serve as serve_hello;
pub use machine::Machine;
pub use report::{Aim, Report, Row, Sample};
