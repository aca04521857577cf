//! A function of a cluster: by its URL where that can be reached, else through a port that is forwarded to a gateway.

use std::time::{Duration, Instant};

use super::request::Body;
use super::{InvokeError, answer, request, send};
use crate::args::Invoke;
use crate::cluster::{Cluster, Gateway};
use crate::failure::causes;
use crate::terminal::Terminal;

/// How long it is tried to connect to a URL: one of a cluster may lead to an address that swallows everything.
const CONNECT: Duration = Duration::from_secs(3);

/// Asks, and prints the answer; returns whether it is a 2xx.
pub(super) async fn exchange(
    args: &Invoke,
    body: Option<Body>,
    terminal: &Terminal,
) -> Result<bool, InvokeError> {
    let cluster = Cluster::connect(&args.target_cluster).await?;
    let id = cluster.id(&args.target)?;
    let function = cluster.function(&id).await?;
    let url = function
        .status
        .and_then(|status| status.url)
        .ok_or(InvokeError::NoUrl(id))?;
    let request = request::request(args, body, Some(&url), None)?;
    let mut sent = Instant::now();
    let response = match send(request.clone(), Some(CONNECT)).await {
        Err(error) if is_unreachable(&error) => {
            let gateway = Gateway::find(&cluster).await?;
            let paint = terminal.err;
            let why = causes(&error).last().unwrap_or_default();
            terminal.note(&paint.dim(&format!(
                "its URL can't be reached from here ({why}): the gateway {} is asked by a forwarded port",
                gateway.pod
            )));
            sent = Instant::now();
            gateway.send(&cluster, request).await?
        }
        other => other?,
    };
    let head = sent.elapsed();
    answer::print(response, head, sent, args.include, terminal).await
}

/// Whether nothing was sent.
fn is_unreachable(error: &InvokeError) -> bool {
    match error {
        InvokeError::Refused(_) => true,
        InvokeError::Send { source, .. } => source.is_connect(),
        _ => false,
    }
}
