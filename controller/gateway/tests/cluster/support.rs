//! The binary, replicas and clients.

use std::convert::Infallible;
use std::io::BufRead as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use wisp_contract::FunctionId;
use wisp_load::{Child, FakeCluster};

/// A gateway that runs.
pub(crate) struct Gateway {
    pub(crate) child: Child,
    pub(crate) http: SocketAddr,
    pub(crate) https: Option<SocketAddr>,
    pub(crate) health: SocketAddr,
}

impl Gateway {
    /// Starts it, and waits until it is ready.
    pub(crate) async fn start(cluster: &FakeCluster, arguments: &[&str]) -> Self {
        Self::start_with(cluster, arguments, &[]).await
    }

    /// The same, with `variables` in its environment.
    pub(crate) async fn start_with(
        cluster: &FakeCluster,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wisp-gateway"));
        command
            .env("KUBECONFIG", cluster.kubeconfig())
            .args(["--http", "127.0.0.1:0", "--health", "127.0.0.1:0"])
            .args(["--operator", &cluster.operator().to_string()])
            .args(["--domain", "example.com", "--pod", "gateway-1"])
            .args(["--threads", "2"])
            .args(arguments)
            .envs(variables.iter().copied());
        let (child, mut output) = Child::start(&mut command).unwrap();
        let json = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        let address = |value: &serde_json::Value| value.as_str().unwrap().parse().unwrap();
        let (http, https, health, output) = tokio::task::spawn_blocking({
            let is_secure = arguments.contains(&"--https");
            move || {
                let (mut http, mut https, mut health) = (None, None, None);
                let mut line = String::new();
                while http.is_none() || (is_secure && https.is_none()) {
                    line.clear();
                    assert!(output.read_line(&mut line).unwrap() > 0, "it ended early");
                    eprint!("{line}");
                    let said = json(&line);
                    if let Some(found) = said.get("health") {
                        health = Some(address(found));
                    }
                    match said["scheme"].as_str() {
                        Some("http") => http = Some(address(&said["address"])),
                        Some("https") => https = Some(address(&said["address"])),
                        _ => {}
                    }
                }
                (http.unwrap(), https, health.unwrap(), output)
            }
        })
        .await
        .unwrap();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                eprintln!("{line}");
            }
        });
        let gateway = Self {
            child,
            http,
            https,
            health,
        };
        until(async || gateway.health("/readyz").await.status == StatusCode::OK).await;
        gateway
    }

    pub(crate) async fn health(&self, path: &str) -> Answer {
        get(self.health, "x", path).await
    }

    /// Asks with a host and a path.
    pub(crate) async fn get(&self, host: &str, path: &str) -> Answer {
        get(self.http, host, path).await
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

pub(crate) async fn get(address: SocketAddr, host: &str, path: &str) -> Answer {
    let stream = TcpStream::connect(address).await.unwrap();
    let mut sender = open(stream).await;
    ask(&mut sender, host, path).await
}

pub(crate) type Sender = hyper::client::conn::http1::SendRequest<Empty<Bytes>>;

pub(crate) async fn open<S>(stream: S) -> Sender
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(stream);
    let (sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub(crate) async fn ask(sender: &mut Sender, host: &str, path: &str) -> Answer {
    let request = Request::get(path).header("host", host);
    sender.ready().await.unwrap();
    let answer = sender.send_request(request.body(Empty::new()).unwrap());
    read(answer.await.unwrap()).await
}

pub(crate) async fn read(response: Response<Incoming>) -> Answer {
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer {
        status: head.status,
        headers: head.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}

/// A replica, which answers only whoever has its function's key: with its headers.
pub(crate) struct Replica {
    pub(crate) address: SocketAddr,
    pub(crate) requests: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Replica {
    pub(crate) async fn start(cluster: &FakeCluster, function: &FunctionId) -> Self {
        let listener = TcpListener::bind(own_address()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let key = cluster.key(function);
        let requests = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&requests);
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (key, counted) = (key.clone(), Arc::clone(&counted));
                let service = service_fn(move |request: Request<Incoming>| {
                    counted.fetch_add(1, Ordering::SeqCst);
                    let sent = request.headers().get("wisp-key");
                    let is_known = sent.is_some_and(|sent| sent.as_bytes() == key.as_bytes());
                    let headers: serde_json::Map<String, serde_json::Value> = request
                        .headers()
                        .iter()
                        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().into()))
                        .collect();
                    let text = serde_json::Value::from(headers).to_string();
                    let mut response = Response::new(Full::new(Bytes::from(text)));
                    if !is_known {
                        *response.status_mut() = StatusCode::FORBIDDEN;
                    }
                    async move { Ok::<_, Infallible>(response) }
                });
                connections.spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self {
            address,
            requests,
            accepting,
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The port of pods is given, so each replica gets a loopback address that no other process of this machine has.
fn own_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let next = NEXT.fetch_add(1, Ordering::SeqCst);
    let bits = 0x7f00_0000 | ((std::process::id() & 0xffff) << 8) | (next & 0xff);
    let ip = IpAddr::V4(Ipv4Addr::from_bits(bits | 0x0080_0000));
    SocketAddr::new(ip, wisp_contract::operator::pod::DATA_PORT)
}

/// Waits until something holds that another process brings about.
pub(crate) async fn until(holds: impl AsyncFn() -> bool) {
    let limit = std::time::Duration::from_secs(30);
    tokio::time::timeout(limit, async {
        while !holds().await {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("it never came to hold");
}
