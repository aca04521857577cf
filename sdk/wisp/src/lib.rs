//! Write serverless functions with models, in Rust, for Wasm.
