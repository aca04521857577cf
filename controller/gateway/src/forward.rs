//! What of a message's head goes on: hop-by-hop headers stay behind, the way here is added.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Uri, Version};
use wisp_admit::Permit;
use wisp_contract::headers;

use crate::identify;
use crate::neighbours::Namespace;
use crate::respond::Failure;

pub(crate) const KEY: HeaderName = HeaderName::from_static(headers::KEY);
const SERVER_TIMING: HeaderName = HeaderName::from_static(headers::SERVER_TIMING);
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Which headers are there that something is to be done about: one look at all names costs less than asking for each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen(u32);

impl Seen {
    const CONNECTION: u32 = 1;
    /// Hop-by-hop whatever Connection says, <https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1>.
    const HOP_BY_HOP: u32 = 1 << 1;
    const TE: u32 = 1 << 2;
    pub(crate) const EXPECT: u32 = 1 << 3;
    const KEY: u32 = 1 << 4;
    /// What proxies before this one say, save for whom.
    const FORWARDED: u32 = 1 << 5;
    const SERVER_TIMING: u32 = 1 << 6;
    const COOKIE: u32 = 1 << 7;
    pub(crate) const UPGRADE: u32 = 1 << 8;
    pub(crate) const REQUEST_ID: u32 = 1 << 9;
    const TRACE: u32 = 1 << 10;

    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let bit = |name: &HeaderName| match name.as_str() {
            "connection" => Self::CONNECTION,
            "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "transfer-encoding" => Self::HOP_BY_HOP,
            "upgrade" => Self::HOP_BY_HOP | Self::UPGRADE,
            "te" => Self::TE,
            "expect" => Self::EXPECT,
            "cookie" => Self::COOKIE,
            headers::KEY => Self::KEY,
            headers::REQUEST_ID => Self::REQUEST_ID,
            headers::TRACEPARENT | headers::TRACESTATE => Self::TRACE,
            name if is_proxys(name) => Self::FORWARDED,
            headers::SERVER_TIMING => Self::SERVER_TIMING,
            _ => 0,
        };
        Self(headers.keys().fold(0, |seen, name| seen | bit(name)))
    }

    pub(crate) fn has(self, bits: u32) -> bool {
        self.0 & bits != 0
    }
}

/// Whether only a proxy that is trusted may say this. What it says of the client's address is replaced for all others.
fn is_proxys(name: &str) -> bool {
    name == "forwarded" || name.starts_with("x-forwarded-") && name != "x-forwarded-for"
}

/// How many headers a request gains on its way.
const GAINED: usize = 9;
/// The most that a client's may have: hosts, as all that hyper serves, take a hundred, and say no more of it than that.
pub(crate) const MOST_FIELDS: usize = 100 - GAINED;

/// How many fields a request has. The cookies that HTTP/2 split are those of one, which they become.
pub(crate) fn fields(parts: &Parts) -> usize {
    let all = parts.headers.len();
    if all <= MOST_FIELDS || parts.version != Version::HTTP_2 {
        return all;
    }
    let crumbs = parts.headers.get_all(COOKIE).iter().count();
    all - crumbs.saturating_sub(1)
}

/// Where a request came from.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) ip: IpAddr,
    /// The address, written.
    pub(crate) text: HeaderValue,
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
    pub(crate) namespace: Namespace,
    /// The place of the connection, also of what it becomes.
    pub(crate) place: Option<Arc<Permit>>,
}

impl Peer {
    pub(crate) fn new(ip: IpAddr, scheme: &'static str) -> Self {
        let ip = ip.to_canonical();
        let text = HeaderValue::from_str(&ip.to_string())
            .unwrap_or_else(|_| HeaderValue::from_static("unknown"));
        Self {
            ip,
            text,
            scheme,
            namespace: Namespace::default(),
            place: None,
        }
    }
}

/// Turns the head of a client's request, in which these headers were `seen`, into the one for a replica. `prefix` is what the
/// path loses. Returns whether the request's trace is the client's.
///
/// # Errors
/// When the path without its prefix is none.
pub(crate) fn request(
    parts: &mut Parts,
    seen: Seen,
    prefix: Option<&str>,
    id: &HeaderValue,
    peer: &Peer,
    trusts_peer: bool,
) -> Result<bool, Failure> {
    let host = match parts.uri.authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => parts.headers.get(HOST).cloned(),
    };
    let host = host.filter(|host| !host.is_empty());
    let trailers = seen.has(Seen::TE)
        && parts.headers.get(TE).is_some_and(|te| {
            te.to_str()
                .is_ok_and(|te| te.split(',').any(|item| item.trim() == "trailers"))
        });
    strip_hop_by_hop(&mut parts.headers, seen);
    parts.headers.reserve(GAINED);
    if trailers {
        parts
            .headers
            .insert(TE, HeaderValue::from_static("trailers"));
    }
    if seen.has(Seen::EXPECT) {
        parts.headers.remove(EXPECT);
    }
    if seen.has(Seen::KEY) {
        parts.headers.remove(KEY);
    }
    if seen.has(Seen::COOKIE) && parts.version == Version::HTTP_2 {
        rejoin_cookies(&mut parts.headers);
    }
    let is_forwarded = seen.has(Seen::FORWARDED);
    forwarded(
        &mut parts.headers,
        host.as_ref(),
        prefix,
        peer,
        trusts_peer,
        is_forwarded,
    );
    match host {
        Some(host) if parts.uri.authority().is_some() => _ = parts.headers.insert(HOST, host),
        Some(_) => {}
        // HTTP/1.0 needs none, and HTTP/1.1 does.
        None => name(&mut parts.headers, prefix),
    }
    parts.headers.insert(identify::REQUEST_ID, id.clone());
    let is_clients_trace = seen.has(Seen::TRACE) && identify::has_trace(&mut parts.headers);
    if !is_clients_trace {
        identify::begin_trace(&mut parts.headers);
    }
    if let Some(prefix) = prefix {
        parts.uri = without_prefix(&parts.uri, prefix)?;
    } else if parts.uri.authority().is_some() {
        let path = parts
            .uri
            .path_and_query()
            .cloned()
            .unwrap_or_else(|| PathAndQuery::from_static("/"));
        parts.uri = Uri::from(path);
    }
    parts.version = Version::HTTP_11;
    Ok(is_clients_trace)
}

/// Says which function is asked, by the `prefix` that led to it, where the client didn't name a host.
fn name(headers: &mut HeaderMap, prefix: Option<&str>) {
    let id = prefix.and_then(|prefix| prefix.strip_prefix('/')?.split_once('/'));
    let host = id.map(|(namespace, name)| format!("{name}.{namespace}"));
    if let Some(host) = host.and_then(|host| HeaderValue::from_str(&host).ok()) {
        headers.insert(HOST, host);
    }
}

fn forwarded(
    headers: &mut HeaderMap,
    host: Option<&HeaderValue>,
    prefix: Option<&str>,
    peer: &Peer,
    trusts_peer: bool,
    is_forwarded: bool,
) {
    let so_far = if trusts_peer {
        joined(headers, &X_FORWARDED_FOR)
    } else {
        None
    };
    let chain = match so_far {
        Some(so_far) => HeaderValue::from_str(&format!("{so_far}, {}", peer.ip))
            .unwrap_or_else(|_| peer.text.clone()),
        None => peer.text.clone(),
    };
    headers.insert(X_FORWARDED_FOR, chain);
    if is_forwarded && !trusts_peer {
        let untrue: Vec<HeaderName> = headers
            .keys()
            .filter(|name| is_proxys(name.as_str()))
            .cloned()
            .collect();
        for name in untrue {
            headers.remove(name);
        }
    }
    let says = |headers: &HeaderMap, name| is_forwarded && headers.contains_key(name);
    if !says(headers, X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(peer.scheme));
    }
    if let (Some(host), false) = (host, says(headers, X_FORWARDED_HOST)) {
        headers.insert(X_FORWARDED_HOST, host.clone());
    }
    if let Some(prefix) = prefix {
        let before = joined(headers, &X_FORWARDED_PREFIX).unwrap_or_default();
        if let Ok(value) =
            HeaderValue::from_str(&format!("{}{prefix}", before.trim_end_matches('/')))
        {
            headers.insert(X_FORWARDED_PREFIX, value);
        }
    }
}

/// HTTP/2 may split a request's cookies into several fields, HTTP/1.1 may not,
/// <https://www.rfc-editor.org/rfc/rfc9113#section-8.2.3>.
fn rejoin_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else {
        return;
    };
    let mut whole = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(crumbs) {
        whole.extend_from_slice(b"; ");
        whole.extend_from_slice(crumb.as_bytes());
    }
    // What is a value is one joined, too.
    if let Ok(whole) = HeaderValue::from_bytes(&whole) {
        headers.insert(COOKIE, whole);
    }
}

fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let values: Vec<&str> = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    (!values.is_empty()).then(|| values.join(", "))
}

/// Removes what is meant for this connection alone, <https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1>.
fn strip_hop_by_hop(headers: &mut HeaderMap, seen: Seen) {
    if seen.has(Seen::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        headers.remove(CONNECTION);
        for name in named {
            // Framing and routing are not the client's to take away.
            if name != HOST && name != CONTENT_LENGTH {
                headers.remove(name);
            }
        }
    }
    if seen.has(Seen::HOP_BY_HOP | Seen::TE) {
        for name in [
            KEEP_ALIVE,
            PROXY_CONNECTION,
            PROXY_AUTHENTICATE,
            PROXY_AUTHORIZATION,
            TE,
            TRANSFER_ENCODING,
            UPGRADE,
        ] {
            headers.remove(name);
        }
    }
}

/// The path and query as the function sees them.
fn without_prefix(uri: &Uri, prefix: &str) -> Result<Uri, Failure> {
    let path_and_query = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let rest = path_and_query
        .strip_prefix(prefix)
        .unwrap_or(path_and_query);
    let path = if rest.starts_with('/') {
        rest.parse::<PathAndQuery>()
    } else {
        format!("/{rest}").parse()
    };
    path.map(Uri::from).map_err(|_| Failure::BadRequest {
        reason: "bad-path",
        detail: "the path is none".to_owned(),
    })
}

/// Turns the head of a replica's response into the one for the client.
pub(crate) fn response(
    head: &mut http::response::Parts,
    id: &HeaderValue,
    queue: Duration,
    activate: Duration,
) {
    let seen = Seen::of(&head.headers);
    strip_hop_by_hop(&mut head.headers, seen);
    if seen.has(Seen::KEY) {
        head.headers.remove(KEY);
    }
    head.headers.reserve(2);
    head.headers.insert(identify::REQUEST_ID, id.clone());
    let mut timing = timing(queue, activate);
    if seen.has(Seen::SERVER_TIMING) {
        let mut all = timing.as_bytes().to_vec();
        for theirs in head.headers.get_all(SERVER_TIMING) {
            all.extend_from_slice(b", ");
            all.extend_from_slice(theirs.as_bytes());
        }
        // What are values is one joined, too.
        if let Ok(all) = HeaderValue::from_maybe_shared(Bytes::from(all)) {
            timing = all;
        }
    }
    head.headers.insert(SERVER_TIMING, timing);
}

/// Says which protocol the connection changes to, after [`response`] took it away with all that is hop-by-hop.
pub(crate) fn switching(headers: &mut HeaderMap, protocol: Option<HeaderValue>) {
    if let Some(protocol) = protocol {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    }
}

/// `queue` and `activate` in milliseconds, <https://www.w3.org/TR/server-timing/>.
fn timing(queue: Duration, activate: Duration) -> HeaderValue {
    const NONE: HeaderValue = HeaderValue::from_static("queue;dur=0, activate;dur=0");
    if queue.is_zero() && activate.is_zero() {
        return NONE;
    }
    let mut text = String::with_capacity(48);
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    match write!(
        text,
        "queue;dur={:.3}, activate;dur={:.3}",
        millis(queue),
        millis(activate)
    ) {
        Ok(()) => HeaderValue::from_str(&text).unwrap_or(NONE),
        Err(_) => NONE,
    }
}

#[cfg(test)]
mod tests;
