//! Where a function's models compute: its replicas are asked, once per revision.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use wisp_api::Function;
use wisp_contract::FunctionId;
use wisp_contract::assignment::Key;
use wisp_contract::headers;
use wisp_contract::operator::pod::CONTROL_PORT;
use wisp_contract::status::HostStatus;

use super::Context;
use crate::cluster::pods;
use crate::live::{Live, Plan, lock};

/// The largest status.
const LARGEST: usize = 1 << 20;
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the models of the revision that serves compute; unknown until a replica was asked, which this begins.
pub fn of(
    context: &Context,
    id: &FunctionId,
    function: &Function,
    live: &Arc<Live>,
    plan: Option<&Plan>,
) -> Option<String> {
    let before = || {
        function
            .status
            .as_ref()
            .and_then(|status| status.device.clone())
    };
    if function.spec.models.is_empty() {
        return None;
    }
    let plan = plan?;
    let mut device = lock(&live.device);
    match device.as_ref() {
        Some((revision, known)) if *revision == plan.serving => {
            return known.clone().or_else(before);
        }
        _ => {}
    }
    let pods = context.cluster.pods.of(id);
    let serves = |pod: &&Arc<_>| pods::is_ready(pod) && pods::revision(pod) == Some(&plan.serving);
    if let Some(address) = pods.iter().find(serves).and_then(|pod| pods::address(pod)) {
        *device = Some((plan.serving.clone(), None));
        let key = context
            .settings
            .root
            .control(id, function.metadata.uid.as_deref().unwrap_or_default());
        let (live, id, cluster) = (Arc::clone(live), id.clone(), Arc::clone(&context.cluster));
        tokio::spawn(async move {
            let asked = tokio::time::timeout(PATIENCE, ask(address, &key)).await;
            let Ok(Ok(status)) = asked else {
                tracing::debug!(function = %id, "a replica didn't tell its status");
                *lock(&live.device) = None;
                return;
            };
            if let Some((_, known)) = lock(&live.device).as_mut() {
                *known = summary(&status);
            }
            cluster.reconcile(&id);
        });
    }
    before()
}

/// Every device once, in the order of the models.
fn summary(status: &HostStatus) -> Option<String> {
    let mut devices: Vec<&str> = Vec::new();
    for model in &status.models {
        if !devices.contains(&model.device.as_str()) {
            devices.push(&model.device);
        }
    }
    (!devices.is_empty()).then(|| devices.join(", "))
}

async fn ask(
    address: IpAddr,
    key: &Key,
) -> Result<HostStatus, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect((address, CONTROL_PORT)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get("/status")
        .header(http::header::HOST, "replica")
        .header(headers::KEY, &key.0)
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let body = Limited::new(response.into_body(), LARGEST)
        .collect()
        .await?
        .to_bytes();
    Ok(serde_json::from_slice(&body)?)
}
