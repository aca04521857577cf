//! A gateway, upstreams and clients, all on 127.0.0.1:0.

use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wisp_contract::FunctionId;
use wisp_contract::config::Limits;
use wisp_gateway::{
    ActivateError, Activator, Endpoint, FunctionRoute, Gateway, Options, RequestReport,
    RequestReporter,
};

pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

pub(crate) fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into())
        .map_err(|never| match never {})
        .boxed()
}

pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

/// A body that is sent as the channel fills, and that knows when it was dropped: the sender is closed.
pub(crate) fn channel() -> (mpsc::Sender<Result<Bytes, std::io::Error>>, Body) {
    let (sender, receiver) = mpsc::channel(16);
    let frames = futures::stream::unfold(
        receiver,
        |mut receiver: mpsc::Receiver<Result<Bytes, std::io::Error>>| async move {
            let item = receiver.recv().await?;
            Some((item.map(Frame::data), receiver))
        },
    );
    (sender, http_body_util::StreamBody::new(frames).boxed())
}

/// An upstream whose responses the test writes, one channel each.
pub(crate) async fn written() -> (
    Upstream,
    mpsc::UnboundedReceiver<mpsc::Sender<Result<Bytes, std::io::Error>>>,
) {
    let (announce, announced) = mpsc::unbounded_channel();
    let upstream = Upstream::new(move |_| {
        let announce = announce.clone();
        async move {
            let (sender, body) = channel();
            let _ = announce.send(sender);
            Response::builder()
                .header("content-type", "text/event-stream")
                .body(body)
                .unwrap()
        }
    })
    .await;
    (upstream, announced)
}

pub(crate) fn id(text: &str) -> FunctionId {
    text.parse().unwrap()
}

pub(crate) fn route(name: &str, hosts: &[&str]) -> FunctionRoute {
    FunctionRoute {
        id: id(name),
        hosts: hosts.iter().map(ToString::to_string).collect(),
        held: Default::default(),
        created: 0,
        limits: Limits::default(),
    }
}

pub(crate) fn endpoint(address: SocketAddr, concurrency: u32) -> Endpoint {
    Endpoint {
        address,
        concurrency,
        key: None,
    }
}

/// Starts nothing.
pub(crate) struct Never;

impl Activator for Never {
    fn ensure<'a>(
        &'a self,
        _: &'a FunctionId,
        _: Option<wisp_traces::Context>,
    ) -> BoxFuture<'a, Result<(), ActivateError>> {
        Box::pin(std::future::pending())
    }
}

/// A gateway that serves.
pub(crate) struct Bed {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) address: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    pub(crate) running: JoinHandle<std::io::Result<()>>,
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self::with(Arc::new(Never), Options::default())
    }

    pub(crate) fn with(activator: Arc<dyn Activator>, options: Options) -> Self {
        let gateway = Gateway::new(activator, options, tokio::runtime::Handle::current());
        let server = gateway
            .bind(
                "127.0.0.1:0".parse().unwrap(),
                NonZeroUsize::new(2).unwrap(),
            )
            .unwrap();
        let (address, shutdown) = (server.local_addr(), CancellationToken::new());
        let running = tokio::spawn(server.run(shutdown.clone()));
        Self {
            gateway,
            address,
            shutdown,
            running,
        }
    }

    /// The function `a/b` on one upstream.
    pub(crate) fn serving(upstream: &Upstream) -> Self {
        let bed = Self::new();
        bed.gateway.insert_route(route("a/b", &[]));
        assert!(
            bed.gateway
                .insert_endpoint(&id("a/b"), &endpoint(upstream.address, 64))
        );
        bed
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(empty()).unwrap()).await
    }

    /// Sends a request on a connection of its own. Where it names no host, it gets the gateway's address.
    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        self.open(request).await.read().await
    }

    /// The same, without reading the body.
    pub(crate) async fn open(&self, mut request: Request<Body>) -> Streamed {
        let mut client = Client::connect(self.address).await;
        if !request.headers().contains_key("host") {
            request
                .headers_mut()
                .insert("host", self.address.to_string().parse().unwrap());
        }
        let response = client.sender.send_request(request).await.unwrap();
        Streamed {
            response,
            _client: client,
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// One client's connection, closed when this is dropped.
pub(crate) struct Client {
    pub(crate) sender: hyper::client::conn::http1::SendRequest<Body>,
    connection: JoinHandle<()>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        Self {
            sender,
            connection: tokio::spawn(async move { _ = connection.await }),
        }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.sender.ready().await.unwrap();
        let request = Request::get(path)
            .header("host", "x")
            .body(empty())
            .unwrap();
        read(self.sender.send_request(request).await.unwrap()).await
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

pub(crate) struct Streamed {
    pub(crate) response: Response<Incoming>,
    _client: Client,
}

impl Streamed {
    pub(crate) async fn read(self) -> Answer {
        read(self.response).await
    }

    /// The next bytes of the body; `None` at its end.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, hyper::Error>> {
        Some(
            self.response
                .frame()
                .await?
                .map(|frame| frame.into_data().unwrap()),
        )
    }
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// Checks that this is a problem, and returns its reason.
    pub(crate) fn reason(&self) -> String {
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{}",
            self.body
        );
        let problem = self.json();
        assert_eq!(problem["status"], self.status.as_u16());
        assert_eq!(problem["requestId"], self.header("x-request-id"));
        assert_eq!(
            problem["retryable"].as_bool().unwrap(),
            self.headers.contains_key("retry-after")
        );
        problem["reason"].as_str().unwrap().to_owned()
    }
}

pub(crate) async fn read(response: Response<Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer {
        status: parts.status,
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}

/// Writes bytes as they stand while reading until the gateway closes.
pub(crate) async fn raw(address: SocketAddr, text: &[u8]) -> String {
    let (mut reader, mut writer) = TcpStream::connect(address).await.unwrap().into_split();
    let text = text.to_vec();
    // It may answer and close before it has read everything.
    let writing = tokio::spawn(async move {
        let _ = writer.write_all(&text).await;
        writer
    });
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = reader.read(&mut piece).await {
        answer.extend_from_slice(&piece[..length]);
    }
    drop(writing.await);
    String::from_utf8_lossy(&answer).into_owned()
}

/// HTTP/2 with prior knowledge.
pub(crate) async fn http2(address: SocketAddr) -> hyper::client::conn::http2::SendRequest<Body> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    sender
}

/// A replica.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
    pub(crate) requests: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Upstream {
    pub(crate) async fn new<F, R>(handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, requests) =
            (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (counted, asked) = (Arc::clone(&connections), Arc::clone(&requests));
        let accepting = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let (handler, asked) = (handler.clone(), Arc::clone(&asked));
                let service = service_fn(move |request| {
                    asked.fetch_add(1, Ordering::SeqCst);
                    let answer = handler(request);
                    async move { Ok::<_, std::io::Error>(answer.await) }
                });
                tasks.spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self {
            address,
            connections,
            requests,
            accepting,
        }
    }

    /// Answers with `text`.
    pub(crate) async fn saying(text: &'static str) -> Self {
        Self::new(move |_| async move { Response::new(full(text)) }).await
    }

    /// Answers with what it was asked, as JSON.
    pub(crate) async fn echo() -> Self {
        Self::new(|request| async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let headers: Vec<(String, String)> =
                parts.headers.iter().map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect();
            let json = serde_json::json!({
                "method": parts.method.as_str(), "uri": parts.uri.to_string(), "headers": headers, "body": String::from_utf8_lossy(&body),
            });
            Response::new(full(json.to_string()))
        })
        .await
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The values of a header in what [`Upstream::echo`] answered.
pub(crate) fn echoed<'a>(json: &'a serde_json::Value, name: &str) -> Vec<&'a str> {
    json["headers"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|pair| pair[0] == name)
        .map(|pair| pair[1].as_str().unwrap())
        .collect()
}

/// Keeps every report.
#[derive(Default)]
pub(crate) struct Reports {
    pub(crate) all: Mutex<Vec<RequestReport>>,
    pub(crate) came: tokio::sync::Notify,
}

impl RequestReporter for Reports {
    fn report(&self, request: RequestReport) {
        self.all.lock().unwrap().push(request);
        self.came.notify_one();
    }
}

impl Reports {
    /// Waits for so many reports.
    pub(crate) async fn wait(&self, count: usize) -> Vec<RequestReport> {
        loop {
            let came = self.came.notified();
            let all = self.all.lock().unwrap().clone();
            if all.len() >= count {
                return all;
            }
            came.await;
        }
    }
}

/// Waits, yielding, until something holds that another thread brings about.
pub(crate) async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}
