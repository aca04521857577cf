//! A Kubernetes API that has only what a gateway reads, and an operator that notes what it is told: for running the
//! gateway's binary without a cluster.

mod api;
mod operator;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use wisp_contract::FunctionId;
use wisp_contract::keys::Root;
use wisp_contract::operator::{Replica, Report, pod};

/// The namespace that the gateway believes to run in.
pub const GATEWAY_NAMESPACE: &str = "wisp-system";

/// What stands in for a cluster and its operator, until it is dropped.
#[derive(Debug)]
pub struct FakeCluster {
    api: api::Api,
    operator: Option<operator::Operator>,
    operator_address: SocketAddr,
    root: Root,
    folder: TempDir,
}

impl FakeCluster {
    /// An empty cluster, whose operator has made the gateways' Secret.
    ///
    /// # Errors
    /// When a port or a file isn't to be had.
    pub async fn start() -> Result<Self> {
        let root = Root::new(&"fake".repeat(16)).context("the root is long enough")?;
        let api = api::Api::start().await?;
        let encode = |text: String| base64::engine::general_purpose::STANDARD.encode(text);
        api.put_secret(json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "wisp-gateway", "namespace": GATEWAY_NAMESPACE},
            "data": {"data": encode(root.data().reveal()), "operator": encode(root.operator().0)},
        }));
        let folder = tempfile::tempdir()?;
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": format!("http://{}", api.address())}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": GATEWAY_NAMESPACE}}],
            "users": [{"name": "fake", "user": {}}],
        });
        std::fs::write(folder.path().join("kubeconfig"), config.to_string())?;
        let operator = operator::Operator::start(None, root.operator()).await?;
        Ok(Self {
            operator_address: operator.address(),
            operator: Some(operator),
            api,
            root,
            folder,
        })
    }

    /// What KUBECONFIG is to be.
    #[must_use]
    pub fn kubeconfig(&self) -> std::path::PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// A folder for whatever goes with it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the operator listens, also while it is away.
    #[must_use]
    pub fn operator(&self) -> SocketAddr {
        self.operator_address
    }

    /// The key that a replica of the function must be sent.
    #[must_use]
    pub fn key(&self, function: &FunctionId) -> String {
        self.root.data().of(function, &uid(function)).0
    }

    /// Adds or changes a Function.
    pub fn put_function(&self, function: &FunctionId, spec: &Value) {
        self.api.put(
            api::FUNCTIONS,
            json!({
                "apiVersion": "wisp.dev/v1alpha1", "kind": "Function", "spec": spec,
                "metadata": {
                    "name": function.name(), "namespace": function.namespace(),
                    "uid": uid(function), "creationTimestamp": "2026-01-01T00:00:00Z",
                },
            }),
        );
    }

    /// Removes a Function.
    pub fn remove_function(&self, function: &FunctionId) {
        self.api
            .remove(api::FUNCTIONS, function.namespace(), function.name());
    }

    /// Adds or changes a pod of a function. Its data port is the one that all pods have.
    pub fn put_pod(&self, function: &FunctionId, name: &str, address: SocketAddr, ready: bool) {
        let status = if ready { "True" } else { "False" };
        self.api.put(
            api::PODS,
            json!({
                "apiVersion": "v1", "kind": "Pod", "spec": {"containers": []},
                "metadata": {
                    "name": name, "namespace": function.namespace(), "uid": name,
                    "creationTimestamp": "2026-01-01T00:00:01Z",
                    "labels": {pod::FUNCTION: function.name()}, "annotations": {pod::CONCURRENCY: "64"},
                },
                "status": {
                    "phase": "Running", "podIP": address.ip().to_string(),
                    "conditions": [{"type": "Ready", "status": status}],
                },
            }),
        );
    }

    /// Removes a pod.
    pub fn remove_pod(&self, namespace: &str, name: &str) {
        self.api.remove(api::PODS, namespace, name);
    }

    /// Adds or changes a Secret in the gateway's namespace.
    pub fn put_secret(&self, name: &str, data: &[(&str, &[u8])]) {
        let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        let data: serde_json::Map<String, Value> = data
            .iter()
            .map(|(key, value)| ((*key).to_owned(), encode(value).into()))
            .collect();
        self.api.put_secret(json!({
            "apiVersion": "v1", "kind": "Secret", "data": data,
            "metadata": {"name": name, "namespace": GATEWAY_NAMESPACE},
        }));
    }

    /// Breaks every watch that is under way.
    pub fn break_watches(&self) {
        self.api.break_watches();
    }

    /// What wake-ups are answered with: replicas, or a problem and its status.
    pub fn answer_wake_ups(&self, answer: Result<Vec<Replica>, (u16, Value)>) {
        if let Some(operator) = &self.operator {
            operator.answer(answer);
        }
    }

    /// How long each wake-up takes from now on.
    pub fn delay_wake_ups(&self, time: Duration) {
        if let Some(operator) = &self.operator {
            operator.take(time);
        }
    }

    /// How many wake-ups were asked for.
    #[must_use]
    pub fn wake_ups(&self) -> usize {
        self.operator
            .as_ref()
            .map_or(0, operator::Operator::wake_ups)
    }

    /// What the last wake-up is part of: its `traceparent`, where it had one.
    #[must_use]
    pub fn trace(&self) -> Option<String> {
        self.operator.as_ref()?.trace()
    }

    /// Waits for a report of which `what` holds.
    pub async fn report(&self, what: impl Fn(&Report) -> bool) -> Report {
        match &self.operator {
            Some(operator) => operator.report(what).await,
            None => std::future::pending().await,
        }
    }

    /// Ends the operator, and with it its connections.
    pub fn stop_operator(&mut self) {
        self.operator = None;
    }

    /// Starts it again, where it was.
    ///
    /// # Errors
    /// When its port was taken meanwhile.
    pub async fn start_operator(&mut self) -> Result<()> {
        let key = self.root.operator();
        self.operator = Some(operator::Operator::start(Some(self.operator_address), key).await?);
        Ok(())
    }
}

fn uid(function: &FunctionId) -> String {
    format!("uid-of-{}-{}", function.namespace(), function.name())
}
