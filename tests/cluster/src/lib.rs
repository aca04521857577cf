//! A real Kubernetes for the tests, on one machine and without a container engine: etcd, the control plane, and per
//! node containerd, kubelet and kube-proxy, all built from their Go modules and run as processes in namespaces.
//!
//! Tests use [`Cluster`]; people use `cargo xtask cluster …`, which is [`cli`]; `cargo xtask images` is [`images`].
//! The README beside this crate says how it works and what it needs.

pub mod cli;
pub mod images;

mod addons;
mod cargo;
mod cgroups;
mod components;
mod control;
mod files;
mod kubectl;
mod layout;
mod lifecycle;
mod locks;
mod machine;
mod namespace;
mod network;
mod node;
mod prepare;
mod process;
mod programs;
mod shared;
mod shell;
mod state;
mod status;
mod wait;

pub use cargo::cargo;
pub use files::{cache, repository};
pub use machine::install_packages;
pub use prepare::{check, prepare};
pub use process::MARK;
pub use programs::{helm, registry, testserver};
pub use shared::{Cluster, Forward, Lease, Namespace, Owned, drive};
pub use wait::Objects;
