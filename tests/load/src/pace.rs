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
    /// Answered.
    pub(crate) per_second: f64,
    /// In microseconds, from when the request was due. Of all that were: those without an answer count as if it had come at
    /// the very end.
    pub(crate) p99: f64,
}

/// Asks for `path` over so many connections, together `rate` times a second, or as often as it is answered. What was due by
/// the end and not answered, which are the latest of all, is asked for and waited for as long again.
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
    let length = Duration::from_secs(seconds.into());
    let until = begun + length;
    let end = until + length;
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
    while let Some(wait) = ask(&mut clients, request.as_bytes(), until, end)? {
        retry_on_intr(|| poll(&mut ready, Some(&wait)))?;
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
    if times.is_empty() {
        bail!("no request was answered");
    }
    let per_second = times.len() as f64 / elapsed;
    let now = Instant::now();
    for client in &clients {
        times.extend(unanswered(client.due, every, until, now));
    }
    times.sort_unstable();
    let p99 = times.get(times.len() * 99 / 100).context("one was asked")?;
    Ok(Paced {
        per_second,
        p99: p99.as_secs_f64() * 1e6,
    })
}

/// How late a connection's requests are at `now` that were due before `until` and aren't answered: the one that was due at
/// `due`, and those after it.
fn unanswered(
    due: Instant,
    every: Option<Duration>,
    until: Instant,
    now: Instant,
) -> impl Iterator<Item = Duration> {
    std::iter::successors(Some(due), move |due| Some(*due + every?))
        .take_while(move |due| *due < until)
        .map(move |due| now.saturating_duration_since(due))
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

/// Sends what is due, of what is to be asked before `until`, and tells how long to wait for answers; none where all are there,
/// or `end` has come.
fn ask(
    clients: &mut [Client<'_>],
    request: &[u8],
    until: Instant,
    end: Instant,
) -> Result<Option<Timespec>> {
    let mut next: Option<Instant> = None;
    // Once: what gets due in between is seen the next time.
    let now = Instant::now();
    if now >= end {
        return Ok(None);
    }
    for client in clients {
        if !client.awaits {
            if client.due >= until {
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
        next = Some(next.unwrap_or(end));
    }
    let Some(next) = next else {
        return Ok(None);
    };
    let wait = next.saturating_duration_since(Instant::now());
    Ok(Some(wait.try_into()?))
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

    /// Serves one connection, each answer as late as told, and gives none where no more are told of.
    fn serve(mut late: impl Iterator<Item = Duration> + Send + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 4096];
            while stream.read(&mut buffer).is_ok_and(|length| length > 0) {
                let Some(late) = late.next() else { continue };
                std::thread::sleep(late);
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                    .unwrap();
            }
        });
        address
    }

    /// Is late with its first answer.
    fn late_once(late: Duration) -> SocketAddr {
        serve(std::iter::once(late).chain(std::iter::repeat(Duration::ZERO)))
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

    /// Would fail if requests that a late answer kept from being sent, or that are in flight, were no part of the sample, or
    /// others that were due only after the end.
    #[test]
    fn what_was_due_by_the_end_counts_without_an_answer() {
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let late = |due, every| -> Vec<u128> {
            unanswered(at(due), every, at(1000), at(1500))
                .map(|late| late.as_millis())
                .collect()
        };
        let every = Some(Duration::from_millis(200));
        assert_eq!(late(300, every), [1200, 1000, 800, 600]);
        assert_eq!(late(800, every), [700]);
        // Due when the run ends, it is no part of it.
        assert!(late(1000, every).is_empty());
        // Asked again when it is answered, there is but one.
        assert_eq!(late(300, None), [1200]);
    }

    /// Would fail if a server that falls silent were waited for without an end, or only what it answered counted.
    #[test]
    fn a_server_that_falls_silent_is_late() {
        let silent = serve(std::iter::once(Duration::ZERO));
        let found = run(silent, "/", 1, 1, Some(10.0)).unwrap();
        // The second request was due after a tenth of a second, and the end is that of two.
        assert!(found.p99 > 1_500_000.0, "{found:?}");
        assert!(found.per_second < 2.0, "{found:?}");
    }
}
