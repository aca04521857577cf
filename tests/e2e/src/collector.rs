//! What wisp tells of its cold starts, taken as OpenTelemetry's collectors take it.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
pub use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

use crate::detour::listen_to_pods;

/// Takes spans for as long as the process lives.
pub struct Collector {
    address: SocketAddr,
    spans: Spans,
}

type Spans = Arc<Mutex<Vec<Span>>>;

impl Collector {
    /// One on the address of this machine that pods reach.
    pub(crate) fn new(registry: &str) -> Result<Self> {
        let listener = listen_to_pods(registry)?;
        listener.set_nonblocking(true)?;
        let (address, spans) = (listener.local_addr()?, Spans::default());
        let into = Arc::clone(&spans);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        thread::Builder::new()
            .name("collector".to_owned())
            .spawn(move || runtime.block_on(serve(listener, into)))
            .context("no thread for the collector")?;
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

async fn serve(listener: TcpListener, spans: Spans) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let spans = Arc::clone(&spans);
        let service = service_fn(move |request: Request<Incoming>| {
            let spans = Arc::clone(&spans);
            async move {
                if let Ok(body) = request.into_body().collect().await
                    && let Ok(batch) = ExportTraceServiceRequest::decode(body.to_bytes())
                {
                    let scopes = batch.resource_spans.into_iter();
                    let scopes = scopes.flat_map(|resource| resource.scope_spans);
                    let mut spans = spans.lock().unwrap_or_else(PoisonError::into_inner);
                    spans.extend(scopes.flat_map(|scope| scope.spans));
                }
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}
