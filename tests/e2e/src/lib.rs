//! wisp on a real Kubernetes: the images built, the chart installed by helm, functions applied by kubectl and called over
//! HTTP, as a person does it.
//!
//! The tests of one run share a cluster ([`wisp_cluster::Cluster::shared`]) and one installation on it; each has a
//! namespace of its own.

mod api;
mod collector;
mod counted;
mod detour;
mod emulated;
mod exposition;
mod foreign;
mod guard;
mod install;
mod killed;
mod load;
mod serve;
mod signer;
mod space;

pub use api::{Api, Verdict};
pub use collector::{Collector, Span};
pub use detour::Detour;
pub use emulated::Emulated;
pub use exposition::Exposition;
pub use foreign::{Foreign, HTTP_ROUTE, POD_MONITOR};
pub use guard::Guard;
pub use install::{Installation, NAMESPACE, installed};
pub use killed::{Operator, Stopped, kill_host};
pub use load::{Load, Outcome};
pub use signer::Signer;
pub use space::{PATIENCE, Space};
pub use wisp_cluster::repository;
