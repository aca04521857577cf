//! Bodies from a host, of which there is none.

use std::convert::Infallible;
use std::task::{Context, Poll};

use crate::Bytes;
use crate::body::ReadError;

#[derive(Debug)]
pub(crate) struct Incoming(Infallible);

impl Incoming {
    pub(crate) fn left(&self) -> u64 {
        match self.0 {}
    }

    pub(crate) fn poll_chunk(
        &mut self,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, ReadError>>> {
        match self.0 {}
    }
}
