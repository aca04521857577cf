//! How does a test reach a port in any cluster, also in one whose pods' addresses mean nothing on this machine?

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result};

/// A port of this machine's loopback that leads to one in the cluster, until it is dropped.
pub struct Forward {
    address: SocketAddr,
    kubectl: Child,
    /// Kept open: kubectl ends when nobody reads what it says.
    output: BufReader<ChildStdout>,
}

impl Forward {
    /// Runs `kubectl port-forward` for `target`, such as `service/web`.
    pub(super) fn open(mut kubectl: Command, target: &str, port: u16) -> Result<Forward> {
        let mut child = kubectl
            .args(["port-forward", target, &format!(":{port}")])
            .arg("--address=127.0.0.1")
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start kubectl")?;
        let output = child.stdout.take().context("kubectl has an output")?;
        let mut forward = Forward {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            kubectl: child,
            output: BufReader::new(output),
        };
        let mut line = String::new();
        forward.output.read_line(&mut line)?;
        // Forwarding from 127.0.0.1:40001 -> 8080
        forward.address = line
            .split_whitespace()
            .nth(2)
            .and_then(|address| address.parse().ok())
            .with_context(|| format!("cannot forward to {target}: kubectl said {line:?}"))?;
        Ok(forward)
    }

    /// Where it listens on this machine.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}
