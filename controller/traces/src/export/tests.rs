use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::{Span as Sent, status::StatusCode};
use prost::Message as _;
use tokio::net::TcpListener;

use super::*;

/// A collector. Returns its address and what it is sent.
async fn collector() -> (String, mpsc::UnboundedReceiver<ExportTraceServiceRequest>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let sender = sender.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let sender = sender.clone();
                async move {
                    assert_eq!(request.uri().path(), "/v1/traces");
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let batch = ExportTraceServiceRequest::decode(body).unwrap();
                    sender.send(batch).unwrap();
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    (format!("http://{address}/v1/traces"), receiver)
}

fn to(endpoint: &str) -> Traces {
    let builder = SpanExporter::builder().with_http();
    Traces::to(builder.with_endpoint(endpoint), "test").unwrap()
}

/// Would fail if spans were lost, or didn't show who is part of whom, how long it took and how it ended.
#[tokio::test]
async fn a_collector_is_sent_what_happened() {
    let (endpoint, mut batches) = collector().await;
    let traces = to(&endpoint);
    let parent: Context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        .parse()
        .unwrap();
    let mut outer = traces.span("outer", SpanKind::Server, Some(parent));
    outer.set("wisp.function", "a/b");
    let began = Instant::now();
    let mut inner = outer.child_at("inner", began);
    inner.fail("no pod came");
    inner.end_at(began + Duration::from_millis(250));
    let context = outer.context().unwrap();
    drop(outer);
    traces.flush().await;

    let batch = batches.recv().await.unwrap();
    let [resource] = &batch.resource_spans[..] else {
        panic!("{batch:?}");
    };
    let named = format!("{:?}", resource.resource);
    assert!(
        named.contains("service.name") && named.contains("test"),
        "{named}"
    );
    let spans: Vec<&Sent> = resource
        .scope_spans
        .iter()
        .flat_map(|scope| &scope.spans)
        .collect();
    let [inner, outer] = &spans[..] else {
        panic!("{spans:?}");
    };
    assert_eq!((&*outer.name, &*inner.name), ("outer", "inner"));
    assert_eq!(outer.trace_id, parent.trace.to_bytes());
    assert_eq!(outer.parent_span_id, parent.span.to_bytes());
    assert_eq!(inner.trace_id, outer.trace_id);
    assert_eq!(inner.parent_span_id, context.span.to_bytes());
    let took = inner.end_time_unix_nano - inner.start_time_unix_nano;
    assert!((249_000_000..251_000_000).contains(&took), "{took}");
    let status = inner.status.as_ref().unwrap();
    assert_eq!(status.code(), StatusCode::Error);
    assert_eq!(status.message, "no pod came");
    assert_eq!(outer.attributes[0].key, "wisp.function");
}

/// Would fail if a collector that is gone held anybody up, or what comes after were not sent.
#[tokio::test]
async fn a_collector_that_cannot_be_reached_costs_its_spans_alone() {
    let traces = to("http://127.0.0.1:9/v1/traces");
    drop(traces.span("lost", SpanKind::Internal, None));
    traces.flush().await;
    drop(traces.span("lost, too", SpanKind::Internal, None));
    traces.flush().await;
}

#[tokio::test]
async fn without_a_collector_nothing_is_made() {
    let traces = Traces::off();
    let span = traces.span("nothing", SpanKind::Internal, None);
    assert!(span.context().is_none());
    assert!(span.child("nothing").context().is_none());
    traces.flush().await;
}
