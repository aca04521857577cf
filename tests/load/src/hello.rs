//! The baseline of what is served: a few bytes by hyper, one thread per core, nothing else. Or, without even hyper, what
//! the load generator can ask at all.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZeroUsize;

use anyhow::Result;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Response};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What every request is answered with.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Headers beside the length and the date.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub body: Bytes,
    /// Whether to write these bytes for whatever arrives, without reading HTTP: no server is faster.
    pub canned: bool,
}

impl Answer {
    /// `hello` as text.
    #[must_use]
    pub fn hello() -> Self {
        Self {
            headers: vec![(CONTENT_TYPE, HeaderValue::from_static("text/plain"))],
            body: Bytes::from_static(b"hello"),
            canned: false,
        }
    }

    fn response(&self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body.clone()));
        response.headers_mut().extend(self.headers.iter().cloned());
        response
    }

    fn bytes(&self) -> Vec<u8> {
        let mut head =
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n", self.body.len()).into_bytes();
        for (name, value) in &self.headers {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        head.extend_from_slice(&self.body);
        head
    }
}

/// Serves `answer` on `address` with so many threads, for ever; `ready` is called once all listen.
///
/// # Errors
/// When the address isn't to be had.
pub fn serve(
    address: SocketAddr,
    threads: NonZeroUsize,
    answer: &Answer,
    ready: impl FnOnce(SocketAddr),
) -> Result<()> {
    let mut workers = Vec::new();
    let mut bound = address;
    for _ in 0..threads.get() {
        let socket = Socket::new(
            Domain::for_address(bound),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&bound.into())?;
        socket.listen(1024)?;
        socket.set_nonblocking(true)?;
        let listener = std::net::TcpListener::from(socket);
        bound = listener.local_addr()?;
        let answer = answer.clone();
        workers.push(std::thread::spawn(move || work(listener, &answer)));
    }
    ready(bound);
    for worker in workers {
        worker
            .join()
            .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
    }
    Ok(())
}

fn work(listener: std::net::TcpListener, answer: &Answer) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            if answer.canned {
                tokio::spawn(parrot(stream, answer.bytes()));
                continue;
            }
            let answer = answer.clone();
            let service = service_fn(move |_| {
                let response = answer.response();
                async { Ok::<_, Infallible>(response) }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    })
}

/// Writes `answer` for each read, as a client that awaits each answer sends one request at a time.
async fn parrot(mut stream: TcpStream, answer: Vec<u8>) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).await? > 0 {
        stream.write_all(&answer).await?;
    }
    Ok(())
}
