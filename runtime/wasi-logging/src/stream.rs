//! A guest's standard output and standard error, for WASI 0.2 and 0.3.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use crate::clock::Now;
use crate::instance::{InstanceLog, Std};

/// What a guest may write in one call, and what WASI 0.3 takes of a longer one; the most that `write-zeroes` makes the host allocate.
const PERMIT: usize = 64 << 10;

/// Standard output or standard error of one instance. Writing never waits: what is too much is dropped and counted.
#[derive(Clone)]
pub struct GuestStream {
    log: InstanceLog,
    std: Std,
}

impl GuestStream {
    pub(crate) fn new(log: InstanceLog, std: Std) -> Self {
        Self { log, std }
    }
}

impl IsTerminal for GuestStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for GuestStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > PERMIT {
            // As WASI has it. Between two calls the guest's deadline is looked at.
            return Err(StreamError::trap(&format!(
                "{} bytes were written to a standard stream at once, which takes {PERMIT} at most",
                bytes.len()
            )));
        }
        self.log.write(self.std, &bytes, Now::read());
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(PERMIT)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for GuestStream {
    async fn ready(&mut self) {}
}

impl AsyncWrite for GuestStream {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // Between two calls the guest's deadline is looked at.
        let taken = bytes.get(..PERMIT).unwrap_or(bytes);
        self.log.write(self.std, taken, Now::read());
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
