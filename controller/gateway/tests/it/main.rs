//! The gateway on loopback, with real upstreams.
#![cfg(test)]

mod balancing;
mod draining;
mod hostile;
mod limits;
mod replies;
mod routing;
mod streaming;
mod support;
mod upgrading;
mod waking;
