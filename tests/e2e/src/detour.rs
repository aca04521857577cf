//! A way to the registry that a test can close: for the operator, it is then down.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result};

use crate::serve::listen_to_pods;

/// An address that leads to the registry, while it is open.
pub struct Detour {
    address: SocketAddr,
    is_open: Arc<AtomicBool>,
}

impl Detour {
    /// One to `registry`, on the address of this machine that pods reach.
    pub(crate) fn new(registry: &str) -> Result<Self> {
        let listener = listen_to_pods(registry)?;
        let address = listener.local_addr()?;
        let is_open = Arc::new(AtomicBool::new(true));
        let (open, registry) = (Arc::clone(&is_open), registry.to_owned());
        thread::Builder::new()
            .name("detour".to_owned())
            .spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (open, registry) = (Arc::clone(&open), registry.clone());
                    thread::spawn(move || lead(&stream, &registry, &open));
                }
            })
            .context("no thread for the detour")?;
        Ok(Self { address, is_open })
    }

    /// What it is called in references.
    #[must_use]
    pub fn name(&self) -> String {
        self.address.to_string()
    }

    /// From now on whoever comes is turned away.
    pub fn close(&self) {
        self.is_open.store(false, Ordering::SeqCst);
    }

    /// From now on whoever comes is let through.
    pub fn open(&self) {
        self.is_open.store(true, Ordering::SeqCst);
    }
}

/// Copies both ways. What was open before the detour was closed is cut at its next byte.
fn lead(client: &TcpStream, registry: &str, is_open: &AtomicBool) {
    if !is_open.load(Ordering::SeqCst) {
        return;
    }
    let Ok(server) = TcpStream::connect(registry) else {
        return;
    };
    thread::scope(|scope| {
        scope.spawn(|| copy(client, &server, is_open));
        copy(&server, client, is_open);
    });
}

fn copy(from: &TcpStream, to: &TcpStream, is_open: &AtomicBool) {
    let mut from_open = Watched {
        stream: from,
        is_open,
    };
    // Either end may leave whenever it likes.
    let _ = io::copy(&mut from_open, &mut &*to);
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

struct Watched<'a> {
    stream: &'a TcpStream,
    is_open: &'a AtomicBool,
}

impl io::Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        Ok(if self.is_open.load(Ordering::SeqCst) {
            count
        } else {
            0
        })
    }
}
