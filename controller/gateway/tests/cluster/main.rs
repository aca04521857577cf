//! The gateway's binary, with what stands in for a cluster and an operator.
#![cfg(test)]

mod living;
mod support;
mod tls;
