//! One program, so that wisp is installed once for all of them.

mod bad_input;
mod bounds;
mod examples;
mod functions;
mod life;
mod pools;
mod rules;
mod sources;
