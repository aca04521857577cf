//! `wisp invoke`: one request, one answer.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use base64::Engine as _;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use wisp_contract::problem::{self, Problem};
use wisp_contract::{FunctionId, headers};

use crate::args::Invoke;
use crate::failure::{Explain, Failure};
use crate::terminal::{self, Terminal};

/// The exit status for an answer other than 2xx, as curl's --fail has it.
const NOT_2XX: u8 = 22;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvokeError {
    #[error(
        "`{0}` is neither a function's name, nor `namespace/name`, nor an http:// or https:// URL"
    )]
    Target(String),
    #[error("`{0}` is no URL that can be asked")]
    Url(String, #[source] http::Error),
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
    #[error("the answer broke off")]
    BrokeOff(#[source] hyper::Error),
    #[error("there was no whole answer within {}", terminal::duration(*.0))]
    Timeout(Duration),
    #[error("this machine refuses what is needed to ask")]
    System(#[source] io::Error),
}

impl Explain for InvokeError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Refused(_) => Some(
                "start the functions with `wisp dev`, or name another gateway with --gateway"
                    .to_owned(),
            ),
            Self::Timeout(_) => Some("give it more time with --timeout".to_owned()),
            _ => None,
        }
    }
}

/// Sends the request and prints the answer.
pub(crate) fn run(args: &Invoke, terminal: &Terminal) -> Result<ExitCode, Failure> {
    let request = request(args)?;
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(InvokeError::System)?;
    let exchange = async {
        let sent = Instant::now();
        let response = send(request).await?;
        let head = sent.elapsed();
        print(response, head, sent, args.include, terminal).await
    };
    let outcome = executor.block_on(async {
        tokio::time::timeout(args.timeout, exchange)
            .await
            .unwrap_or(Err(InvokeError::Timeout(args.timeout)))
    });
    Ok(if outcome? {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(NOT_2XX)
    })
}

fn request(args: &Invoke) -> Result<Request<Full<Bytes>>, InvokeError> {
    let uri = url(args)?;
    let body = args.data.as_deref().map(read).transpose()?;
    let method = match (&args.method, &body) {
        (Some(method), _) => Method::from_bytes(method.to_uppercase().as_bytes())
            .map_err(|_| InvokeError::Method(method.clone()))?,
        (None, Some(_)) => Method::POST,
        (None, None) => Method::GET,
    };
    let mut request = Request::new(Full::new(
        body.as_ref()
            .map(|body| body.bytes.clone())
            .unwrap_or_default(),
    ));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    if let Some(body) = body {
        request
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(body.media_type));
    }
    let mut given = HeaderMap::new();
    for header in &args.headers {
        let wrong = || InvokeError::Header(header.clone());
        let (name, value) = header.split_once(':').ok_or_else(wrong)?;
        let name = HeaderName::try_from(name.trim()).map_err(|_| wrong())?;
        given.append(
            name,
            HeaderValue::try_from(value.trim()).map_err(|_| wrong())?,
        );
    }
    request.headers_mut().extend(given);
    Ok(request)
}

/// Where to send it. A name stands for its path at the gateway.
fn url(args: &Invoke) -> Result<Uri, InvokeError> {
    let path = if args.path.is_empty() || args.path.starts_with(['/', '?']) {
        args.path.clone()
    } else {
        format!("/{}", args.path)
    };
    let text = if args.target.starts_with("http://") || args.target.starts_with("https://") {
        let base = if path.is_empty() {
            &args.target
        } else {
            args.target.trim_end_matches('/')
        };
        format!("{base}{path}")
    } else {
        let id = match args.target.split_once('/') {
            Some(_) => args.target.parse::<FunctionId>(),
            None => FunctionId::new("default", &args.target),
        };
        let id = id.map_err(|_| InvokeError::Target(args.target.clone()))?;
        let path = if path.starts_with('/') {
            path
        } else {
            format!("/{path}")
        };
        format!(
            "http://{}/{}/{}{path}",
            args.gateway
                .trim_start_matches("http://")
                .trim_end_matches('/'),
            id.namespace(),
            id.name()
        )
    };
    Uri::try_from(&text).map_err(|error| InvokeError::Url(text, error.into()))
}

struct Body {
    bytes: Bytes,
    media_type: &'static str,
}

/// The body that `--data` names.
fn read(data: &str) -> Result<Body, InvokeError> {
    let Some(file) = data.strip_prefix('@') else {
        let media_type = media_type(None, data.as_bytes());
        return Ok(Body {
            bytes: Bytes::from(data.to_owned()),
            media_type,
        });
    };
    let (from, result) = if file == "-" {
        let mut bytes = Vec::new();
        (
            "standard input".to_owned(),
            io::stdin().read_to_end(&mut bytes).map(|_| bytes),
        )
    } else {
        (file.to_owned(), std::fs::read(file))
    };
    let bytes = result.map_err(|source| InvokeError::Body { from, source })?;
    let extension = std::path::Path::new(file)
        .extension()
        .and_then(|extension| extension.to_str());
    Ok(Body {
        media_type: media_type(extension, &bytes),
        bytes: bytes.into(),
    })
}

fn media_type(extension: Option<&str>, bytes: &[u8]) -> &'static str {
    match extension.map(str::to_ascii_lowercase).as_deref() {
        Some("json") => "application/json",
        Some("txt" | "md") => "text/plain; charset=utf-8",
        Some("html" | "htm") => "text/html; charset=utf-8",
        Some("csv") => "text/csv",
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("gif") => "image/gif",
        Some("webp") => "image/webp",
        Some("wav") => "audio/wav",
        Some("mp3") => "audio/mpeg",
        Some("mp4") => "video/mp4",
        Some("pdf") => "application/pdf",
        Some(_) => "application/octet-stream",
        None if serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok() => {
            "application/json"
        }
        None if std::str::from_utf8(bytes).is_ok() => "text/plain; charset=utf-8",
        None => "application/octet-stream",
    }
}

async fn send(request: Request<Full<Bytes>>) -> Result<Response<Incoming>, InvokeError> {
    let authority = request
        .uri()
        .authority()
        .map(ToString::to_string)
        .unwrap_or_default();
    let https = hyper_rustls::HttpsConnectorBuilder::new()
        .with_webpki_roots()
        .https_or_http()
        .enable_all_versions()
        .build();
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

/// Prints the answer; returns whether it is a 2xx.
async fn print(
    response: Response<Incoming>,
    head: Duration,
    sent: Instant,
    include: bool,
    terminal: &Terminal,
) -> Result<bool, InvokeError> {
    let (parts, body) = response.into_parts();
    let ok = parts.status.is_success();
    let media_type = parts
        .headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    if terminal.is_json() {
        let body = body
            .collect()
            .await
            .map_err(InvokeError::BrokeOff)?
            .to_bytes();
        terminal.json(&answer(
            parts.status.as_u16(),
            &parts.headers,
            &body,
            head,
            sent.elapsed(),
        ));
        return Ok(ok);
    }
    if include {
        let paint = terminal.err;
        terminal.note(&paint.bold(&format!("{:?} {}", parts.version, parts.status)));
        for (name, value) in &parts.headers {
            terminal.note(&format!(
                "{} {}",
                paint.dim(&format!("{name}:")),
                String::from_utf8_lossy(value.as_bytes())
            ));
        }
        terminal.note("");
    }
    if !ok && media_type.starts_with(problem::MEDIA_TYPE) {
        let body = body
            .collect()
            .await
            .map_err(InvokeError::BrokeOff)?
            .to_bytes();
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => explain(&problem, terminal),
            Err(_) => write(&body),
        }
        return Ok(false);
    }
    copy(body, &media_type, terminal).await?;
    if !ok {
        let paint = terminal.err;
        terminal.note(&format!(
            "{} the function answered {}",
            paint.red("error:"),
            parts.status
        ));
    }
    Ok(ok)
}

/// Copies the body to standard output piece by piece, as it comes.
async fn copy(
    mut body: Incoming,
    media_type: &str,
    terminal: &Terminal,
) -> Result<(), InvokeError> {
    let mut hidden = 0_usize;
    let mut last = b'\n';
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(InvokeError::BrokeOff)?.into_data() else {
            continue;
        };
        // Control characters do things to a terminal; a file or a pipe gets every byte.
        if terminal.interactive && (hidden > 0 || data.contains(&0) || data.contains(&0x1b)) {
            hidden += data.len();
            continue;
        }
        last = data.last().copied().unwrap_or(last);
        write(&data);
    }
    if terminal.interactive && last != b'\n' {
        write(b"\n");
    }
    if hidden > 0 {
        let size = terminal::bytes(hidden as u64);
        let what = if media_type.is_empty() {
            "binary data"
        } else {
            media_type
        };
        terminal.note(&format!(
            "{size} of {what} are not shown on a terminal: send them to a file with `> FILE`"
        ));
    }
    Ok(())
}

fn write(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    // Whoever closed the pipe has read enough.
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}

fn explain(problem: &Problem, terminal: &Terminal) {
    let paint = terminal.err;
    terminal.note(&format!(
        "{} {} {}: {}",
        paint.red("error:"),
        problem.status,
        problem.title,
        problem.detail
    ));
    let fault = match problem.fault {
        problem::Fault::Client => "the request",
        problem::Fault::Function => "the function",
        problem::Fault::Platform => "the platform",
    };
    let retry = if problem.retryable {
        "; the same request may succeed later"
    } else {
        ""
    };
    terminal.note(&format!(
        "  {} {} ({fault} is at fault{retry})",
        paint.dim("reason:"),
        problem.reason
    ));
    terminal.note(&format!(
        "  {} {}",
        paint.dim("request:"),
        problem.request_id
    ));
}

fn answer(
    status: u16,
    headers: &HeaderMap,
    body: &[u8],
    head: Duration,
    total: Duration,
) -> serde_json::Value {
    let mut named: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        named
            .entry(name.as_str())
            .or_default()
            .push(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    let (body, encoding) = match std::str::from_utf8(body) {
        Ok(text) => (text.to_owned(), "utf-8"),
        Err(_) => (
            base64::engine::general_purpose::STANDARD.encode(body),
            "base64",
        ),
    };
    let phases = headers
        .get_all(headers::SERVER_TIMING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(phases);
    json!({
        "status": status,
        "headers": named,
        "timing": {
            "headMillis": head.as_secs_f64() * 1e3,
            "totalMillis": total.as_secs_f64() * 1e3,
            "server": phases.collect::<BTreeMap<_, _>>(),
        },
        "body": body,
        "bodyEncoding": encoding,
    })
}

/// `queue;dur=0.1, nn;dur=2`: names and milliseconds.
fn phases(value: &str) -> Vec<(String, f64)> {
    let phase = |entry: &str| {
        let mut parts = entry.split(';').map(str::trim);
        let name = parts.next().filter(|name| !name.is_empty())?;
        let duration = parts.find_map(|part| part.strip_prefix("dur="))?;
        Some((name.to_owned(), duration.parse().ok()?))
    };
    value.split(',').filter_map(phase).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    fn made(words: &[&str]) -> Result<Request<Full<Bytes>>, InvokeError> {
        let line = ["wisp", "invoke"].iter().chain(words);
        let Command::Invoke(args) = Args::try_parse_from(line).unwrap().command else {
            panic!()
        };
        request(&args)
    }

    #[test]
    fn names_and_urls_become_urls() {
        let url = |words: &[&str]| made(words).unwrap().uri().to_string();
        assert_eq!(url(&["hello"]), "http://127.0.0.1:8787/default/hello/");
        assert_eq!(
            url(&["vision/digits", "--path", "x?y=1"]),
            "http://127.0.0.1:8787/vision/digits/x?y=1"
        );
        assert_eq!(
            url(&["hello", "--path", "?y=1"]),
            "http://127.0.0.1:8787/default/hello/?y=1"
        );
        assert_eq!(
            url(&["hello", "--gateway", "http://localhost:9000/"]),
            "http://localhost:9000/default/hello/"
        );
        assert_eq!(url(&["https://x.test/a"]), "https://x.test/a");
        assert_eq!(
            url(&["https://x.test/a/", "--path", "/b"]),
            "https://x.test/a/b"
        );
    }

    #[test]
    fn a_body_makes_it_a_post_and_tells_its_type() {
        let with = |words: &[&str]| {
            let request = made(words).unwrap();
            (
                request.method().to_string(),
                request
                    .headers()
                    .get(CONTENT_TYPE)
                    .map(|value| value.to_str().unwrap().to_owned()),
            )
        };
        let is = |method: &str, media_type: Option<&str>| {
            (method.to_owned(), media_type.map(str::to_owned))
        };
        assert_eq!(with(&["hello"]), is("GET", None));
        assert_eq!(
            with(&["hello", "--data", r#"{"a": 1}"#]),
            is("POST", Some("application/json"))
        );
        assert_eq!(
            with(&["hello", "-d", "hi", "-X", "put"]),
            is("PUT", Some("text/plain; charset=utf-8"))
        );
        assert_eq!(
            with(&["hello", "-d", "hi", "-H", "Content-Type: text/x"]),
            is("POST", Some("text/x"))
        );
        let file = tempfile::Builder::new().suffix(".png").tempfile().unwrap();
        assert_eq!(
            with(&["hello", "-d", &format!("@{}", file.path().display())]),
            is("POST", Some("image/png"))
        );
    }

    #[test]
    fn what_cannot_be_sent_is_said() {
        let said = |words: &[&str]| Failure::from(made(words).unwrap_err()).text();
        let lines = [
            said(&["No Name"]),
            said(&["hello", "-H", "novalue"]),
            said(&["hello", "-X", "a b"]),
            said(&["hello", "-d", "@/no/file"]),
            said(&["http://a b/"]),
        ];
        insta::assert_snapshot!("mistakes", lines.join("\n"));
    }

    #[test]
    fn an_answer_for_scripts_keeps_every_byte() {
        let mut headers = HeaderMap::new();
        headers.append(
            "server-timing",
            HeaderValue::from_static("queue;dur=0.25, nn;desc=x;dur=2"),
        );
        let value = answer(
            200,
            &headers,
            &[0xff, 0],
            Duration::from_millis(1),
            Duration::from_millis(2),
        );
        assert_eq!(value["body"], "/wA=");
        assert_eq!(value["bodyEncoding"], "base64");
        assert_eq!(value["timing"]["server"], json!({"queue": 0.25, "nn": 2.0}));
        assert_eq!(
            answer(
                200,
                &headers,
                "hé".as_bytes(),
                Duration::ZERO,
                Duration::ZERO
            )["body"],
            "hé"
        );
    }
}
