//! Requests by the clock: each is due whether or not the last was answered, so that a server that falls behind shows.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What a run found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paced {
    pub(crate) per_second: f64,
    /// In microseconds, from when the request was due.
    pub(crate) p99: f64,
}

/// Asks for `path` over so many connections, together `rate` times a second, or as often as it is answered.
pub(crate) fn run(
    address: SocketAddr,
    path: &str,
    connections: u32,
    seconds: u32,
    rate: Option<f64>,
) -> Result<Paced> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: load\r\n\r\n");
    let every = rate.map(|rate| Duration::from_secs_f64(f64::from(connections) / rate));
    runtime.block_on(async {
        let begun = Instant::now();
        let until = begun + Duration::from_secs(seconds.into());
        let mut tasks = tokio::task::JoinSet::new();
        for index in 0..connections {
            let request = request.clone();
            // Spread over one period, so that they don't all come at once.
            let first = begun + every.unwrap_or_default() * index / connections.max(1);
            tasks.spawn(async move { ask(address, request.as_bytes(), first, every, until).await });
        }
        let mut all = Vec::new();
        while let Some(task) = tasks.join_next().await {
            all.extend(task??);
        }
        all.sort_unstable();
        let p99 = all
            .get(all.len() * 99 / 100)
            .context("no request was answered")?;
        Ok(Paced {
            per_second: all.len() as f64 / begun.elapsed().as_secs_f64(),
            p99: p99.as_secs_f64() * 1e6,
        })
    })
}

async fn ask(
    address: SocketAddr,
    request: &[u8],
    first: Instant,
    every: Option<Duration>,
    until: Instant,
) -> Result<Vec<Duration>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(4096);
    let mut times = Vec::new();
    let mut due = first;
    while Instant::now() < until {
        let mut from = Instant::now();
        if let Some(every) = every {
            if due > from {
                tokio::time::sleep_until(due.into()).await;
                // The timer is a millisecond coarse, which is no fault of the server's.
                from = Instant::now();
            } else {
                from = due;
            }
            due += every;
        }
        stream.write_all(request).await?;
        buffer.clear();
        while !is_whole(&buffer)? {
            if stream.read_buf(&mut buffer).await? == 0 {
                bail!("the server hung up");
            }
        }
        times.push(from.elapsed());
    }
    Ok(times)
}

/// Whether the bytes are a whole response with a declared length.
fn is_whole(bytes: &[u8]) -> Result<bool> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(false);
    };
    let (head, body) = bytes.split_at_checked(end + 4).unwrap_or((bytes, &[]));
    if !head.starts_with(b"HTTP/1.1 200") {
        bail!("it answered {}", String::from_utf8_lossy(head));
    }
    let head = std::str::from_utf8(head)?;
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.context("no length is declared")?.parse()?;
    Ok(body.len() >= length)
}
