//! From the answer to what is printed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base64::Engine as _;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::json;
use wisp_contract::headers;
use wisp_contract::problem::{self, Problem};

use super::InvokeError;
use crate::terminal::{self, OutputError, Terminal, harmless};

/// Prints the answer; returns whether it is a 2xx.
pub(super) async fn print(
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
        ))?;
        return Ok(ok);
    }
    if include {
        let paint = terminal.err;
        terminal.note(&paint.bold(&format!("{:?} {}", parts.version, parts.status)));
        for (name, value) in &parts.headers {
            terminal.note(&format!(
                "{} {}",
                paint.dim(&format!("{name}:")),
                harmless(&String::from_utf8_lossy(value.as_bytes()))
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
            Err(_) => {
                let mut shown = Shown::new(terminal);
                shown.add(&body)?;
                shown.end(&media_type)?;
            }
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
    let mut shown = Shown::new(terminal);
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(InvokeError::BrokeOff)?.into_data() {
            shown.add(&data)?;
        }
    }
    Ok(shown.end(media_type)?)
}

/// What of a body was shown so far.
struct Shown<'a> {
    terminal: &'a Terminal,
    hidden: usize,
    last: u8,
}

impl<'a> Shown<'a> {
    fn new(terminal: &'a Terminal) -> Self {
        Self {
            terminal,
            hidden: 0,
            last: b'\n',
        }
    }

    fn add(&mut self, data: &[u8]) -> Result<(), OutputError> {
        // Control characters do things to a terminal; a file or a pipe gets every byte.
        if self.terminal.interactive && (self.hidden > 0 || terminal::acts(self.last, data)) {
            self.hidden += data.len();
            return Ok(());
        }
        self.last = data.last().copied().unwrap_or(self.last);
        terminal::write(data)
    }

    fn end(self, media_type: &str) -> Result<(), OutputError> {
        if self.terminal.interactive && self.last != b'\n' {
            terminal::write(b"\n")?;
        }
        if self.hidden > 0 {
            let size = terminal::bytes(self.hidden as u64);
            let what = if media_type.is_empty() {
                "binary data".to_owned()
            } else {
                harmless(media_type)
            };
            self.terminal.note(&format!(
                "{size} of {what} are not shown on a terminal: send them to a file with `> FILE`"
            ));
        }
        Ok(())
    }
}

fn explain(problem: &Problem, terminal: &Terminal) {
    let paint = terminal.err;
    terminal.note(&format!(
        "{} {} {}: {}",
        paint.red("error:"),
        problem.status,
        harmless(&problem.title),
        harmless(&problem.detail)
    ));
    let fault = match problem.fault {
        problem::Fault::Client => "the request",
        problem::Fault::Function => "the function",
        problem::Fault::Platform => "the platform",
    };
    let retry = match (problem.retryable, problem.fault) {
        (false, _) => "",
        (true, problem::Fault::Function) => {
            "; the same request may succeed once it is mended, or less busy"
        }
        (true, _) => "; the same request may succeed later",
    };
    terminal.note(&format!(
        "  {} {} ({fault} is at fault{retry})",
        paint.dim("reason:"),
        harmless(&problem.reason)
    ));
    terminal.note(&format!(
        "  {} {}",
        paint.dim("request:"),
        harmless(&problem.request_id)
    ));
}

pub(super) fn answer(
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
    // A request waits at the gateway and at the replica, by one name.
    let mut server: BTreeMap<String, f64> = BTreeMap::new();
    for (name, millis) in phases {
        *server.entry(name).or_default() += millis;
    }
    json!({
        "status": status,
        "headers": named,
        "timing": {
            "headMillis": head.as_secs_f64() * 1e3,
            "totalMillis": total.as_secs_f64() * 1e3,
            "server": server,
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
