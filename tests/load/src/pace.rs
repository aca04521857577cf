//! Requests by the clock: each is due whether or not the last was answered, so that a server that falls behind shows. One
//! thread asks over all connections. It waits by ppoll, to some fifty microseconds: by a timer of a millisecond requests would
//! be late that the server answers at once, and come in flocks.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;

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
    let request = format!("GET {path} HTTP/1.1\r\nhost: load\r\n\r\n");
    let every = rate.map(|rate| Duration::from_secs_f64(f64::from(connections) / rate));
    let streams: Vec<TcpStream> = (0..connections)
        .map(|_| connect(address))
        .collect::<Result<_>>()?;
    let mut ready: Vec<PollFd<'_>> = streams
        .iter()
        .map(|stream| PollFd::new(stream, PollFlags::IN))
        .collect();
    let begun = Instant::now();
    let until = begun + Duration::from_secs(seconds.into());
    let mut clients: Vec<Client<'_>> = (0..connections)
        .zip(&streams)
        .map(|(index, stream)| Client {
            stream,
            // Spread over one period, so that they don't all come at once.
            due: begun + every.unwrap_or_default() * index / connections.max(1),
            awaits: false,
            answer: Vec::with_capacity(4096),
        })
        .collect();
    let mut times = Vec::new();
    while let Some(wait) = ask(&mut clients, request.as_bytes(), until)? {
        retry_on_intr(|| poll(&mut ready, wait.as_ref()))?;
        for (client, ready) in clients.iter_mut().zip(&ready) {
            if !ready.revents().is_empty() && client.is_answered()? {
                let now = Instant::now();
                times.push(now - client.due);
                client.due = every.map_or(now, |every| client.due + every);
            }
        }
    }
    // By the clock the last answer may come before the end.
    let elapsed = begun.elapsed().as_secs_f64().max(seconds.into());
    times.sort_unstable();
    let p99 = times
        .get(times.len() * 99 / 100)
        .context("no request was answered")?;
    Ok(Paced {
        per_second: times.len() as f64 / elapsed,
        p99: p99.as_secs_f64() * 1e6,
    })
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// One connection.
struct Client<'a> {
    stream: &'a TcpStream,
    /// When the request is to be sent, or was to be while its answer is awaited.
    due: Instant,
    awaits: bool,
    answer: Vec<u8>,
}

impl Client<'_> {
    /// Reads what is there, and tells whether the answer is whole with that.
    fn is_answered(&mut self) -> Result<bool> {
        let mut piece = [0; 4096];
        match self.stream.read(&mut piece) {
            Ok(0) => bail!("the server hung up"),
            Ok(length) => self
                .answer
                .extend_from_slice(piece.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        let is_whole = self.awaits && is_whole(&self.answer)?;
        self.awaits &= !is_whole;
        Ok(is_whole)
    }
}

/// Sends what is due before `until`, and tells how long to wait for answers, or without an end; none where all is over.
fn ask(
    clients: &mut [Client<'_>],
    request: &[u8],
    until: Instant,
) -> Result<Option<Option<Timespec>>> {
    let mut next: Option<Instant> = None;
    let mut awaits = false;
    // Once: what gets due in between is seen the next time.
    let now = Instant::now();
    for client in clients {
        if !client.awaits {
            if client.due.max(now) >= until {
                continue;
            }
            if client.due > now {
                next = Some(next.map_or(client.due, |next| next.min(client.due)));
                continue;
            }
            client.answer.clear();
            client.stream.write_all(request)?;
            client.awaits = true;
        }
        awaits = true;
    }
    let Some(next) = next else {
        return Ok(awaits.then_some(None));
    };
    let wait = next.saturating_duration_since(Instant::now());
    Ok(Some(Some(wait.try_into()?)))
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::num::NonZeroUsize;

    use super::*;
    use crate::hello::Answer;

    /// Serves one connection, and is late with its first answer.
    fn late_once(late: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 4096];
            let mut late = Some(late);
            while stream.read(&mut buffer).is_ok_and(|length| length > 0) {
                std::thread::sleep(late.take().unwrap_or_default());
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                    .unwrap();
            }
        });
        address
    }

    /// Would fail if several connections asked more often together than they were told to, or all for one.
    #[test]
    fn connections_share_the_rate() {
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            let ready = |address| tell.send(address).unwrap();
            crate::hello::serve(any, NonZeroUsize::MIN, &Answer::hello(), ready)
        });
        let found = run(told.recv().unwrap(), "/", 8, 1, Some(400.0)).unwrap();
        assert!((1.0..=400.0).contains(&found.per_second), "{found:?}");
    }

    /// Would fail if a request that waited for a late answer counted from when it was sent: then one of hundreds is late.
    #[test]
    fn what_waits_for_a_late_answer_is_late() {
        let late = Duration::from_millis(300);
        let found = run(late_once(late), "/", 1, 1, Some(200.0)).unwrap();
        assert!(found.p99 > 200_000.0, "{found:?}");
        assert!(found.per_second < 250.0, "{found:?}");
    }
}
