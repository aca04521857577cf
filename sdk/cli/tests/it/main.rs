//! The cluster commands as a user types them, against a real registry and an API server that is played.
#![cfg(test)]

mod api;
mod deleting;
mod deploying;
mod output;
mod reading;
mod registry;
mod wisp;
