//! A server that answers as a test tells it to.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Answers every request by `respond`, which gets its head and gives all bytes of the answer, and then hangs up.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    /// The heads of the requests that came.
    pub(crate) seen: Arc<Mutex<Vec<String>>>,
}

/// What becomes of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// It is read to its end.
    All,
    /// It is read to its end, and the answer comes so much later.
    Later(Duration),
    /// It isn't read, and no answer comes.
    Never,
}

impl Fake {
    pub(crate) async fn new(
        respond: impl Fn(&str, SocketAddr) -> Vec<u8> + Send + 'static,
    ) -> Self {
        Self::reading(respond, |_| Reading::All).await
    }

    /// One that reads the body after a head as `how` says.
    pub(crate) async fn reading(
        respond: impl Fn(&str, SocketAddr) -> Vec<u8> + Send + 'static,
        how: impl Fn(&str) -> Reading + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let heads = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else {
                        break;
                    };
                    head.push(byte);
                }
                let head = String::from_utf8(head).unwrap();
                heads.lock().unwrap().push(head.clone());
                let how = how(&head);
                if how == Reading::Never {
                    std::future::pending::<()>().await;
                }
                let mut body = (&mut stream).take(length(&head));
                let _ = tokio::io::copy(&mut body, &mut tokio::io::sink()).await;
                if let Reading::Later(pause) = how {
                    tokio::time::sleep(pause).await;
                }
                let _ = stream.write_all(&respond(&head, address)).await;
                let _ = stream.shutdown().await;
            }
        });
        Self { address, seen }
    }

    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

/// What a registry answers to who shows no login, and to `u` with the password `wrong`, who doesn't see anything there; `None` for
/// who does.
pub(crate) fn hidden(head: &str) -> Option<Vec<u8>> {
    if head.contains("Basic dTp3cm9uZw==") {
        return Some(answer("404 x", "", b""));
    }
    let challenge = "www-authenticate: Basic realm=\"x\"\r\n";
    (!head.contains("Basic ")).then(|| answer("401 no", challenge, b""))
}

/// How long the body after `head` is.
fn length(head: &str) -> u64 {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, value)| value.trim().parse().unwrap())
}

/// An answer with a body of its own length.
pub(crate) fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    promise(status, headers, body, body.len())
}

/// An answer that promises `length` bytes.
pub(crate) fn promise(status: &str, headers: &str, body: &[u8], length: usize) -> Vec<u8> {
    let mut bytes = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n"
    )
    .into_bytes();
    bytes.extend(body);
    bytes
}
