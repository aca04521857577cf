//! The load generator: Debian's wrk.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::cores::{Cores, kept};
use crate::machine;

/// What a run found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Load {
    pub(crate) requests: f64,
    pub(crate) per_second: f64,
    /// The median latency in microseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) url: String,
    pub(crate) address: SocketAddr,
    /// The Host header.
    host: String,
    /// A script that makes another request than a GET, <https://github.com/wg/wrk/blob/master/SCRIPTING>.
    script: Option<PathBuf>,
    /// The cores of the generator, where it has some of its own.
    cores: Option<Cores>,
}

impl Target {
    pub(crate) fn get(address: SocketAddr, path: &str, host: &str) -> Self {
        Self {
            url: format!("http://{address}{path}"),
            address,
            host: host.to_owned(),
            script: None,
            cores: None,
        }
    }

    /// From now on it is asked from these cores alone, if any are given.
    pub(crate) fn ask_from(&mut self, cores: Option<&Cores>) {
        self.cores = cores.cloned();
    }

    /// A POST of the bytes in `body`; the script is written to `folder`.
    pub(crate) fn post(
        address: SocketAddr,
        path: &str,
        (kind, body): (&str, &Path),
        folder: &Path,
    ) -> Result<Self> {
        let name = body.file_name().unwrap_or_default().to_string_lossy();
        let script = folder.join(format!("{name}.lua"));
        let text = format!(
            "local file = io.open({:?}, \"rb\")\nwrk.method = \"POST\"\nwrk.body = file:read(\"*a\")\nwrk.headers[\"content-type\"] = {kind:?}\n",
            body.display().to_string()
        );
        std::fs::write(&script, text)?;
        Ok(Self {
            script: Some(script),
            ..Self::get(address, path, "load")
        })
    }
}

/// Asks over so many connections for so many seconds, with a thread for each core that the generator may use: as many as
/// serve, so that neither waits for the other on its own.
pub(crate) fn run(target: &Target, connections: u32, seconds: u32) -> Result<Load> {
    let cores = target.cores.as_ref();
    let threads = cores.map_or(machine::cores(), Cores::count);
    // wrk refuses to have more threads than connections.
    let threads = threads.min(connections.try_into()?);
    let mut command = Command::new("wrk");
    command
        // Its own bound of two seconds would count late answers as failures.
        .args(["--latency", "--timeout", "30s"])
        .args(["-H", &format!("Host: {}", target.host)])
        .args(["-t", &threads.to_string()])
        .args(["-c", &connections.to_string(), "-d", &format!("{seconds}s")]);
    if let Some(script) = &target.script {
        command.arg("-s").arg(script);
    }
    command.arg(&target.url);
    let output = kept(command, target.cores.as_ref())
        .output()
        .context("wrk cannot be started: it is a package of Debian's")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!(
            "wrk failed: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    parse(&text).with_context(|| format!("wrk said what cannot be read: {text}"))
}

fn parse(text: &str) -> Result<Load> {
    // Only failures are told by these lines.
    for bad in ["Non-2xx", "Socket errors"] {
        if let Some(line) = text.lines().find(|line| line.contains(bad)) {
            bail!("requests failed: {}", line.trim());
        }
    }
    let after = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
        line.map(str::trim)
            .with_context(|| format!("no line `{name}`"))
    };
    let requests = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in "))
        .context("no number of requests")?
        .0
        .parse()?;
    Ok(Load {
        requests,
        per_second: after("Requests/sec:")?.parse()?,
        p50: micros(after("50%")?)?,
        p99: micros(after("99%")?)?,
    })
}

fn micros(text: &str) -> Result<f64> {
    for (unit, factor) in [("us", 1.0), ("ms", 1e3), ("s", 1e6)] {
        if let Some(number) = text.strip_suffix(unit) {
            return Ok(number.parse::<f64>()? * factor);
        }
    }
    bail!("`{text}` is no time")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "Running 1s test @ http://127.0.0.1:1/\n  1 threads and 1 connections\n  Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency    40.12us   10.00us   1.00ms   90.00%\n  Latency Distribution\n     50%   39.00us\n     75%   41.00us\n     90%   50.00us\n     99%    1.20ms\n  24000 requests in 1.00s, 3.00MB read\nRequests/sec:  24000.50\nTransfer/sec:      3.00MB\n";

    #[test]
    fn what_wrk_prints_is_read_and_failures_are_failures() {
        let load = parse(GOOD).unwrap();
        assert_eq!((load.requests, load.per_second), (24000.0, 24000.5));
        assert_eq!((load.p50, load.p99), (39.0, 1200.0));
        let bad = format!("{GOOD}  Non-2xx or 3xx responses: 7\n");
        assert!(parse(&bad).unwrap_err().to_string().contains(": 7"));
    }
}
