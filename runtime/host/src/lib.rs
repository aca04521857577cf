//! The pod's process: one Wasm component, served over HTTP.
//!
//! The request path, in one direction, is [`serve`]: accept → admit → instance → component → respond. State lives in
//! three types by how long it lives: [`process::Host`] as long as the process, [`function::Function`] as long as its
//! one Assignment, [`guest::Guest`] as long as an instance.

pub mod cli;
pub mod process;

mod accept;
mod answer;
mod artifacts;
mod body;
mod component;
mod control;
mod error_code;
mod failure;
mod function;
mod guest;
mod handed;
mod hold;
mod instance;
mod key;
mod linker;
mod meter;
mod metrics;
mod outcome;
mod pool;
mod receive;
mod record;
mod request;
mod respond;
mod running;
mod said;
mod serve;
mod shared;
mod standby;
mod upload;
mod written;
