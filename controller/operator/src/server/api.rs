//! What gateways and replicas ask, each with a key.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use subtle::ConstantTimeEq as _;
use tokio::sync::watch;
use uuid::Uuid;
use wisp_contract::assignment::Key;
use wisp_contract::headers;
use wisp_contract::keys::Root;
use wisp_contract::operator::{ARTIFACTS, ENSURE, Ensure, REPORT, Report};

use super::Answer;
use super::caller::Caller;
use super::downloads::Downloads;
use super::respond::{Body, Refusal, file, json, nothing};
use crate::artifacts::Artifacts;
use crate::autoscale::Autoscaler;
use crate::levels::Levels;
use crate::metrics::Metrics;
use crate::wake::Waker;

/// The largest body: a report on some ten thousand functions.
const LARGEST: usize = 8 << 20;

/// How long a request waits for an operator that is about to lead.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether this process leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Another leads.
    Standby,
    /// It leads, and is about to know what there is.
    Learning,
    /// It leads.
    Leading,
}

/// What gateways and replicas ask.
pub struct Api {
    root: Root,
    gateways: Key,
    waker: Arc<Waker>,
    autoscaler: Arc<Autoscaler>,
    artifacts: Arc<dyn Artifacts>,
    levels: Arc<Levels>,
    metrics: Arc<Metrics>,
    standing: watch::Receiver<Standing>,
    downloads: Downloads,
}

impl Api {
    /// Answers what needs the leader once this process leads.
    #[must_use]
    pub fn new(
        root: Root,
        waker: Arc<Waker>,
        autoscaler: Arc<Autoscaler>,
        artifacts: Arc<dyn Artifacts>,
        levels: Arc<Levels>,
        metrics: Arc<Metrics>,
        standing: watch::Receiver<Standing>,
    ) -> Self {
        Self {
            gateways: root.operator(),
            root,
            waker,
            autoscaler,
            artifacts,
            levels,
            metrics,
            standing,
            downloads: Downloads::default(),
        }
    }

    async fn handle(&self, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let path = request.uri().path().to_owned();
        match (request.method().clone(), path.as_str()) {
            (Method::POST, ENSURE) => {
                let trace = request.headers().get(headers::TRACEPARENT);
                let trace = trace.and_then(|trace| trace.to_str().ok()?.parse().ok());
                let ensure: Ensure = self.gateways_body(request).await?;
                Ok(json(&self.waker.ensure(&ensure.function, trace).await?))
            }
            (Method::POST, REPORT) => {
                let report: Report = self.gateways_body(request).await?;
                self.metrics.reported();
                self.autoscaler.report(report);
                Ok(nothing())
            }
            (Method::GET, path) if path.starts_with(ARTIFACTS) => {
                let sha256 = path.strip_prefix(ARTIFACTS).unwrap_or_default();
                check(request.headers(), &self.root.artifact(sha256))?;
                let caller = request.extensions().get::<Caller>();
                if let (Some(cpu), Some(caller)) = (request.headers().get(headers::CPU), caller) {
                    let cpu = cpu.to_str().unwrap_or_default();
                    self.levels.heard(cpu, caller.address);
                }
                self.artifact(sha256, caller).await
            }
            (_, path @ (ENSURE | REPORT)) => Err(Refusal::Method {
                path: path.to_owned(),
                method: "POST",
            }),
            (_, path) => Err(Refusal::NoPath(path.to_owned())),
        }
    }

    async fn gateways_body<T: DeserializeOwned>(
        &self,
        request: Request<Incoming>,
    ) -> Result<T, Refusal> {
        check(request.headers(), &self.gateways)?;
        self.leads().await?;
        let body = Limited::new(request.into_body(), LARGEST).collect().await;
        let body: Bytes = body
            .map_err(|error| Refusal::Body(error.to_string()))?
            .to_bytes();
        serde_json::from_slice(&body).map_err(|error| Refusal::Body(error.to_string()))
    }

    async fn leads(&self) -> Result<(), Refusal> {
        let mut standing = self.standing.clone();
        if *standing.borrow_and_update() == Standing::Standby {
            return Err(Refusal::NotLeading);
        }
        let settled = standing.wait_for(|standing| *standing != Standing::Learning);
        match tokio::time::timeout(PATIENCE, settled).await {
            Ok(Ok(standing)) if *standing == Standing::Leading => Ok(()),
            _ => Err(Refusal::NotLeading),
        }
    }

    async fn artifact(
        &self,
        sha256: &str,
        caller: Option<&Caller>,
    ) -> Result<Response<Body>, Refusal> {
        let turn = match caller {
            Some(caller) => Some((
                caller,
                self.downloads.turn(caller).await.ok_or(Refusal::Busy)?,
            )),
            None => None,
        };
        match self.artifacts.open(sha256).await {
            Ok(Some((content, length))) => {
                let mut response = file(content, length);
                if let Some((caller, turn)) = turn {
                    let download = turn.begin(caller, length);
                    response.extensions_mut().insert(Arc::new(download));
                }
                Ok(response)
            }
            Ok(None) => {
                self.levels.lacks(sha256);
                self.artifacts.hurry(sha256);
                Err(Refusal::NoArtifact(sha256.to_owned()))
            }
            Err(error) => {
                tracing::error!(sha256, %error, "an artifact can't be read");
                Err(Refusal::Store)
            }
        }
    }
}

/// Compares in a time that tells nothing of the key but its length.
fn check(given: &HeaderMap, key: &Key) -> Result<(), Refusal> {
    let given = given
        .get(headers::KEY)
        .map_or(&[][..], |given| given.as_bytes());
    if bool::from(given.ct_eq(key.0.as_bytes())) {
        Ok(())
    } else {
        Err(Refusal::Forbidden)
    }
}

impl Answer for Api {
    fn is_gateways(&self, request: &Request<Incoming>) -> bool {
        check(request.headers(), &self.gateways).is_ok()
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let given = request.headers().get(headers::REQUEST_ID);
        let given = given
            .and_then(|id| id.to_str().ok())
            .filter(|id| !id.is_empty() && id.len() <= 128);
        let id = given.map_or_else(|| Uuid::now_v7().to_string(), str::to_owned);
        match self.handle(request).await {
            Ok(response) => response,
            Err(refusal) => refusal.response(&id),
        }
    }
}
