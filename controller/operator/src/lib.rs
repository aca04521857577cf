//! The operator: makes Functions into pods, wakes them when a request comes, and scales them by their load.
//!
//! Two flows meet in [`live::Functions`], which remembers what there is of each function:
//! * a Function changes → [`cluster`] sees it → [`reconcile()`](reconcile::reconcile): [`resolver`] fetches what it
//!   names, [`reconcile::desired`] makes its objects of that, [`reconcile::apply`] applies them, [`reconcile::status`]
//!   says how far it is;
//! * a gateway asks → [`server`] → [`wake`] has a replica, of a pod that stands by in a [`pool`] or of a new one, and
//!   waits until it serves; what gateways report goes to [`autoscale`], the only writer of the number of replicas.
//!
//! What it needs of an installation is in `docs/install.md`, whose signatures it demands in `docs/signatures.md`.

#[cfg(test)]
mod api_server;
pub mod artifacts;
mod attempts;
pub mod autoscale;
pub mod cluster;
pub mod control;
pub mod events;
pub mod keys;
pub mod leader;
pub mod levels;
pub mod live;
pub mod metrics;
pub mod names;
pub mod operator;
pub mod options;
pub mod pins;
pub mod pool;
pub mod reconcile;
pub mod references;
pub mod resolve;
pub mod resolver;
pub mod server;
pub mod signatures;
pub mod wake;

pub use operator::{LostLead, Operator};
pub use options::Options;
