//! From what was typed to the request that is sent.

use std::io::{self, Read as _};

use base64::Engine as _;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::Full;
use wisp_contract::FunctionId;

use super::InvokeError;
use crate::args::{GATEWAY, Invoke};

/// The environment's gateway.
const VARIABLE: &str = "WISP_GATEWAY";

/// The gateway that the environment names.
pub(super) fn environment() -> Option<String> {
    std::env::var(VARIABLE)
        .ok()
        .filter(|gateway| !gateway.is_empty())
}

/// The request, to `base` where the function's URL is known, else to where its name is looked up: `--gateway`, the
/// `environment`'s, or where `wisp dev` listens.
///
/// # Errors
/// When something that was typed can't be sent.
pub(super) fn request(
    args: &Invoke,
    body: Option<Body>,
    base: Option<&str>,
    environment: Option<&str>,
) -> Result<Request<Full<Bytes>>, InvokeError> {
    let (uri, login) = url(args, base, environment)?;
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
    if let Some(login) = login {
        request.headers_mut().insert(AUTHORIZATION, login);
    }
    let mut given = HeaderMap::new();
    for header in &args.headers {
        let name = || header.split([':', ' ', '=']).next().unwrap_or_default();
        let wrong = || {
            let more = if name().len() < header.len() {
                "…"
            } else {
                ""
            };
            InvokeError::Header(format!("{}{more}", name()))
        };
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

/// Whether `target` is a URL, not a name.
pub(crate) fn is_url(target: &str) -> bool {
    target.starts_with("http://") || target.starts_with("https://")
}

/// Where to send it, and the name and password in it as a header has them. A function's name stands for its path at the
/// gateway.
fn url(
    args: &Invoke,
    base: Option<&str>,
    environment: Option<&str>,
) -> Result<(Uri, Option<HeaderValue>), InvokeError> {
    if let Some(option) = place(args).filter(|_| is_url(&args.target)) {
        return Err(InvokeError::Place(without_login(&args.target).0, option));
    }
    let base = base.or_else(|| is_url(&args.target).then_some(args.target.as_str()));
    let text = if let Some(base) = base {
        below(base, &args.path)
    } else {
        let id = match args.target.split_once('/') {
            Some(_) => args.target.parse::<FunctionId>(),
            None => FunctionId::new("default", &args.target),
        };
        let id = id.map_err(|_| InvokeError::Target(without_login(&args.target).0))?;
        let gateway = match (&args.gateway, environment) {
            (Some(typed), _) => gateway("--gateway", typed)?,
            (None, Some(set)) => gateway(VARIABLE, set)?,
            (None, None) => format!("http://{GATEWAY}"),
        };
        let base = format!("{gateway}/{}/{}/", id.namespace(), id.name());
        below(&base, &args.path)
    };
    let (text, login) = without_login(&text);
    match Uri::try_from(&text) {
        Ok(uri) => Ok((uri, login)),
        Err(error) => Err(InvokeError::Url(text, error.into())),
    }
}

/// The option that was typed, if one was, to say where a function's name is looked up.
fn place(args: &Invoke) -> Option<&'static str> {
    let of = &args.target_cluster;
    [
        ("--gateway", args.gateway.is_some()),
        ("--cluster", args.cluster),
        ("--kubeconfig", of.kubeconfig.is_some()),
        ("--context", of.context.is_some()),
        ("--namespace", of.namespace.is_some()),
    ]
    .into_iter()
    .find_map(|(option, is_given)| is_given.then_some(option))
}

/// `path`, which may have a query, below `base`, which may have one, too.
fn below(base: &str, path: &str) -> String {
    // What stands after `#` is never sent.
    let [base, path] = [base, path].map(|text| text.split('#').next().unwrap_or_default());
    let parts = |text: &'_ str| -> (String, String) {
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        (path.to_owned(), query.to_owned())
    };
    let ((base, first), (path, second)) = (parts(base), parts(path));
    let mut url = if path.is_empty() {
        base
    } else {
        let base = base.strip_suffix('/').unwrap_or(&base);
        format!("{base}/{}", path.strip_prefix('/').unwrap_or(&path))
    };
    for (query, sign) in [
        (&first, '?'),
        (&second, if first.is_empty() { '?' } else { '&' }),
    ] {
        if !query.is_empty() {
            url.push(sign);
            url.push_str(query);
        }
    }
    url
}

/// The URL without the name and the password in it, and those as a header has them: what is printed, or sent as a host,
/// is no place for them.
fn without_login(url: &str) -> (String, Option<HeaderValue>) {
    let Some((scheme, rest)) = url.split_once("://") else {
        return (url.to_owned(), None);
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let Some((login, host)) = authority.rsplit_once('@') else {
        return (url.to_owned(), None);
    };
    let (name, password) = login.split_once(':').unwrap_or((login, ""));
    let pair = [&decoded(name)[..], b":", &decoded(password)].concat();
    let basic = base64::engine::general_purpose::STANDARD.encode(pair);
    let header = HeaderValue::try_from(format!("Basic {basic}")).ok();
    let header = header.map(|mut header| {
        header.set_sensitive(true);
        header
    });
    (format!("{scheme}://{host}{path}"), header)
}

/// The bytes that `%40` and the like stand for.
fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, after)) = rest.split_once('%') {
        bytes.extend(plain.bytes());
        let two = after.get(..2).filter(|two| !two.starts_with('+'));
        let byte = two.and_then(|two| u8::from_str_radix(two, 16).ok());
        bytes.push(byte.unwrap_or(b'%'));
        let skipped = if byte.is_some() { 2 } else { 0 };
        rest = after.get(skipped..).unwrap_or_default();
    }
    bytes.extend(rest.bytes());
    bytes
}

/// A gateway's URL, without a slash at its end.
fn gateway(named: &'static str, text: &str) -> Result<String, InvokeError> {
    let text = text.trim_end_matches('/');
    if is_url(text) {
        Ok(text.to_owned())
    } else if text.contains("://") || text.is_empty() {
        Err(InvokeError::Gateway(named, without_login(text).0))
    } else {
        Ok(format!("http://{text}"))
    }
}

/// What is sent.
#[derive(Debug, Clone)]
pub(super) struct Body {
    bytes: Bytes,
    media_type: &'static str,
}

/// The body that `--data` names.
///
/// # Errors
/// When it can't be read.
pub(super) fn read(data: &str) -> Result<Body, InvokeError> {
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
