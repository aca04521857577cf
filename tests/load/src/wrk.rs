//! The load generator: Debian's wrk.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// What a run found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Load {
    pub(crate) requests: f64,
    pub(crate) per_second: f64,
    /// The median latency in microseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// Asks `url`, with `host` as the Host header, over so many connections for so many seconds.
pub(crate) fn run(
    url: &str,
    host: &str,
    connections: u32,
    threads: u32,
    seconds: u32,
) -> Result<Load> {
    let output = Command::new("wrk")
        .args(["--latency", "-H", &format!("Host: {host}")])
        .args(["-t", &threads.min(connections).to_string()])
        .args(["-c", &connections.to_string(), "-d", &format!("{seconds}s")])
        .arg(url)
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
