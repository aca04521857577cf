//! Artifacts from a real registry, and from servers that misbehave.
#![cfg(test)]

mod compiling;
mod downloads;
mod fake;
mod pushes;
mod registries;
mod registry;
mod signatures;
