//! Ports of loopback.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// A port that nobody has just now.
pub(crate) fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Waits until somebody listens.
pub(crate) fn await_listener(address: SocketAddr) -> Result<()> {
    let since = Instant::now();
    while TcpStream::connect(address).is_err() {
        if since.elapsed() > Duration::from_secs(20) {
            bail!("nobody listens on {address}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
