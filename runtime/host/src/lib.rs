//! The pod's process: serves a Wasm component over HTTP with inference.
