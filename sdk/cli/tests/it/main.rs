//! Commands as a user types them: those of clusters against a real registry and an API server that is played.
#![cfg(test)]

mod api;
mod building;
mod deleting;
mod deploying;
mod output;
mod reading;
mod registry;
mod wisp;
