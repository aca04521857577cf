//! One program, so that wisp is installed once for all of them.
#![expect(
    clippy::indexing_slicing,
    reason = "what JSON doesn't have is null; and a test that panics has failed"
)]

mod bad_input;
mod bounds;
mod examples;
mod functions;
mod kept;
mod life;
mod pools;
mod rules;
mod signed;
mod sources;
mod traces;
