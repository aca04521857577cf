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
use tokio::net::TcpSocket;

use super::*;

/// A collector. Returns its address and what it is sent.
fn collector() -> (String, mpsc::UnboundedReceiver<ExportTraceServiceRequest>) {
    let socket = socket();
    let endpoint = endpoint(&socket);
    (endpoint, listen(socket))
}

/// An address of its own, where nobody listens yet.
fn socket() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    socket
}

fn endpoint(socket: &TcpSocket) -> String {
    format!("http://{}/v1/traces", socket.local_addr().unwrap())
}

/// What a collector there is sent.
fn listen(socket: TcpSocket) -> mpsc::UnboundedReceiver<ExportTraceServiceRequest> {
    let listener = socket.listen(16).unwrap();
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
    receiver
}

fn to(endpoint: &str) -> Traces {
    let builder = SpanExporter::builder().with_http();
    let timeout = Duration::from_secs(30);
    Traces::to(builder.with_endpoint(endpoint), timeout, "test").unwrap()
}

/// The spans of a batch, by their names.
fn names(batch: &ExportTraceServiceRequest) -> Vec<&str> {
    let scopes = batch.resource_spans.iter().flat_map(|of| &of.scope_spans);
    let spans = scopes.flat_map(|scope| &scope.spans);
    spans.map(|span| &*span.name).collect()
}

/// Would fail if spans were lost, or didn't show who is part of whom, how long it took and how it ended.
#[tokio::test]
async fn a_collector_is_sent_what_happened() {
    let (endpoint, mut batches) = collector();
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
    let socket = socket();
    let traces = to(&endpoint(&socket));
    drop(traces.span("lost", SpanKind::Internal, None));
    traces.flush().await;
    let mut batches = listen(socket);
    drop(traces.span("sent", SpanKind::Internal, None));
    traces.flush().await;
    assert_eq!(names(&batches.recv().await.unwrap()), ["sent"]);
}

/// Would fail if spans that nobody takes filled the memory.
#[tokio::test]
async fn spans_beyond_the_queue_are_dropped() {
    let (endpoint, mut batches) = collector();
    let traces = to(&endpoint);
    // The task that sends them has no turn before this one waits.
    for _ in 0..QUEUE + 100 {
        drop(traces.span("one of many", SpanKind::Internal, None));
    }
    traces.flush().await;
    drop(traces.span("the last", SpanKind::Internal, None));
    traces.flush().await;
    let mut sent = 0;
    loop {
        let batch = batches.recv().await.unwrap();
        let names = names(&batch);
        assert!(names.len() <= BATCH, "{}", names.len());
        if names == ["the last"] {
            break;
        }
        sent += names.len();
    }
    assert_eq!(sent, QUEUE);
}

/// Would fail if what a client decided not to record were recorded, or its function were told to.
#[tokio::test]
async fn of_a_trace_that_is_not_sampled_nothing_is_sent() {
    let (endpoint, mut batches) = collector();
    let traces = to(&endpoint);
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    let span = traces.span("not sampled", SpanKind::Server, parent.parse().ok());
    assert_eq!(span.context(), None);
    drop((span.child("part of it"), span));
    drop(traces.span("sent", SpanKind::Server, None));
    traces.flush().await;
    assert_eq!(names(&batches.recv().await.unwrap()), ["sent"]);
}

/// Would fail if sending took longer than the environment says.
#[test]
fn the_timeout_is_what_the_environment_says() {
    let (general, special) = (
        "OTEL_EXPORTER_OTLP_TIMEOUT",
        "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    );
    for (set, millis) in [
        ([].as_slice(), 10_000),
        (&[(general, "3000")], 3000),
        (&[(general, "3000"), (special, "20000")], 20_000),
        (&[(general, "3000"), (special, "20s")], 3000),
    ] {
        let variable = |name: &str| {
            let found = set.iter().find(|(set, _)| *set == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        assert_eq!(timeout(variable), Duration::from_millis(millis), "{set:?}");
    }
}

#[tokio::test]
async fn without_a_collector_nothing_is_made() {
    let traces = Traces::off();
    let span = traces.span("nothing", SpanKind::Internal, None);
    assert!(span.context().is_none());
    assert!(span.child("nothing").context().is_none());
    traces.flush().await;
}
