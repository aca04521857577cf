//! Asks with a tensor over connections that stay, a thread for each.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};

/// A connection.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        // A GPU's first batches may take long, and a broken one for ever.
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// The body of the answer to a POST.
    pub(crate) fn post(&mut self, path: &str, body: &[u8]) -> Result<Vec<u8>> {
        let length = body.len();
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: load\r\ncontent-length: {length}\r\n\r\n");
        let stream = self.stream.get_mut();
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut length = None;
        let mut status = String::new();
        let mut line = String::new();
        loop {
            line.clear();
            if self.stream.read_line(&mut line)? == 0 {
                bail!("the server hung up");
            }
            let text = line.trim_end();
            if text.is_empty() {
                break;
            }
            if status.is_empty() {
                text.clone_into(&mut status);
            } else if let Some((name, value)) = text.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = Some(value.trim().parse()?);
            }
        }
        let mut answer = vec![0; length.context("no length is declared")?];
        self.stream.read_exact(&mut answer)?;
        if status.starts_with("HTTP/1.1 200") {
            Ok(answer)
        } else {
            bail!("{status}: {}", String::from_utf8_lossy(&answer))
        }
    }
}

/// Answers per second to so many connections that ask again as soon as they are answered.
pub(crate) fn per_second(
    address: SocketAddr,
    path: &str,
    body: &[u8],
    connections: usize,
    time: Duration,
) -> Result<f64> {
    let begun = Instant::now();
    let ask = || -> Result<u64> {
        let mut client = Client::connect(address)?;
        let mut answers = 0;
        while begun.elapsed() < time {
            client.post(path, body)?;
            answers += 1;
        }
        Ok(answers)
    };
    let answers = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections).map(|_| scope.spawn(ask)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a client panicked"))?)
            .sum::<Result<u64>>()
    })?;
    Ok(answers as f64 / begun.elapsed().as_secs_f64())
}
