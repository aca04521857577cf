//! Outbound HTTP for guests: an allow-list checked on resolved addresses and a pooled client.
//!
//! A process makes one [`Egress`] from its function's `outbound.allow`; each wasmtime store gets [`Hooks`] from it, for
//! the `hooks` of its `WasiHttpCtxView`, for WASI 0.2 and 0.3 alike. A request is checked twice: its URL against the
//! [`Policy`], and each address that the URL's host resolves to against the policy again, which refuses everything that
//! isn't a public address unless an entry names it. The connection is made to the very address that was checked, so a
//! name that resolves to something else a moment later gains nothing. Redirects are the guest's own business: each is
//! a request of its own.

mod body;
mod client;
mod connect;
mod hooks;
mod policy;
mod problem;
mod resolve;
mod target;
mod upload;

pub use client::{BuildError, Egress, Options, certificates};
pub use hooks::Hooks;
pub use policy::{EntryError, Policy, PolicyError};
pub use resolve::{Resolve, Resolving, SystemResolver};
pub use upload::Uploads;
