//! One program, so that wisp is installed once for all of them.
#![expect(
    clippy::indexing_slicing,
    reason = "what JSON doesn't have is null; and a test that panics has failed"
)]

mod bad_input;
mod bounds;
mod chart;
mod events;
mod examples;
mod functions;
mod gpu;
mod kept;
mod killed;
mod life;
mod metrics;
mod neighbours;
mod pools;
mod pull;
mod reach;
mod rest;
mod roles;
mod room;
mod rules;
mod signed;
mod sources;
mod standby;
mod traces;
mod upgrade;
