//! The control port: what operator, kubelet and Prometheus ask.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use wisp_contract::assignment::{Assignment, Hold};
use wisp_contract::parts::Parts;
use wisp_contract::problem::{self, Fault};
use wisp_contract::status::Phase;
use wisp_contract::{Problem, headers};
use wisp_notices::Notices;
use wisp_places::{Asked, Places};

use crate::accept::{ACCEPT_PAUSE, HEAD_TIMEOUT};
use crate::process::{AssignError, Host};
use crate::receive::{self, Pushed};
use crate::{key, metrics, request};

/// The most connections. The operator has one, and a kubelet and Prometheus one or two each; but everybody may connect.
const CONNECTIONS: usize = 128;
/// Bytes that are read of one at once, and of a request's head. Machine code and models come by here, so they aren't fewer.
const BUFFER: usize = 64 << 10;

/// Serves until the process is about to end, and then answers what was asked: probes and status are answered while it drains,
/// too, and who posted an Assignment that can't be served learns why.
pub(crate) async fn serve(host: Arc<Host>, listener: TcpListener, ending: CancellationToken) {
    let connections = GracefulShutdown::new();
    // Who holds many that say nothing, or whose answers nobody reads, keeps neither the kubelet nor the operator from being heard.
    let mut places = Places::new(CONNECTIONS, "control connections");
    let failed = Notices::default();
    loop {
        let accepted = tokio::select! {
            () = ending.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                if failed.take(Instant::now()) {
                    tracing::warn!(%error, "a control connection could not be accepted");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = places.take(Asked::claim) else {
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (host, asking) = (Arc::clone(&host), Arc::clone(&place));
        let service = service_fn(move |request| {
            let (host, asked) = (Arc::clone(&host), Asked::new(&asking));
            async move {
                let answer = answer(host, request).await;
                drop(asked);
                answer
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(BUFFER)
            .serve_connection(TokioIo::new(stream), service);
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            tokio::select! {
                ended = connection => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a control connection ended early");
                    }
                }
                () = place.lost() => {}
            }
        });
    }
    // Nobody else shall come meanwhile.
    drop(listener);
    connections.shutdown().await;
}

async fn answer(
    host: Arc<Host>,
    mut request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let id = request::id(request.headers_mut());
    let method = request.method().clone();
    let is_open = matches!(
        request.uri().path(),
        "/healthz" | "/readyz" | "/warmz" | "/metrics"
    );
    if !is_open && !key::take_and_check(request.headers_mut(), host.control_key()) {
        let detail = format!(
            "the header {} must hold the key of this control port",
            headers::KEY
        );
        return Ok(refuse(
            StatusCode::FORBIDDEN,
            "forbidden",
            Fault::Client,
            detail,
            &id,
        ));
    }
    Ok(match (method, request.uri().path()) {
        (Method::GET, "/healthz") => text(StatusCode::OK, "ok\n"),
        (Method::GET, path @ ("/readyz" | "/warmz")) => {
            let phase = host.phase();
            // Who stands by does what it should, and so does who has become a function.
            let is_well = phase == Phase::Ready || (path == "/warmz" && host.stands_by());
            let status = if is_well {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            text(
                status,
                match phase {
                    Phase::Waiting => "waiting for an Assignment\n",
                    Phase::Loading => "loading\n",
                    Phase::Ready => "ready\n",
                    Phase::Draining => "draining\n",
                },
            )
        }
        (Method::GET, "/status") => status(&host),
        (Method::GET, "/metrics") => {
            let reading = host.function().map(|function| function.reading());
            respond(
                StatusCode::OK,
                metrics::MEDIA_TYPE,
                host.metrics().encode(reading),
            )
        }
        (Method::POST, "/assign") => assign(&host, request, &id).await,
        (Method::POST, "/hold") => hold(&host, request, &id).await,
        (Method::POST, "/drain") => {
            host.begin_drain();
            text(StatusCode::ACCEPTED, "draining\n")
        }
        (
            _,
            path @ ("/healthz" | "/readyz" | "/warmz" | "/status" | "/metrics" | "/assign"
            | "/hold" | "/drain"),
        ) => {
            let detail = format!(
                "{path} is for {}",
                if matches!(path, "/assign" | "/hold" | "/drain") {
                    "POST"
                } else {
                    "GET"
                }
            );
            refuse(
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                Fault::Client,
                detail,
                &id,
            )
        }
        (_, path) => {
            let detail = format!(
                "there is no {path} here, only /healthz, /readyz, /warmz, /status, /metrics, /assign, /hold and /drain"
            );
            refuse(
                StatusCode::NOT_FOUND,
                "not-found",
                Fault::Client,
                detail,
                &id,
            )
        }
    })
}

/// What was sent, as JSON with artifacts behind it where it says so.
///
/// # Errors
/// The answer to who sent something else.
async fn read<T: DeserializeOwned>(
    what: &str,
    request: Request<Incoming>,
    id: &str,
) -> Result<(T, Pushed), Box<Response<Full<Bytes>>>> {
    let invalid = |detail: String| {
        let (status, reason) = (StatusCode::BAD_REQUEST, format!("invalid-{what}"));
        Box::new(refuse(status, &reason, Fault::Client, detail, id))
    };
    let parts = request.headers().get(headers::PARTS);
    let parts = match parts.map(|parts| parts.to_str().unwrap_or_default().parse::<Parts>()) {
        None => None,
        Some(Ok(parts)) => Some(parts),
        Some(Err(error)) => return Err(invalid(format!("the header {}: {error}", headers::PARTS))),
    };
    let received = receive::receive(parts.as_ref(), request.into_body()).await;
    let (body, pushed) =
        received.map_err(|error| invalid(format!("the {what} can't be read: {error}")))?;
    let what = serde_json::from_slice(&body)
        .map_err(|error| invalid(format!("the body is no {what}: {error}")))?;
    Ok((what, pushed))
}

async fn hold(host: &Arc<Host>, request: Request<Incoming>, id: &str) -> Response<Full<Bytes>> {
    let (mut wanted, pushed) = match read::<Hold>("hold", request, id).await {
        Ok(read) => read,
        Err(refusal) => return *refusal,
    };
    if !may_bring_code(host) {
        wanted.code.clear();
    }
    match host.hold(wanted, pushed).await {
        Some(held) => respond(
            StatusCode::OK,
            "application/json",
            serde_json::to_vec(&held).unwrap_or_default(),
        ),
        None => {
            let detail = "this host doesn't stand by".to_owned();
            refuse(StatusCode::CONFLICT, "assigned", Fault::Client, detail, id)
        }
    }
}

async fn assign(host: &Arc<Host>, request: Request<Incoming>, id: &str) -> Response<Full<Bytes>> {
    let (mut assignment, pushed) = match read::<Assignment>("assignment", request, id).await {
        Ok(read) => read,
        Err(refusal) => return *refusal,
    };
    if !may_bring_code(host) {
        for artifact in &mut assignment.artifacts {
            artifact.compiled.clear();
        }
    }
    match host.assign(assignment, pushed).await {
        Ok(()) => status(host),
        Err(error) => {
            let (status, reason, fault) = match &error {
                AssignError::Taken { .. } => (StatusCode::CONFLICT, "assigned", Fault::Client),
                AssignError::Draining => (StatusCode::CONFLICT, "draining", Fault::Client),
                AssignError::Failed(_) => {
                    (StatusCode::UNPROCESSABLE_ENTITY, "failed", Fault::Function)
                }
            };
            refuse(status, reason, fault, error.to_string(), id)
        }
    }
}

/// Whether who speaks to the port may bring machine code, which is run as it is. Anybody may speak to one without a key: a web
/// page that a browser on the same machine shows, too. There components are compiled here.
fn may_bring_code(host: &Host) -> bool {
    host.control_key().is_some()
}

fn status(host: &Host) -> Response<Full<Bytes>> {
    respond(
        StatusCode::OK,
        "application/json",
        serde_json::to_vec(&host.status()).unwrap_or_default(),
    )
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", text)
}

fn refuse(
    status: StatusCode,
    reason: &str,
    fault: Fault,
    detail: String,
    id: &str,
) -> Response<Full<Bytes>> {
    let problem = Problem::new(status, reason, fault, false, detail, id);
    let mut response = respond(status, problem::MEDIA_TYPE, problem.to_json());
    if let Ok(value) = id.parse() {
        response.headers_mut().insert(headers::REQUEST_ID, value);
    }
    response
}

fn respond(
    status: StatusCode,
    media_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, http::HeaderValue::from_static(media_type));
    response
}
