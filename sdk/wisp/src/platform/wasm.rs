//! A component on its host: everything goes through WASI.

pub(crate) mod body;
pub(crate) mod client;
pub(crate) mod config;
pub(crate) mod headers;
pub(crate) mod kv;
pub(crate) mod log;
pub(crate) mod nn;
pub(crate) mod reactor;
pub(crate) mod serve;
pub(crate) mod time;
