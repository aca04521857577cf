//! What wisp tells of its cold starts, taken as OpenTelemetry's collectors take it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
pub use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

use crate::serve::serve_pods;

/// Takes spans for as long as the process lives.
pub struct Collector {
    address: SocketAddr,
    spans: Spans,
}

type Spans = Arc<Mutex<Vec<Span>>>;

impl Collector {
    /// One on the address of this machine that pods reach.
    pub(crate) fn new(registry: &str) -> Result<Self> {
        let spans = Spans::default();
        let into = Arc::clone(&spans);
        let address = serve_pods("collector", registry, move |request| {
            take(request, Arc::clone(&into))
        })?;
        Ok(Self { address, spans })
    }

    /// Where it is, as `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The spans of a trace that came so far.
    #[must_use]
    pub fn spans(&self, trace: [u8; 16]) -> Vec<Span> {
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        let of_trace = spans.iter().filter(|span| span.trace_id == trace);
        of_trace.cloned().collect()
    }
}

async fn take(request: Request<Incoming>, spans: Spans) -> Result<Response<Empty<Bytes>>> {
    if let Ok(body) = request.into_body().collect().await
        && let Ok(batch) = ExportTraceServiceRequest::decode(body.to_bytes())
    {
        let scopes = batch.resource_spans.into_iter();
        let scopes = scopes.flat_map(|resource| resource.scope_spans);
        let mut spans = spans.lock().unwrap_or_else(PoisonError::into_inner);
        spans.extend(scopes.flat_map(|scope| scope.spans));
    }
    Ok(Response::new(Empty::new()))
}
