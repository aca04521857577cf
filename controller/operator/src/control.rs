//! What the operator asks of a host's control port.

use std::fs::File;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::header::{HOST, HeaderValue};
use http::{Request, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde::de::DeserializeOwned;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;
use wisp_contract::assignment::{Held, Key};
use wisp_contract::keys::Root;
use wisp_contract::operator::pod::{CLAIMED_FROM, CONTROL_PORT, POOL, POOL_UID};
use wisp_contract::parts::Parts;
use wisp_contract::status::HostStatus;
use wisp_contract::{FunctionId, Problem, headers};

use crate::artifacts;

/// The largest answer.
const LARGEST: usize = 1 << 20;
/// How long a host may take to acknowledge what it was sent, or to read on.
const SILENCE: Duration = Duration::from_secs(15);
/// How long connecting to a host may take: it is near, or its node is gone.
const CONNECTED_WITHIN: Duration = Duration::from_secs(2);
/// A connection without a word for so long is tried.
const QUIET: Duration = Duration::from_secs(30);

/// Why a host didn't do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nothing was sent.
    #[error("the host can't be reached")]
    Unreached(#[source] std::io::Error),
    /// What became of what was sent is unknown.
    #[error("the host broke the connection")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It answered, and not with what was asked for.
    #[error("the host refused: {}", .0.detail)]
    Refused(Box<Problem>),
}

impl ControlError {
    /// Whether the host is a function's already.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        matches!(self, Self::Refused(problem) if problem.reason == "assigned")
    }

    /// Whether nobody knows what became of what was sent.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        matches!(self, Self::Broken(_))
    }

    /// Whether the host could not become the function, by the function's own fault.
    #[must_use]
    pub fn is_functions(&self) -> bool {
        matches!(self, Self::Refused(problem) if problem.reason == "failed")
    }
}

/// The key of the control port of a pod that stands by in a pool, or was taken from one. What the pod says of its pool may be
/// a lie; the key is of use in the pod's own namespace alone, where whoever makes pods may read the pool's Secret anyway.
#[must_use]
pub fn pool_key(root: &Root, pod: &Pod) -> Option<Key> {
    let is_pools = [POOL, CLAIMED_FROM]
        .iter()
        .any(|label| pod.labels().contains_key(*label));
    let pool = pod.annotations().get(POOL_UID).filter(|_| is_pools)?;
    Some(root.pool(&pod.namespace()?, pool))
}

/// The key of the control port of a function's pod. `uid` is the Function object's.
#[must_use]
pub fn key(root: &Root, pod: &Pod, id: &FunctionId, uid: &str) -> Key {
    pool_key(root, pod).unwrap_or_else(|| root.control(id, uid))
}

/// What a host says of itself.
///
/// # Errors
/// When it doesn't.
pub async fn status(address: IpAddr, key: &Key) -> Result<HostStatus, ControlError> {
    let request = Request::get("/status").body(whole(Bytes::new()));
    let mut connection = Connection::open(address).await?;
    connection.exchange(key, request).await
}

/// An artifact that is sent along with an Assignment.
#[derive(Debug)]
pub struct Part {
    /// Its digest, in lower-case hex.
    pub sha256: String,
    /// How many bytes it has.
    pub length: u64,
    /// Its bytes.
    pub file: File,
}

/// A connection to a host's control port. It is closed when this is dropped.
#[derive(Debug)]
pub struct Connection {
    requests: http1::SendRequest<Body>,
    _driven: AbortOnDropHandle<()>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When nobody answers there.
    pub async fn open(address: IpAddr) -> Result<Self, ControlError> {
        let connecting = TcpStream::connect((address, CONTROL_PORT));
        let stream = tokio::time::timeout(CONNECTED_WITHIN, connecting)
            .await
            .unwrap_or_else(|elapsed| Err(elapsed.into()))
            .map_err(ControlError::Unreached)?;
        attend(&stream).map_err(ControlError::Unreached)?;
        let (requests, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| ControlError::Broken(error.into()))?;
        let driven = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a host ended early");
            }
        });
        Ok(Self {
            requests,
            _driven: AbortOnDropHandle::new(driven),
        })
    }

    /// One that was kept, or a new one.
    ///
    /// # Errors
    /// When there is none, and nobody answers.
    pub async fn kept_or_opened(kept: Option<Self>, address: IpAddr) -> Result<Self, ControlError> {
        match kept {
            Some(kept) => Ok(kept),
            None => Self::open(address).await,
        }
    }

    /// Whether it can be asked something.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.requests.is_ready()
    }

    /// Has the host become the function of `assignment` with these artifacts, waits until it serves, and gives what it then
    /// says of itself.
    ///
    /// # Errors
    /// When it is a function's already, or can't be this one's.
    pub async fn assign(
        &mut self,
        key: &Key,
        assignment: Bytes,
        artifacts: Vec<Part>,
    ) -> Result<HostStatus, ControlError> {
        self.post("/assign", key, assignment, artifacts).await
    }

    /// Has the host, which stands by, have what `hold` names ready, with the artifacts that it doesn't have yet. Gives what
    /// it has then.
    ///
    /// # Errors
    /// When it doesn't stand by any more, or can't.
    pub async fn hold(
        &mut self,
        key: &Key,
        hold: Bytes,
        artifacts: Vec<Part>,
    ) -> Result<Held, ControlError> {
        self.post("/hold", key, hold, artifacts).await
    }

    async fn post<T: DeserializeOwned>(
        &mut self,
        path: &str,
        key: &Key,
        first: Bytes,
        artifacts: Vec<Part>,
    ) -> Result<T, ControlError> {
        let parts = Parts {
            assignment: first.len() as u64,
            artifacts: artifacts
                .iter()
                .map(|part| (part.sha256.clone(), part.length))
                .collect(),
        };
        let first = stream::iter([Ok(Frame::data(first))]);
        let rest = stream::iter(artifacts).flat_map(|part| artifacts::frames(part.file));
        let request = Request::post(path)
            .header(headers::PARTS, parts.to_string())
            .body(BoxBody::new(StreamBody::new(first.chain(rest))));
        self.exchange(key, request).await
    }

    async fn exchange<T: DeserializeOwned>(
        &mut self,
        key: &Key,
        request: http::Result<Request<Body>>,
    ) -> Result<T, ControlError> {
        let broken = |error: Box<dyn std::error::Error + Send + Sync>| ControlError::Broken(error);
        let mut request = request.map_err(|error| broken(error.into()))?;
        let key = HeaderValue::from_str(&key.0).map_err(|error| broken(error.into()))?;
        request.headers_mut().insert(headers::KEY, key);
        request
            .headers_mut()
            .insert(HOST, HeaderValue::from_static("replica"));
        let answer = async {
            let response = self.requests.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LARGEST)
                .collect()
                .await?
                .to_bytes();
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((status, body))
        };
        let (status, body) = answer.await.map_err(broken)?;
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).map_err(|error| broken(error.into()));
        }
        let problem: Problem =
            serde_json::from_slice(&body).map_err(|error| broken(error.into()))?;
        Err(ControlError::Refused(Box::new(problem)))
    }
}

/// Nothing waits for more to send, and whoever is gone without a word is missed soon: a connection is kept for long, and
/// a node may lose its power meanwhile.
fn attend(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let probes = TcpKeepalive::new()
        .with_time(QUIET)
        .with_interval(SILENCE / 2);
    socket.set_tcp_keepalive(&probes)?;
    socket.set_tcp_user_timeout(Some(SILENCE))
}

type Body = BoxBody<Bytes, std::io::Error>;

fn whole(body: Bytes) -> Body {
    Full::new(body).map_err(|never| match never {}).boxed()
}
