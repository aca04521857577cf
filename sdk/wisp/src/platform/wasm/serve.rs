//! One request, from the host's call to the response's last byte.

use http::{Method, StatusCode, Uri};
use wasip2::http::types::{
    self as wasi, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

use super::body::{self, Incoming};
use super::headers;
use crate::handler::{self, Answer};
use crate::{Body, Error, Request, Response, init, report, request, task};

/// Answers `incoming` with what `handler` returns.
pub fn serve(incoming: IncomingRequest, out: ResponseOutparam, handler: fn(Request) -> Answer) {
    report::hook_panics();
    let started = init::ensure();
    let (is_head, parsed) = parse(incoming);
    let response = match (started, parsed) {
        (Ok(()), Ok(request)) => handler(request),
        (Err(error), _) | (_, Err(error)) => Box::pin(std::future::ready(Err(error))),
    };
    if let Err(stalled) = task::block_on(respond(response, out, is_head)) {
        report::error(&stalled.to_string());
    }
    task::drain();
}

fn parse(incoming: IncomingRequest) -> (bool, Result<Request, Error>) {
    let method = match incoming.method() {
        wasi::Method::Get => Ok(Method::GET),
        wasi::Method::Head => Ok(Method::HEAD),
        wasi::Method::Post => Ok(Method::POST),
        wasi::Method::Put => Ok(Method::PUT),
        wasi::Method::Delete => Ok(Method::DELETE),
        wasi::Method::Connect => Ok(Method::CONNECT),
        wasi::Method::Options => Ok(Method::OPTIONS),
        wasi::Method::Trace => Ok(Method::TRACE),
        wasi::Method::Patch => Ok(Method::PATCH),
        wasi::Method::Other(name) => Method::from_bytes(name.as_bytes())
            .map_err(|_| Error::bad_request(format!("`{name}` is no HTTP method"))),
    };
    let headers = headers::from_fields(&incoming.headers());
    request::set_id(headers.get("x-request-id"));
    let is_head = matches!(method, Ok(Method::HEAD));
    let request = method.and_then(|method| {
        let uri = uri(&incoming)?;
        let incoming = Incoming::of_request(incoming, headers::length(&headers));
        let mut request = Request::new(Body::incoming(incoming));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok(request)
    });
    (is_head, request)
}

fn uri(incoming: &IncomingRequest) -> Result<Uri, Error> {
    let path = incoming.path_with_query().unwrap_or_else(|| "/".to_owned());
    let mut parts = http::uri::Parts::default();
    if let (Some(scheme), Some(authority)) = (incoming.scheme(), incoming.authority())
        && let Ok(authority) =
            http::uri::Authority::from_maybe_shared(bytes::Bytes::from(authority))
    {
        parts.scheme = match scheme {
            wasi::Scheme::Http => Some(http::uri::Scheme::HTTP),
            wasi::Scheme::Https => Some(http::uri::Scheme::HTTPS),
            wasi::Scheme::Other(other) => other.parse().ok(),
        };
        parts.authority = parts.scheme.is_some().then_some(authority);
    }
    let refused = |path: &str| Error::bad_request(format!("`{path}` is no path of a URI"));
    parts.path_and_query = Some(path.parse().map_err(|_| refused(&path))?);
    Uri::from_parts(parts).map_err(|_| refused(&path))
}

async fn respond(response: Answer, out: ResponseOutparam, is_head: bool) {
    let response = response.await.unwrap_or_else(Error::into_response);
    if let Err(error) = send(response, out, is_head).await {
        report::error(&error);
    }
}

/// Sends the response. What went wrong is for the log: the client can't be told any more.
async fn send(mut response: Response, out: ResponseOutparam, is_head: bool) -> Result<(), String> {
    handler::finish(&mut response, is_head);
    let (parts, body) = response.into_parts();
    let fields = match headers::to_fields(&parts.headers) {
        Ok(fields) => fields,
        Err(error) => {
            let error = format!("the response's headers are refused by the host: {error}");
            ResponseOutparam::set(
                out,
                Err(wasi::ErrorCode::InternalError(Some(error.clone()))),
            );
            return Err(error);
        }
    };
    let outgoing = OutgoingResponse::new(fields);
    // 200 it is already.
    if parts.status != StatusCode::OK {
        let status = parts.status.as_u16();
        outgoing
            .set_status_code(status)
            .map_err(|()| format!("the response's status {status} is refused by the host"))?;
    }
    let outgoing_body = outgoing
        .body()
        .map_err(|()| "the host gave no body for the response".to_owned())?;
    ResponseOutparam::set(out, Ok(outgoing));
    if body.size() == Some(0) {
        // The client may be gone already, which is no mistake of anybody here.
        return OutgoingBody::finish(outgoing_body, None).or(Ok(()));
    }
    let length = headers::announced(&parts.headers);
    match body::send(body, outgoing_body, length).await {
        Ok(()) => Ok(()),
        Err(error) => error.told("the response").map_or(Ok(()), Err),
    }
}
