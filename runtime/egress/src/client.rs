//! The client that all instances of a process share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderValue, Method, Request, Response, Uri, Version};
use http_body::Body as _;
use http_body_util::{BodyExt as _, BodyStream, Empty, StreamBody};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error, ForbiddenHeaderFilter, RequestOptions, WasiBody,
};
use wisp_contract::log::chain;
use wisp_notices::Notices;

use crate::body::ResponseBody;
use crate::connect::{Connector, Patient};
use crate::policy::Policy;
use crate::problem::error_code;
use crate::resolve::{Resolve, SystemResolver};
use crate::target::Target;

/// Bytes of a response's head, at most.
const MAX_HEAD: usize = 64 << 10;
/// How long the first piece of a GET's body, or its end, is waited for. Who begins a body and neither writes it nor ends it before
/// there is an answer waits for this in vain.
const FIRST_PIECE: Duration = Duration::from_millis(50);

/// What a process' outbound connections are like.
#[derive(Clone)]
pub struct Options {
    /// From the request to an open connection, name resolution and TLS included. A guest can ask for less, not more.
    pub connect_timeout: Duration,
    /// Open connections to all destinations together, idle ones included.
    pub max_connections: usize,
    /// Idle connections to one destination.
    pub max_idle_per_host: usize,
    /// How long an idle connection is kept. It counts as open, so whoever waits for room waits for this, at the most half of
    /// `connect_timeout`.
    pub idle_timeout: Duration,
    /// How long a server that owes an answer by HTTP/2 may say nothing before it is asked whether it is there; it may take a third
    /// of that to say so. All requests to it share a connection: one to a machine that is gone would fail them all until the
    /// kernel gives up. Servers of gRPC end connections on which they are asked often.
    pub silence: Duration,
    /// Whether the machine's own certificate authorities are trusted beside Mozilla's.
    pub native_roots: bool,
    /// More certificate authorities to trust.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// What resolves names.
    pub resolver: Arc<dyn Resolve>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            max_connections: 512,
            max_idle_per_host: 16,
            idle_timeout: Duration::from_secs(5),
            silence: Duration::from_secs(60),
            native_roots: false,
            extra_roots: Vec::new(),
            resolver: Arc::new(SystemResolver),
        }
    }
}

/// Why there can be no client.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A certificate authority's certificate is none.
    #[error("certificate authority {0} of `extra_roots` is no X.509 certificate in DER")]
    Root(usize, #[source] rustls::Error),
    /// A text that should hold certificates can't be read.
    #[error("certificate authorities can't be read: expected PEM")]
    Pem(#[source] rustls::pki_types::pem::Error),
    /// TLS can't be set up.
    #[error("TLS can't be set up")]
    Tls(#[source] rustls::Error),
}

/// The certificates in texts, PEM, for [`Options::extra_roots`].
///
/// # Errors
/// When one has something else between its markers.
pub fn certificates(texts: &[String]) -> Result<Vec<CertificateDer<'static>>, BuildError> {
    texts
        .iter()
        .flat_map(|text| CertificateDer::pem_slice_iter(text.as_bytes()))
        .collect::<Result<_, _>>()
        .map_err(BuildError::Pem)
}

/// A function's way out: its policy and its connections. Clones share everything.
#[derive(Clone)]
pub struct Egress(Arc<Shared>);

type Connections = Client<Connecting, WasiBody>;
type Connecting = Patient<HttpsConnector<Connector>>;

struct Shared {
    policy: Arc<Policy>,
    /// None where nothing is allowed: setting up TLS takes a moment of a function's start.
    client: Option<Connections>,
    connect_timeout: Duration,
    forbidden: ForbiddenHeaderFilter,
    notices: Notices,
}

impl Egress {
    /// A client that goes where `policy` allows.
    ///
    /// # Errors
    /// When TLS can't be set up with these options, where the policy allows anything at all.
    pub fn new(policy: Policy, options: Options) -> Result<Self, BuildError> {
        let policy = Arc::new(policy);
        let connect_timeout = options.connect_timeout;
        let client = (!policy.is_empty()).then(|| connections(Arc::clone(&policy), options));
        Ok(Self(Arc::new(Shared {
            policy,
            client: client.transpose()?,
            connect_timeout,
            forbidden: Arc::new(|name| DEFAULT_FORBIDDEN_HEADERS.contains(name)),
            notices: Notices::default(),
        })))
    }

    /// What is allowed.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.0.policy
    }

    /// Whether the log may tell of one more request that failed.
    pub(crate) fn may_tell(&self, now: Instant) -> bool {
        self.0.notices.take(now)
    }

    pub(crate) fn forbidden(&self) -> ForbiddenHeaderFilter {
        Arc::clone(&self.0.forbidden)
    }

    /// Sends `request`, which must go somewhere that the policy allows.
    pub(crate) async fn send(
        &self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
    ) -> Result<Response<WasiBody>, Failure> {
        let target =
            Target::of(request.uri()).ok_or_else(|| Failure::new(Error::HttpRequestUriInvalid))?;
        if !self.0.policy.allows(&target) {
            let reason = format!(
                "outbound.allow has no entry for {target}: it allows {}",
                self.0.policy
            );
            return Err(Failure {
                code: Error::HttpRequestDenied,
                reason: Some(reason),
            });
        }
        let request = with_body_in_head(cleaned(request, &target)?).await?;
        let response = self.exchange(request, options.as_ref()).await?;
        let patience = options.and_then(|options| options.between_bytes_timeout);
        let (mut parts, body) = response.into_parts();
        parts.extensions.clear();
        // RFC 9112, section 6.3: the length that is said beside an encoding is none.
        if parts.headers.contains_key(TRANSFER_ENCODING) {
            parts.headers.remove(CONTENT_LENGTH);
        }
        remove_hop_by_hop(&mut parts.headers);
        let body = ResponseBody::new(body, parts.version, patience).boxed_unsync();
        Ok(Response::from_parts(parts, body))
    }

    /// Connects within one timeout, then waits for the response's head within the other.
    async fn exchange(
        &self,
        mut request: Request<WasiBody>,
        options: Option<&RequestOptions>,
    ) -> Result<Response<Incoming>, Failure> {
        let asked = options
            .and_then(|options| options.connect_timeout)
            .unwrap_or(Duration::MAX);
        let connect_timeout = asked.min(self.0.connect_timeout);
        let mut captured = capture_connection(&mut request);
        let Some(client) = &self.0.client else {
            return Err(Failure::new(Error::HttpRequestDenied));
        };
        let mut response = client.request(request);
        let connected = async {
            tokio::select! {
                biased;
                response = &mut response => Some(response),
                _ = captured.wait_for_connection_metadata() => None,
            }
        };
        let early = timeout(connect_timeout, connected)
            .await
            .map_err(|_| Failure::new(Error::ConnectionTimeout))?;
        let response = match (
            early,
            options.and_then(|options| options.first_byte_timeout),
        ) {
            (Some(response), _) => response,
            (None, None) => response.await,
            (None, Some(patience)) => timeout(patience, response)
                .await
                .map_err(|_| Failure::new(Error::ConnectionReadTimeout))?,
        };
        response.map_err(|error| Failure::of(&error))
    }
}

/// Why a request failed: the code for the guest, and a sentence for the log where the function's configuration decided.
pub(crate) struct Failure {
    pub(crate) code: Error,
    pub(crate) reason: Option<String>,
}

impl Failure {
    fn new(code: Error) -> Self {
        Self { code, reason: None }
    }

    fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        Self {
            code: error_code(error),
            reason: Some(chain(error)),
        }
    }
}

/// The request in the form in which it is sent: its URL in the form that was checked, nothing in its head that belongs
/// to a connection, and no `host` beside the URL's.
fn cleaned(request: Request<WasiBody>, target: &Target) -> Result<Request<WasiBody>, Failure> {
    let (mut parts, body) = request.into_parts();
    if parts.method == Method::CONNECT {
        return Err(Failure::new(Error::HttpRequestMethodInvalid));
    }
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    parts.uri = Uri::builder()
        .scheme(target.scheme.to_string().as_str())
        .authority(target.authority())
        .path_and_query(path)
        .build()
        .map_err(|_| Failure::new(Error::HttpRequestUriInvalid))?;
    parts.version = Version::HTTP_11; // The connection decides.
    parts.headers.remove(HOST);
    remove_hop_by_hop(&mut parts.headers);
    Ok(Request::from_parts(parts, body))
}

/// The same request, where it is a GET or HEAD that has a body: with a head that says so. hyper sends none over HTTP/1.1 unless
/// the head does, and most of these have none, though guests that begin one for every request can't say so at once.
async fn with_body_in_head(request: Request<WasiBody>) -> Result<Request<WasiBody>, Failure> {
    let (mut parts, mut body) = request.into_parts();
    let may_be_missed = matches!(parts.method, Method::GET | Method::HEAD)
        && !parts.headers.contains_key(CONTENT_LENGTH)
        && body.size_hint().exact().is_none();
    if may_be_missed && let Ok(first) = timeout(FIRST_PIECE, body.frame()).await {
        body = match first {
            None => Empty::new().map_err(|never| match never {}).boxed_unsync(),
            Some(Err(error)) => return Err(Failure::new(error)),
            Some(Ok(first)) => {
                let chunked = HeaderValue::from_static("chunked");
                parts.headers.insert(TRANSFER_ENCODING, chunked);
                let first = futures::stream::iter([Ok(first)]);
                StreamBody::new(first.chain(BodyStream::new(body))).boxed_unsync()
            }
        };
    }
    Ok(Request::from_parts(parts, body))
}

/// RFC 9110, 7.6.1.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let fixed = [CONNECTION, TRANSFER_ENCODING, UPGRADE].into_iter();
    let old = ["keep-alive", "proxy-connection", "http2-settings"].map(HeaderName::from_static);
    for name in named.into_iter().chain(fixed).chain(old) {
        headers.remove(name);
    }
}

fn connections(policy: Arc<Policy>, options: Options) -> Result<Connections, BuildError> {
    let mut client = Client::builder(TokioExecutor::new());
    client
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(options.idle_timeout)
        .pool_max_idle_per_host(options.max_idle_per_host)
        .http1_max_buf_size(MAX_HEAD)
        .http2_max_header_list_size(MAX_HEAD as u32)
        .http2_keep_alive_interval(options.silence)
        .http2_keep_alive_timeout(options.silence / 3);
    Ok(client.build(connector(policy, options)?))
}

fn connector(policy: Arc<Policy>, options: Options) -> Result<Connecting, BuildError> {
    let tls = tls_config(&options)?;
    let tcp = Connector::new(
        policy,
        options.resolver,
        options.max_connections,
        options.connect_timeout,
    );
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(tcp);
    Ok(Patient {
        connector,
        patience: options.connect_timeout,
    })
}

fn tls_config(options: &Options) -> Result<ClientConfig, BuildError> {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    if options.native_roots {
        let native = rustls_native_certs::load_native_certs();
        for error in &native.errors {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "a certificate authority of this machine is left out"
            );
        }
        roots.add_parsable_certificates(native.certs);
    }
    for (index, root) in options.extra_roots.iter().enumerate() {
        roots
            .add(root.clone())
            .map_err(|source| BuildError::Root(index, source))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder
        .map_err(BuildError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

#[cfg(test)]
mod tests;
