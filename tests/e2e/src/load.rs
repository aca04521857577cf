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

/// Clients at work.
#[derive(Default)]
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

/// What clients asked, and what of it failed.
#[derive(Debug)]
pub struct Outcome {
    /// How many requests there were.
    pub asked: usize,
    /// What was answered that wasn't 200.
    pub wrong: Vec<String>,
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
        let path = path.to_owned();
        self.clients.push(tokio::spawn(async move {
            let mut wrong = Vec::new();
            let mut kept = None;
            let mut pauses = pauses.into_iter().cycle();
            while !stop.load(Ordering::Relaxed) {
                if !is_kept {
                    kept = None;
                }
                if let Err(error) = ask(gateway, &path, &mut kept).await {
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
        };
        for client in self.clients {
            outcome.wrong.extend(client.await?);
        }
        outcome.asked = self.answered.load(Ordering::Relaxed);
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
}

/// One connection's end that requests are sent from.
type Kept = Option<SendRequest<Body>>;

/// Asks once and wants 200. A kept connection may have been closed since the last answer: then it asks again over a new
/// one, as every HTTP client does with a GET.
async fn ask(gateway: SocketAddr, path: &str, kept: &mut Kept) -> Result<()> {
    if let Some(connection) = kept.as_mut()
        && let Ok(said) = exchange(connection, gateway, path).await
    {
        return said;
    }
    let mut connection = connect(gateway).await?;
    let said = exchange(&mut connection, gateway, path).await?;
    *kept = Some(connection);
    said
}

async fn connect(gateway: SocketAddr) -> Result<SendRequest<Body>> {
    let stream = TcpStream::connect(gateway).await.context("no connection")?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// The outer error is of a connection that was over before it had answered.
async fn exchange(
    connection: &mut SendRequest<Body>,
    gateway: SocketAddr,
    path: &str,
) -> Result<Result<()>> {
    let mut request = request(http::Method::GET, path, "")?;
    let host = http::HeaderValue::from_str(&gateway.to_string())?;
    request.headers_mut().insert("host", host);
    let asked = async {
        connection.ready().await?;
        connection.send_request(request).await
    };
    let response = within(asked).await??;
    let status = response.status();
    let body = match within(response.into_body().collect()).await? {
        Ok(body) => body.to_bytes(),
        Err(error) => return Ok(Err(error).context("the answer broke off")),
    };
    if status == 200 {
        return Ok(Ok(()));
    }
    let said = String::from_utf8_lossy(&body).into_owned();
    Ok(Err(anyhow::anyhow!("{status}: {said}")))
}

async fn within<T>(work: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(PATIENCE, work)
        .await
        .context("no answer at all")
}
