//! How does a test reach a port in any cluster, also in one whose pods' addresses mean nothing on this machine?

use std::io::{BufRead, BufReader, copy, sink};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::control::PATIENCE;

/// A port of this machine's loopback that leads to one in the cluster, until it is dropped.
pub struct Forward {
    address: SocketAddr,
    kubectl: Child,
}

impl Forward {
    /// Runs `kubectl port-forward` for `target`, such as `service/web`.
    pub(super) fn open(mut kubectl: Command, target: &str, port: u16) -> Result<Forward> {
        kubectl
            .args(["port-forward", target, &format!(":{port}")])
            .arg("--address=127.0.0.1");
        Self::start(kubectl, PATIENCE).with_context(|| format!("cannot forward to {target}"))
    }

    fn start(mut kubectl: Command, patience: Duration) -> Result<Forward> {
        let mut child = kubectl
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start kubectl")?;
        let output = child.stdout.take();
        let mut forward = Forward {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            kubectl: child,
        };
        let mut output = BufReader::new(output.context("kubectl has an output")?);
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            let read = output.read_line(&mut line);
            // Nobody hears it who has waited for too long.
            let _ = tell.send(read.map(|_| line));
            // It says a line for each connection, and would wait for its reader in the middle of one; without a reader it ends.
            let _ = copy(&mut output, &mut sink());
        });
        let line = told
            .recv_timeout(patience)
            .with_context(|| format!("kubectl said nothing within {patience:?}"))??;
        // Forwarding from 127.0.0.1:40001 -> 8080
        forward.address = line
            .split_whitespace()
            .nth(2)
            .and_then(|address| address.parse().ok())
            .with_context(|| format!("kubectl said {line:?}"))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    /// Would fail if what kubectl says of each connection filled a pipe that nobody reads.
    #[test]
    fn all_that_kubectl_says_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let done = folder.path().join("done");
        // More than a pipe holds.
        let script = format!(
            "echo 'Forwarding from 127.0.0.1:40001 -> 8080'; head -c 1000000 /dev/zero; touch {}; exec sleep 600",
            done.display()
        );
        let forward = Forward::start(shell(&script), PATIENCE).unwrap();
        assert_eq!(forward.address().to_string(), "127.0.0.1:40001");
        let end = std::time::Instant::now() + PATIENCE;
        while !done.exists() {
            assert!(std::time::Instant::now() < end, "it waits for its reader");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Would fail if a kubectl that says nothing were waited for without an end, or one that ends were taken for one that
    /// forwards.
    #[test]
    fn a_kubectl_that_does_not_forward_is_an_error() {
        let error = |script: &str, patience: u64| {
            let forward = Forward::start(shell(script), Duration::from_millis(patience));
            format!("{:#}", forward.err().unwrap())
        };
        let silent = error("exec sleep 600", 50);
        assert!(silent.contains("nothing within 50ms"), "{silent}");
        assert_eq!(error("exit 1", 180_000), "kubectl said \"\"");
    }
}
