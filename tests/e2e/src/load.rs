//! Clients that ask until they are told to stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use http_body_util::BodyExt as _;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use wisp_integration::{Body, request};

use crate::PATIENCE;
use crate::counted::Counted;

/// Clients at work.
#[derive(Default)]
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    again: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

/// What clients asked, and what of it failed.
#[derive(Debug)]
pub struct Outcome {
    /// How many requests there were.
    pub asked: usize,
    /// What was answered that wasn't 200, and what wasn't answered.
    pub wrong: Vec<String>,
    /// How many were sent a second time: a connection that was kept was closed before any byte of an answer to them.
    pub again: usize,
}

impl Load {
    /// `count` clients that ask for `path`, a pause after each answer. Each keeps its connection, or has a new one for
    /// each request.
    #[must_use]
    pub fn start(
        gateway: SocketAddr,
        path: &str,
        count: usize,
        pause: Duration,
        is_kept: bool,
    ) -> Self {
        let mut load = Self::default();
        for _ in 0..count {
            load.join(gateway, path, vec![pause], is_kept);
        }
        load
    }

    /// Another client, which makes these pauses one after another, over and over.
    pub fn join(&mut self, gateway: SocketAddr, path: &str, pauses: Vec<Duration>, is_kept: bool) {
        let (stop, answered) = (Arc::clone(&self.stop), Arc::clone(&self.answered));
        let again = Arc::clone(&self.again);
        let path = path.to_owned();
        self.clients.push(tokio::spawn(async move {
            let mut wrong = Vec::new();
            let mut kept = None;
            let mut pauses = pauses.into_iter().cycle();
            while !stop.load(Ordering::Relaxed) {
                if !is_kept {
                    kept = None;
                }
                if let Err(error) = ask(gateway, &path, &mut kept, &again).await {
                    wrong.push(format!("{error:#}"));
                }
                answered.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(pauses.next().unwrap_or_default()).await;
            }
            wrong
        }));
    }

    /// How many requests have ended.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until `count` more requests have ended: what was true before is seen by those.
    ///
    /// # Errors
    /// When they never do.
    pub async fn more(&self, count: usize) -> Result<()> {
        let goal = self.answered() + count;
        let reached = async {
            while self.answered() < goal {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached)
            .await
            .context("the clients are stuck")
    }

    /// Tells them to stop, and what became of what they asked.
    ///
    /// # Errors
    /// When a client panicked.
    pub async fn stop(self) -> Result<Outcome> {
        self.stop.store(true, Ordering::Relaxed);
        let mut outcome = Outcome {
            asked: 0,
            wrong: Vec::new(),
            again: 0,
        };
        for client in self.clients {
            outcome.wrong.extend(client.await?);
        }
        outcome.asked = self.answered.load(Ordering::Relaxed);
        outcome.again = self.again.load(Ordering::Relaxed);
        Ok(outcome)
    }
}

impl Outcome {
    /// That there were requests, and none failed.
    ///
    /// # Errors
    /// With what failed.
    pub fn none_failed(&self) -> Result<()> {
        let failed = self.wrong.len();
        ensure!(
            failed == 0 && self.asked > 0,
            "{failed} of {} requests failed, such as {:#?}",
            self.asked,
            self.wrong.iter().take(3).collect::<Vec<_>>()
        );
        Ok(())
    }

    /// The same, and that no kept connection was closed under a request. HTTP has clients be ready for that, who ask again
    /// where that is safe; what isn't, as a POST, is lost.
    ///
    /// # Errors
    /// With what failed, or how many were asked again.
    pub fn none_cut_off(&self) -> Result<()> {
        self.none_failed()?;
        ensure!(
            self.again == 0,
            "connections were closed under {} of {} requests",
            self.again,
            self.asked
        );
        Ok(())
    }
}

/// Asks once and wants 200. Where the kept connection is closed before any byte of an answer, it asks again over a new one, as
/// HTTP lets a client do by itself with a GET (RFC 9110, 9.2.2; RFC 9112, 9.3.1). That is all: what broke off, came too late,
/// or was lost on a new connection is a failure.
async fn ask(
    gateway: SocketAddr,
    path: &str,
    kept: &mut Option<Connection>,
    again: &AtomicUsize,
) -> Result<()> {
    if let Some(mut connection) = kept.take()
        && connection.is_open().await
    {
        if let Ok(said) = connection.exchange(gateway, path).await {
            *kept = Some(connection);
            return said;
        }
        again.fetch_add(1, Ordering::Relaxed);
    }
    let mut connection = Connection::open(gateway).await?;
    let said = connection.exchange(gateway, path).await?;
    *kept = Some(connection);
    said
}

/// One connection's end that requests are sent from.
struct Connection {
    sender: SendRequest<Body>,
    /// How many bytes came.
    came: Arc<AtomicUsize>,
}

impl Connection {
    async fn open(gateway: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(gateway).await.context("no connection")?;
        stream.set_nodelay(true)?;
        let came = Arc::new(AtomicUsize::new(0));
        let socket = Counted::new(stream, Arc::clone(&came));
        let (sender, connection) = handshake(TokioIo::new(socket)).await?;
        tokio::spawn(connection);
        Ok(Self { sender, came })
    }

    /// Whether it wasn't closed since the last answer: else nothing is sent over it, and nothing lost.
    async fn is_open(&mut self) -> bool {
        matches!(within(self.sender.ready()).await, Ok(Ok(())))
    }

    /// The outer error is of a connection that was closed before any byte of an answer.
    async fn exchange(&mut self, gateway: SocketAddr, path: &str) -> Result<Result<()>> {
        let mut request = request(http::Method::GET, path, "")?;
        let host = http::HeaderValue::from_str(&gateway.to_string())?;
        request.headers_mut().insert("host", host);
        let before = self.came.load(Ordering::Relaxed);
        let response = match within(self.sender.send_request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) if self.came.load(Ordering::Relaxed) == before => {
                return Err(error).context("closed before it was answered");
            }
            Ok(Err(error)) => return Ok(Err(error).context("the answer's head broke off")),
            Err(late) => return Ok(Err(late)),
        };
        let status = response.status();
        let body = match within(response.into_body().collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) => return Ok(Err(error).context("the answer broke off")),
            Err(late) => return Ok(Err(late)),
        };
        if status == 200 {
            return Ok(Ok(()));
        }
        let said = String::from_utf8_lossy(&body).into_owned();
        Ok(Err(anyhow::anyhow!("{status}: {said}")))
    }
}

async fn within<T>(work: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(PATIENCE, work)
        .await
        .context("no answer at all")
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

    /// Serves one connection after another. The first one's second request is answered by `last`, and the connection is
    /// closed; all else is answered.
    async fn serve(listener: TcpListener, last: &[u8]) {
        let mut is_first = true;
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0_u8; 1024];
            let mut answered = 0;
            while let Ok(1..) = stream.read(&mut request).await {
                let is_last = is_first && answered == 1;
                let answer = if is_last { last } else { ANSWER };
                stream.write_all(answer).await.unwrap();
                if is_last {
                    break;
                }
                answered += 1;
            }
            is_first = false;
        }
    }

    async fn outcome(last: &'static [u8]) -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, last));
        let load = Load::start(address, "/", 1, Duration::ZERO, true);
        load.more(4).await.unwrap();
        load.stop().await.unwrap()
    }

    /// Would fail if a client asked again of its own accord after a part of an answer, which must count as lost, or gave a
    /// request up that every client asks again.
    #[tokio::test]
    async fn only_what_got_no_byte_of_an_answer_is_asked_again() {
        let closed = outcome(b"").await;
        assert_eq!((closed.wrong.len(), closed.again), (0, 1), "{closed:?}");
        assert!(closed.none_failed().is_ok() && closed.none_cut_off().is_err());
        let broken = outcome(b"HTTP/1.1 200 OK\r\n").await;
        assert_eq!((broken.wrong.len(), broken.again), (1, 0), "{broken:?}");
    }
}
