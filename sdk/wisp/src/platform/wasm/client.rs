//! Outgoing requests: `wasi:http/outgoing-handler`.

use http::{Method, header};
use wasip2::http::outgoing_handler;
use wasip2::http::types::{self as wasi, ErrorCode, OutgoingBody, OutgoingRequest, RequestOptions};

use super::body::{self, Incoming};
use super::headers;
use super::reactor::Ready;
use crate::http::{Cause, Timeouts};
use crate::{Body, Request, Response, report, task};

/// Sends `request`, and returns when the response's head is there. The request's body is sent beside that, and after.
pub(crate) async fn send(mut request: Request, timeouts: Timeouts) -> Result<Response, Cause> {
    if let Some(size) = request.body().size() {
        let is_told = size > 0
            || matches!(
                *request.method(),
                Method::POST | Method::PUT | Method::PATCH
            );
        if is_told {
            request
                .headers_mut()
                .insert(header::CONTENT_LENGTH, size.into());
        } else {
            // A request that came in, and whose body was read, still has the length of that.
            request.headers_mut().remove(header::CONTENT_LENGTH);
        }
    }
    let (parts, body) = request.into_parts();
    let fields =
        headers::to_fields(&parts.headers).map_err(|error| Cause::Invalid(error.to_string()))?;
    let outgoing = OutgoingRequest::new(fields);
    let refused = |what: &str| Cause::Invalid(format!("the host refuses the {what}"));
    outgoing
        .set_method(&method(&parts.method))
        .map_err(|()| refused("method"))?;
    let scheme = parts.uri.scheme_str().map(|scheme| match scheme {
        "http" => wasi::Scheme::Http,
        "https" => wasi::Scheme::Https,
        other => wasi::Scheme::Other(other.to_owned()),
    });
    outgoing
        .set_scheme(scheme.as_ref())
        .map_err(|()| refused("scheme"))?;
    let authority = parts.uri.authority().map(|authority| authority.as_str());
    outgoing
        .set_authority(authority)
        .map_err(|()| refused("host"))?;
    let path = parts.uri.path_and_query().map(|path| path.as_str());
    outgoing
        .set_path_with_query(path)
        .map_err(|()| refused("path"))?;
    let outgoing_body = outgoing.body().map_err(|()| refused("body"))?;
    let future = outgoing_handler::handle(outgoing, options(timeouts)).map_err(cause)?;
    send_body(body, outgoing_body, headers::announced(&parts.headers));

    loop {
        if let Some(result) = future.get() {
            let response = result
                .map_err(|()| Cause::Failed("its response was taken already".to_owned()))?
                .map_err(cause)?;
            let status = response.status();
            let headers = headers::from_fields(&response.headers());
            let incoming = Incoming::of_response(response, headers::length(&headers));
            let mut answer = Response::new(Body::incoming(incoming));
            *answer.status_mut() = http::StatusCode::from_u16(status)
                .map_err(|_| Cause::Failed(format!("its status is {status}")))?;
            *answer.headers_mut() = headers;
            return Ok(answer);
        }
        Ready::new(future.subscribe()).await;
    }
}

fn send_body(body: Body, outgoing: OutgoingBody, length: Option<u64>) {
    if body.size() == Some(0) {
        // A host that has failed by now says so in the response.
        let _ = OutgoingBody::finish(outgoing, None);
        return;
    }
    task::spawn(async move {
        let told = match body::send(body, outgoing, length).await {
            Ok(()) => None,
            Err(error) => error.told("an outgoing request"),
        };
        if let Some(told) = told {
            report::error(&told);
        }
    });
}

fn options(timeouts: Timeouts) -> Option<RequestOptions> {
    if timeouts == Timeouts::default() {
        return None;
    }
    let nanoseconds =
        |duration: std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let options = RequestOptions::new();
    // A host may not offer some of them. The head's is kept by the caller's own timer as well.
    let _ = options.set_connect_timeout(timeouts.head.map(nanoseconds));
    let _ = options.set_first_byte_timeout(timeouts.head.map(nanoseconds));
    let _ = options.set_between_bytes_timeout(timeouts.between_bytes.map(nanoseconds));
    Some(options)
}

fn method(method: &Method) -> wasi::Method {
    match *method {
        Method::GET => wasi::Method::Get,
        Method::HEAD => wasi::Method::Head,
        Method::POST => wasi::Method::Post,
        Method::PUT => wasi::Method::Put,
        Method::DELETE => wasi::Method::Delete,
        Method::CONNECT => wasi::Method::Connect,
        Method::OPTIONS => wasi::Method::Options,
        Method::TRACE => wasi::Method::Trace,
        Method::PATCH => wasi::Method::Patch,
        ref other => wasi::Method::Other(other.as_str().to_owned()),
    }
}

fn cause(code: ErrorCode) -> Cause {
    match code {
        ErrorCode::HttpRequestDenied => Cause::Denied,
        ErrorCode::DestinationIpProhibited => Cause::AddressDenied,
        ErrorCode::DnsTimeout
        | ErrorCode::ConnectionTimeout
        | ErrorCode::ConnectionReadTimeout
        | ErrorCode::ConnectionWriteTimeout
        | ErrorCode::HttpResponseTimeout => Cause::TimedOut,
        ErrorCode::DnsError(_) | ErrorCode::DestinationNotFound => Cause::Unresolved,
        ErrorCode::ConnectionRefused => Cause::Refused,
        ErrorCode::HttpRequestUriInvalid => Cause::Invalid("the host refuses the URL".to_owned()),
        other => Cause::Failed(other.to_string()),
    }
}
