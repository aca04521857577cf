//! The baseline of what is served: a few bytes by hyper, one thread per core, nothing else.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZeroUsize;

use anyhow::Result;
use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol, Socket, Type};

/// Serves `hello` on `address` with so many threads, for ever; `ready` is called once all listen.
///
/// # Errors
/// When the address isn't to be had.
pub fn serve(
    address: SocketAddr,
    threads: NonZeroUsize,
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
        workers.push(std::thread::spawn(move || work(listener)));
    }
    ready(bound);
    for worker in workers {
        worker
            .join()
            .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
    }
    Ok(())
}

fn work(listener: std::net::TcpListener) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let service = service_fn(|_| async {
                let mut response = Response::new(Full::new(Bytes::from_static(b"hello")));
                response.headers_mut().insert(
                    http::header::CONTENT_TYPE,
                    http::HeaderValue::from_static("text/plain"),
                );
                Ok::<_, Infallible>(response)
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    })
}
