//! The gateway: every request enters here.
//!
//! `accept → route → admit → activate → balance → proxy`: a request is led to its function ([`Gateway::insert_route`]),
//! waits for a place where none is free, wakes a replica where there is none ([`Activator`]), goes to the replica with
//! the least to do ([`Gateway::insert_endpoint`]) and is streamed there and back. What goes wrong on the way becomes a
//! problem body in `respond`, the only module that knows statuses.
//!
//! The request path runs on one thread per core, each with sockets, connections and idle upstream connections of its
//! own; only the counters of a function are shared.

mod accept;
mod activate;
mod admit;
mod arriving;
mod balance;
mod body;
mod connection;
mod forward;
mod frames;
mod function;
mod gateway;
mod identify;
mod idle;
mod io;
mod memory;
mod metrics;
mod neighbours;
mod options;
mod overdue;
mod pool;
mod proxy;
mod replica;
mod report;
mod respond;
mod route;
mod unread;
mod upgrade;
mod upstream;
mod visit;
mod wire;

pub use accept::Server;
pub use activate::{ActivateError, Activator};
pub use gateway::Gateway;
pub use neighbours::{Namespaces, UnknownNamespace};
pub use options::{DEFAULT_MAX_CONNECTIONS, DEFAULT_QUEUE_MEMORY, Options};
pub use replica::{Drained, Endpoint};
pub use report::{RequestReport, RequestReporter};
pub use route::FunctionRoute;
