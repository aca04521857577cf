//! What the operator asks of a host's control port.

use std::net::IpAddr;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use tokio::net::TcpStream;
use wisp_contract::assignment::Key;
use wisp_contract::keys::Root;
use wisp_contract::operator::pod::{CLAIMED_FROM, CONTROL_PORT, POOL, POOL_UID};
use wisp_contract::status::HostStatus;
use wisp_contract::{FunctionId, Problem, headers};

/// The largest answer.
const LARGEST: usize = 1 << 20;

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

    /// Whether the host could not become the function, by the function's own fault.
    #[must_use]
    pub fn is_functions(&self) -> bool {
        matches!(self, Self::Refused(problem) if problem.reason == "failed")
    }
}

/// The key of the control port of a pod that stands by in a pool, or was taken from one.
#[must_use]
pub fn pool_key(root: &Root, pod: &Pod) -> Option<Key> {
    let is_pools = [POOL, CLAIMED_FROM]
        .iter()
        .any(|label| pod.labels().contains_key(*label));
    let pool = pod.annotations().get(POOL_UID).filter(|_| is_pools)?;
    Some(root.pool(pool))
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
    let answer = ask(address, key, Method::GET, "/status", Bytes::new()).await?;
    serde_json::from_slice(&answer).map_err(|error| ControlError::Broken(error.into()))
}

/// Has a host become the function of `assignment`, waits until it serves, and gives what it then says of itself.
///
/// # Errors
/// When it is a function's already, or can't be this one's.
pub async fn assign(
    address: IpAddr,
    key: &Key,
    assignment: Bytes,
) -> Result<HostStatus, ControlError> {
    let answer = ask(address, key, Method::POST, "/assign", assignment).await?;
    serde_json::from_slice(&answer).map_err(|error| ControlError::Broken(error.into()))
}

async fn ask(
    address: IpAddr,
    key: &Key,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Bytes, ControlError> {
    let stream = TcpStream::connect((address, CONTROL_PORT))
        .await
        .map_err(ControlError::Unreached)?;
    let _ = stream.set_nodelay(true);
    exchange(stream, key, method, path, body).await
}

async fn exchange(
    stream: TcpStream,
    key: &Key,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Bytes, ControlError> {
    let broken = |error: Box<dyn std::error::Error + Send + Sync>| ControlError::Broken(error);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(error.into()))?;
    let driven = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, "replica")
        .header(headers::KEY, &key.0)
        .body(Full::new(body))
        .map_err(|error| broken(error.into()))?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST)
            .collect()
            .await?
            .to_bytes();
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>((status, body))
    };
    let answer = answer.await;
    driven.abort();
    let (status, body) = answer.map_err(broken)?;
    if status == StatusCode::OK {
        return Ok(body);
    }
    let problem: Problem = serde_json::from_slice(&body).map_err(|error| broken(error.into()))?;
    Err(ControlError::Refused(Box::new(problem)))
}
