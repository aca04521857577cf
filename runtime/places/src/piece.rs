//! What a body holds for as long as a connection hasn't taken all of it: a server keeps pieces for clients that don't read.

use bytes::{Buf, Bytes};

/// A piece of a body, with what it holds.
#[derive(Debug)]
pub struct Piece<H> {
    bytes: Bytes,
    _held: H,
}

impl<H> Piece<H> {
    /// Drops `held` once the bytes are taken, or given up.
    #[must_use]
    pub fn new(bytes: Bytes, held: H) -> Self {
        Self { bytes, _held: held }
    }
}

impl<H> Buf for Piece<H> {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        self.bytes.copy_to_bytes(length)
    }
}
