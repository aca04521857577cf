//! One program: as many would each have the same libraries linked into them.

mod bad_input;
mod cli;
mod clients;
mod dev;
mod edges;
mod examples;
mod hostile;
mod life;
mod limits;
mod manifests;
mod models;
mod sdk;
mod services;
mod serving;
mod standby;
mod tensors;
mod tour;
