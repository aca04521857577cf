//! The operator's program, as far as it needs no cluster.
#![cfg(test)]

mod preparing;
