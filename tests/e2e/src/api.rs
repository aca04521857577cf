//! The API server, asked as kubectl asks it, without starting a kubectl for each of hundreds of questions.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use wisp_cluster::Cluster;
use wisp_integration::{Client, request};

/// `kubectl proxy`, until it is dropped.
pub struct Api {
    address: SocketAddr,
    kubectl: Child,
    /// Kept open: kubectl ends when nobody reads what it says.
    output: BufReader<ChildStdout>,
}

/// What the API server says to a manifest.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// The status: 201 where it would take it.
    pub status: u16,
    /// The sentence that kubectl prints.
    pub message: String,
    /// What it is made of: a field and what is wrong with it.
    pub causes: Vec<(String, String)>,
}

impl Api {
    /// Begins to speak to the cluster's API server.
    ///
    /// # Errors
    /// When kubectl can't be started.
    pub fn open(cluster: &Cluster) -> Result<Self> {
        let mut kubectl = cluster
            .kubectl_command()
            .args(["proxy", "--port=0", "--address=127.0.0.1"])
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start kubectl")?;
        let output = kubectl.stdout.take().context("kubectl has an output")?;
        let mut api = Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            kubectl,
            output: BufReader::new(output),
        };
        let mut line = String::new();
        api.output.read_line(&mut line)?;
        // Starting to serve on 127.0.0.1:40001
        api.address = line
            .split_whitespace()
            .last()
            .and_then(|address| address.parse().ok())
            .with_context(|| format!("kubectl said {line:?}"))?;
        Ok(api)
    }

    /// The object or list at a path.
    ///
    /// # Errors
    /// When the API server doesn't give it.
    pub async fn get(&self, path: &str) -> Result<Value> {
        let answer = Client::new(self.address).get(path).await?;
        ensure!(answer.status == 200, "{path}: {}", answer.text());
        Ok(answer.json())
    }

    /// Merges into the object at a path.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn patch(&self, path: &str, change: &Value) -> Result<Value> {
        let mut request = request(http::Method::PATCH, path, change.to_string())?;
        let media_type = http::HeaderValue::from_static("application/merge-patch+json");
        request.headers_mut().insert("content-type", media_type);
        let answer = Client::new(self.address).fetch(request).await?;
        ensure!(answer.status == 200, "{path}: {}", answer.text());
        Ok(answer.json())
    }

    /// What `kubectl create --dry-run=server` would say to a manifest, in YAML or JSON, of one of `resource`, such as
    /// `functions`.
    ///
    /// # Errors
    /// When the API server doesn't answer.
    pub async fn judge(
        &self,
        namespace: &str,
        resource: &str,
        manifest: impl Into<String>,
    ) -> Result<Verdict> {
        let path = format!(
            "/apis/wisp.dev/v1alpha1/namespaces/{namespace}/{resource}?dryRun=All&fieldValidation=Strict"
        );
        let mut request = request(http::Method::POST, &path, manifest.into())?;
        let media_type = http::HeaderValue::from_static("application/yaml");
        request.headers_mut().insert("content-type", media_type);
        let json = http::HeaderValue::from_static("application/json");
        request.headers_mut().insert("accept", json);
        let answer = Client::new(self.address).fetch(request).await?;
        let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let causes = said.pointer("/details/causes").and_then(Value::as_array);
        Ok(Verdict {
            status: answer.status.as_u16(),
            message: said
                .get("message")
                .and_then(Value::as_str)
                .map_or_else(|| answer.text(), str::to_owned),
            causes: causes
                .into_iter()
                .flatten()
                .map(|cause| (text(cause, "field"), text(cause, "message")))
                .collect(),
        })
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}
