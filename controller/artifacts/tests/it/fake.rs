//! A server that answers as a test tells it to.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Answers every request by `respond`, which gets its head and gives all bytes of the answer, and then hangs up.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    /// The heads of the requests that came.
    pub(crate) seen: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    pub(crate) async fn new(
        respond: impl Fn(&str, SocketAddr) -> Vec<u8> + Send + 'static,
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
                let answer = respond(&head, address);
                heads.lock().unwrap().push(head);
                let _ = stream.write_all(&answer).await;
                let _ = stream.shutdown().await;
            }
        });
        Self { address, seen }
    }

    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
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
