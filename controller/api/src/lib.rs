//! The Kubernetes resources as Rust types, with schema and validation.
