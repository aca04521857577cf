//! wasi:keyvalue for guests, on an embedded store on disk.
