//! Servers of this process, on the address of this machine that pods reach.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::thread;

use anyhow::{Context as _, Result};
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

/// Listens at the address of this machine that pods reach.
pub(crate) fn listen_to_pods(registry: &str) -> io::Result<TcpListener> {
    // The address that the registry is spoken to from is on the nodes' network; nothing is sent for it.
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(registry)?;
    TcpListener::bind((socket.local_addr()?.ip(), 0))
}

/// Has `answer` answer HTTP there, in a thread of its own, for as long as the process lives; gives the address.
pub(crate) fn serve_pods<A, F, B>(name: &str, registry: &str, answer: A) -> Result<SocketAddr>
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response<B>>> + Send,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let listener = listen_to_pods(registry)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || runtime.block_on(accept(listener, answer)))
        .with_context(|| format!("no thread for the {name}"))?;
    Ok(address)
}

async fn accept<A, F, B>(listener: TcpListener, answer: A) -> io::Result<()>
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response<B>>> + Send,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let service = service_fn(answer.clone());
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}
