//! A native process with tests: everything goes to the fakes of [`crate::test`].

pub(crate) mod body;
pub(crate) mod client;
pub(crate) mod config;
pub(crate) mod kv;
pub(crate) mod log;
pub(crate) mod nn;
pub(crate) mod reactor;
pub(crate) mod time;
