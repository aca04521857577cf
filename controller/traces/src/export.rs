//! From this process to the collector.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_rustls::HttpsConnectorBuilder;
use opentelemetry::trace::SpanKind;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_otlp::{
    ExporterBuildError, OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TIMEOUT,
    OTEL_EXPORTER_OTLP_TIMEOUT_DEFAULT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT,
    OTEL_EXPORTER_OTLP_TRACES_TIMEOUT, SpanExporter, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::{mpsc, oneshot};

use crate::context::Context;
use crate::span::Span;

/// Spans that wait to be sent. More are dropped: a collector that doesn't keep up must not fill the memory.
const QUEUE: usize = 2048;
/// The most spans that are sent at once.
const BATCH: usize = 512;
/// How long spans wait for others.
const LINGER: Duration = Duration::from_millis(500);
/// How often it is told that the collector can't be reached.
const COMPLAIN: Duration = Duration::from_secs(60);

/// Where spans go. Clones share everything.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Arc<mpsc::Sender<Message>>>);

#[derive(Debug)]
enum Message {
    Span(Box<SpanData>),
    /// All that came before is to be sent.
    Flush(oneshot::Sender<()>),
}

/// Why no traces can be sent.
#[derive(Debug, thiserror::Error)]
#[error("traces can't be sent as OpenTelemetry's environment variables say")]
pub struct SetupError(#[from] ExporterBuildError);

impl Traces {
    /// No span is made.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    /// Spans of the service `name` go where the environment says, if it says where. They are sent by a task of the
    /// current runtime.
    ///
    /// # Errors
    /// When a variable has a value that it can't have.
    pub fn from_environment(name: &'static str) -> Result<Self, SetupError> {
        let is_set = |variable| std::env::var_os(variable).is_some_and(|value| !value.is_empty());
        if ![
            OTEL_EXPORTER_OTLP_ENDPOINT,
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT,
        ]
        .into_iter()
        .any(is_set)
        {
            return Ok(Self::off());
        }
        let timeout = timeout(|variable| std::env::var(variable).ok());
        Self::to(SpanExporter::builder().with_http(), timeout, name)
    }

    pub(crate) fn to(
        builder: opentelemetry_otlp::SpanExporterBuilder<
            opentelemetry_otlp::HttpExporterBuilderSet,
        >,
        timeout: Duration,
        name: &'static str,
    ) -> Result<Self, SetupError> {
        let connector = HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_http1()
            .build();
        let client = HyperClient::new(connector, timeout, None);
        let mut exporter = builder.with_http_client(client).build()?;
        exporter.set_resource(&Resource::builder().with_service_name(name).build());
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(export(exporter, receiver));
        Ok(Self(Some(Arc::new(sender))))
    }

    /// A span that begins now, as part of `parent`, which another process told of; without one it begins a trace.
    #[must_use]
    pub fn span(&self, name: &'static str, kind: SpanKind, parent: Option<Context>) -> Span {
        self.span_at(name, kind, parent, Instant::now())
    }

    /// The same, of what began at `begin`.
    #[must_use]
    pub fn span_at(
        &self,
        name: &'static str,
        kind: SpanKind,
        parent: Option<Context>,
        begin: Instant,
    ) -> Span {
        Span::new(self, name, kind, parent, true, begin)
    }

    /// Whether spans are made.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn send(&self, span: SpanData) {
        let Some(sender) = &self.0 else { return };
        if sender.try_send(Message::Span(Box::new(span))).is_err() {
            tracing::debug!("a span is dropped: {QUEUE} wait to be sent");
        }
    }

    /// Sends what waits to be sent, before the process ends.
    pub async fn flush(&self) {
        let Some(sender) = &self.0 else { return };
        let (done, sent) = oneshot::channel();
        if sender.send(Message::Flush(done)).await.is_ok() {
            let _ = sent.await;
        }
    }
}

/// The longest that one try of sending may take, in milliseconds where a variable says it: what is no number is none, as the
/// exporter itself, which tries again until then, reads them.
fn timeout(variable: impl Fn(&str) -> Option<String>) -> Duration {
    [
        OTEL_EXPORTER_OTLP_TRACES_TIMEOUT,
        OTEL_EXPORTER_OTLP_TIMEOUT,
    ]
    .into_iter()
    .find_map(|name| variable(name)?.parse().ok())
    .map_or(OTEL_EXPORTER_OTLP_TIMEOUT_DEFAULT, Duration::from_millis)
}

async fn export(exporter: SpanExporter, mut receiver: mpsc::Receiver<Message>) {
    let mut complained: Option<Instant> = None;
    while let Some(first) = receiver.recv().await {
        let mut batch = Vec::new();
        let mut flushed = Vec::new();
        let mut take = |message| match message {
            Message::Span(span) => {
                batch.push(*span);
                batch.len() < BATCH
            }
            Message::Flush(done) => {
                flushed.push(done);
                false
            }
        };
        let deadline = tokio::time::Instant::now() + LINGER;
        let mut goes_on = take(first);
        while goes_on {
            goes_on = match tokio::time::timeout_at(deadline, receiver.recv()).await {
                Ok(Some(message)) => take(message),
                Ok(None) | Err(_) => false,
            };
        }
        let count = batch.len();
        if count > 0
            && let Err(error) = exporter.export(batch).await
            && complained.is_none_or(|at| at.elapsed() >= COMPLAIN)
        {
            complained = Some(Instant::now());
            tracing::warn!(%error, "{count} spans could not be sent to the collector");
        }
        for done in flushed {
            let _ = done.send(());
        }
    }
}

#[cfg(test)]
mod tests;
