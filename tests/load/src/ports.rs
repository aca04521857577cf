//! Ports of loopback.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// A port that nobody has just now.
pub(crate) fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A port that is given, such as that of all pods, at an address that no other process of this machine chooses by this
/// function.
///
/// # Errors
/// When somebody listens there all the same, as on all addresses, or from where processes have numbers of their own. It is
/// looked for here: servers that share a port among their threads would share it with a stranger, too.
pub(crate) fn own_address(port: u16) -> Result<SocketAddr> {
    let address = SocketAddr::from((of_process(std::process::id()), port));
    TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    Ok(address)
}

/// An address for each process: Linux gives them 22 bits at most. The tests of the gateway have others.
fn of_process(id: u32) -> Ipv4Addr {
    let [_, high, middle, low] = id.to_be_bytes();
    Ipv4Addr::new(127, 64 | (high & 63), middle, low)
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

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::hello::{self, Answer};

    /// Would fail if two benches at once had one address, or left 127.0.0.0/8.
    #[test]
    fn each_process_has_an_address() {
        let ids = [1, 2, 255, 256, 65_536, 4_194_303];
        let addresses = ids.map(of_process);
        for (index, address) in addresses.iter().enumerate() {
            assert!(address.is_loopback(), "{address}");
            assert!(!addresses[..index].contains(address), "{address}");
        }
    }

    /// Would fail if a bench asked whoever listened there before, and took it for its own server.
    #[test]
    fn an_address_that_somebody_listens_at_is_an_error() {
        let (tell, told) = std::sync::mpsc::channel();
        let any = own_address(0).unwrap();
        std::thread::spawn(move || {
            let ready = |address| tell.send(address).unwrap();
            hello::serve(any, NonZeroUsize::MIN, &Answer::hello(), ready)
        });
        let taken: SocketAddr = told.recv().unwrap();
        let error = own_address(taken.port()).unwrap_err();
        assert!(error.to_string().contains(&taken.to_string()), "{error}");
    }
}
