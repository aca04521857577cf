//! `wisp invoke`: one request, one answer.

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use wisp_contract::FunctionId;

use crate::args::Invoke;
use crate::cluster::ClusterError;
use crate::failure::{Explain, Failure};
use crate::terminal::{self, OutputError, Terminal};

mod answer;
mod cluster;
mod request;

pub(crate) use request::is_url;

/// The exit status for an answer other than 2xx, as curl's --fail has it.
const NOT_2XX: u8 = 22;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvokeError {
    #[error(
        "`{0}` is neither a function's name, nor `namespace/name`, nor an http:// or https:// URL"
    )]
    Target(String),
    #[error("`{0}` is a URL, which says by itself where it leads: {1} is for a function's name")]
    Place(String, &'static str),
    #[error("`{0}` is no URL that can be asked")]
    Url(String, #[source] http::Error),
    #[error(
        "`{1}`, which {0} names, is no gateway: expected HOST:PORT, or an http:// or https:// URL"
    )]
    Gateway(&'static str, String),
    /// What of it may be the name: the rest may be a secret.
    #[error("`{0}` is no header: expected `name: value`")]
    Header(String),
    #[error("`{0}` is no HTTP method")]
    Method(String),
    #[error("the body could not be read from {from}")]
    Body { from: String, source: io::Error },
    #[error("nobody listens on {0}")]
    Refused(String),
    #[error("{authority} could not be asked")]
    Send {
        authority: String,
        source: hyper_util::client::legacy::Error,
    },
    #[error("this machine's TLS can't be used")]
    Tls(#[source] rustls::Error),
    #[error("the answer broke off")]
    BrokeOff(#[source] hyper::Error),
    #[error("there was no whole answer within {}", terminal::duration(*.0))]
    Timeout(Duration),
    #[error("this machine refuses what is needed to ask")]
    System(#[source] io::Error),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("the function {0} has no URL yet")]
    NoUrl(FunctionId),
    #[error(transparent)]
    Output(#[from] OutputError),
}

impl Explain for InvokeError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Refused(_) => Some(
                "start the functions with `wisp dev`, name another gateway with --gateway, or ask a cluster with \
                 --cluster"
                    .to_owned(),
            ),
            Self::Cluster(error) => error.hint(),
            Self::NoUrl(id) => Some(format!(
                "`wisp get {} -n {}` tells why",
                id.name(),
                id.namespace()
            )),
            Self::Timeout(_) => Some("give it more time with --timeout".to_owned()),
            _ => None,
        }
    }

    fn is_end(&self) -> bool {
        matches!(self, Self::Output(error) if error.is_end())
    }
}

/// Sends the request and prints the answer.
pub(crate) fn run(args: &Invoke, terminal: &Terminal) -> Result<ExitCode, Failure> {
    let asks_cluster =
        (args.cluster || args.target_cluster.is_given()) && !request::is_url(&args.target);
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(InvokeError::System)?;
    // Whoever writes it may take their time: only the answer is waited for.
    let body = args.data.as_deref().map(request::read).transpose()?;
    let exchange = async {
        if asks_cluster {
            return cluster::exchange(args, body, terminal).await;
        }
        let request = request::request(args, body, None, request::environment().as_deref())?;
        let sent = Instant::now();
        let response = send(request, None).await?;
        let head = sent.elapsed();
        answer::print(response, head, sent, args.include, terminal).await
    };
    let outcome = executor.block_on(async {
        tokio::time::timeout(args.timeout, exchange)
            .await
            .unwrap_or(Err(InvokeError::Timeout(args.timeout)))
    });
    // A name that is being looked up, which nothing ends, isn't waited for.
    executor.shutdown_background();
    Ok(if outcome? {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(NOT_2XX)
    })
}

/// Sends a request; `connect` bounds how long connecting may take.
async fn send(
    request: Request<Full<Bytes>>,
    connect: Option<Duration>,
) -> Result<Response<Incoming>, InvokeError> {
    let authority = request
        .uri()
        .authority()
        .map(ToString::to_string)
        .unwrap_or_default();
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_connect_timeout(connect);
    let https = hyper_rustls::HttpsConnectorBuilder::new()
        // As registries are: a company's own authority is known to its machines, not to Mozilla.
        .with_tls_config(wisp_artifacts::client_tls(&[]).map_err(InvokeError::Tls)?)
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(http);
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(https);
    client.request(request).await.map_err(|source| {
        if is_refused(&source) {
            InvokeError::Refused(authority)
        } else {
            InvokeError::Send { authority, source }
        }
    })
}

fn is_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests;
