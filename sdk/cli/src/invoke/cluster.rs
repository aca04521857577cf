//! A function of a cluster: by its URL where that can be reached, else through a port that is forwarded to a gateway.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::Full;

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
    let sent = Instant::now();
    // In a pod of another cluster such a name leads to a stranger.
    if is_internal(request.uri()) && !cluster.is_around {
        return forwarded(request, "it is the cluster's own", &cluster, args, terminal).await;
    }
    match send(request.clone(), Some(CONNECT)).await {
        Err(error) if is_unreachable(&error) => {
            let why = causes(&error).last().unwrap_or_default();
            forwarded(request, &why, &cluster, args, terminal).await
        }
        response => answer::print(response?, sent.elapsed(), sent, args.include, terminal).await,
    }
}

/// Asks a gateway by a port that is forwarded to it. `why` tells why the function's URL can't be reached.
async fn forwarded(
    request: Request<Full<Bytes>>,
    why: &str,
    cluster: &Cluster,
    args: &Invoke,
    terminal: &Terminal,
) -> Result<bool, InvokeError> {
    let gateway = Gateway::find(cluster).await?;
    let note = format!(
        "its URL can't be reached from here ({why}): the gateway {} is asked by a forwarded port",
        gateway.pod
    );
    terminal.note(&terminal.err.dim(&note));
    let sent = Instant::now();
    let response = gateway.send(cluster, request).await?;
    answer::print(response, sent.elapsed(), sent, args.include, terminal).await
}

/// Whether only a cluster's own DNS knows the host: `NAME.NAMESPACE.svc`, or that with the usual domain of clusters. Another
/// domain may as well be a public one.
fn is_internal(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    let mut labels = host.trim_end_matches('.').splitn(4, '.').skip(2);
    labels.next() == Some("svc") && matches!(labels.next(), None | Some("cluster.local"))
}

/// Whether nothing was sent.
fn is_unreachable(error: &InvokeError) -> bool {
    match error {
        InvokeError::Refused(_) => true,
        InvokeError::Send { source, .. } => source.is_connect(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if `--context b` in a pod of the cluster a asked a's gateway, which has the same name.
    #[test]
    fn a_cluster_s_own_names_are_told_from_all_others() {
        let is = |url: &'static str| is_internal(&Uri::from_static(url));
        for url in [
            "http://wisp-gateway.wisp-system.svc.cluster.local/vision/digits/",
            "http://wisp-gateway.wisp-system.svc.cluster.local.:8080/",
            "http://wisp-gateway.wisp-system.svc/",
        ] {
            assert!(is(url), "{url}");
        }
        for url in [
            "http://digits.vision.example.com/",
            "http://svc.example.com/",
            "http://digits.vision.svc.example.com/",
            "http://10.0.0.1:8080/",
            "http://localhost/",
        ] {
            assert!(!is(url), "{url}");
        }
    }
}
