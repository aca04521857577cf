//! What differs between a component on its host and a native process with tests. Both sides have the same modules with
//! the same functions: `body` (request and response bodies that come from outside), `client` (outgoing HTTP), `config`,
//! `kv`, `log`, `nn`, `reactor` (what the executor sleeps on) and `time`.

#[cfg(target_family = "wasm")]
mod wasm;
#[cfg(target_family = "wasm")]
pub(crate) use wasm::*;

#[cfg(not(target_family = "wasm"))]
mod native;
#[cfg(not(target_family = "wasm"))]
pub(crate) use native::*;
