//! wasi:keyvalue for guests, on an embedded store on disk.
//!
//! A process opens its function's [`Stores`] once; all instances share them. Each store is one redb file. A write is
//! on disk before the guest hears of it, so a killed process loses nothing that a guest was told is stored, and writes
//! that wait at the same time reach the disk together. Several processes (replicas of one function on one machine) may
//! have the same file open; increments are atomic across all of them. A file that fails is opened anew. No call blocks an async worker thread.

mod database;
mod host;
mod limits;
mod store;
mod stores;
mod tables;
mod writer;

pub use host::{KeyValueCtx, WasiKeyValue, add_to_linker};
pub use limits::{MAX_CALL_BYTES, MAX_CALL_ITEMS, MAX_KEY_BYTES, MAX_VALUE_BYTES};
pub use store::{Error, Found, Page, StorageError, Store};
pub use stores::{OpenError, Stores};
