//! What it is compared with: Deployments that nobody of wisp knows, scaled from nothing and asked every few milliseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use http::HeaderValue;
use serde_json::{Value, json};
use tokio::sync::watch;
use wisp_e2e::PATIENCE;
use wisp_integration::Client;
use wisp_load::Sample;

use crate::ask::Question;
use crate::bench::{Bench, QUIET};
use crate::cases::HELLO;

/// The label of all plain pods.
const GROUP: &str = "plain";
/// The Deployment that is woken again and again.
const PLAIN: &str = "plain";
/// How often a pod is asked.
const PROBE: Duration = Duration::from_millis(5);

/// Where pods are, by their Deployments' names.
type Addresses = watch::Sender<BTreeMap<String, SocketAddr>>;

/// A Deployment's pod template, and the key of its data port.
pub(crate) struct Template {
    spec: Value,
    key: String,
}

impl Bench<'_> {
    /// Makes a plain Deployment of the same host with the same Assignment as the function's, to be woken again and again. It
    /// has no pod.
    pub(crate) async fn make_plain(&self, function: &str) -> Result<Template> {
        let template = self.template(function).await?;
        self.make(PLAIN, &template)?;
        Ok(template)
    }

    /// Wakes it once. Returns how many milliseconds that takes, when it has no pod again.
    pub(crate) async fn wake_plain(
        &self,
        template: &Template,
        question: Question,
    ) -> Result<Vec<f64>> {
        tokio::time::sleep(QUIET).await;
        let names = [PLAIN.to_owned()];
        let took = self.scale_up(&names, &template.key, question).await?;
        self.scale(PLAIN, 0).await?;
        let selector = format!("--selector=app={PLAIN}");
        self.space
            .wait("no plain pod", &["pods", &selector], |pods| {
                pods.is_empty().then_some(())
            })?;
        Ok(took)
    }

    pub(crate) fn remove_plain(&self) -> Result<()> {
        self.space
            .kubectl(&["delete", "deployment", PLAIN])
            .map(drop)
    }

    /// So many plain Deployments, all scaled at once.
    pub(crate) async fn plain_at_once(&self, function: &str, count: usize) -> Result<Sample> {
        let template = self.template(function).await?;
        let names: Vec<String> = (0..count).map(|index| format!("plain-{index}")).collect();
        for name in &names {
            self.make(name, &template)?;
        }
        tokio::time::sleep(QUIET).await;
        let found = Sample(self.scale_up(&names, &template.key, HELLO).await?);
        let all: Vec<&str> = ["delete", "deployment"]
            .into_iter()
            .chain(names.iter().map(String::as_str))
            .collect();
        self.space.kubectl(&all)?;
        let ours: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        self.space.wait("no plain pods", &["pods"], |pods| {
            let mut apps = pods
                .values()
                .filter_map(|pod| pod["metadata"]["labels"]["app"].as_str());
            (!apps.any(|app| ours.contains(app))).then_some(())
        })?;
        Ok(found)
    }

    /// Scales Deployments from nothing at once. Returns how many milliseconds each takes to answer.
    async fn scale_up(&self, names: &[String], key: &str, question: Question) -> Result<Vec<f64>> {
        let began = Instant::now();
        let addresses = watch::Sender::default();
        let answered = names.iter().map(|name| async {
            self.scale(name, 1).await?;
            self.first_answer(name, key, question, &addresses).await?;
            anyhow::Ok(began.elapsed().as_secs_f64() * 1e3)
        });
        tokio::select! {
            all = futures::future::try_join_all(answered) => all,
            failed = self.watch_addresses(&addresses) => failed.map(|never| match never {}),
        }
    }

    async fn template(&self, function: &str) -> Result<Template> {
        let deployments = format!("/apis/apps/v1/namespaces/{}/deployments", self.space.name());
        let revisions = format!("{deployments}?labelSelector=wisp.dev%2Ffunction%3D{function}");
        let found = self.api.get(&revisions).await?;
        let spec = found["items"][0]["spec"]["template"].clone();
        let secret = spec
            .pointer("/spec/containers/0/env/0/valueFrom/secretKeyRef/name")
            .and_then(Value::as_str)
            .context("the revision has a Secret")?;
        let key = self.key(secret).await?;
        Ok(Template { spec, key })
    }

    fn make(&self, name: &str, template: &Template) -> Result<()> {
        let mut pod = template.spec.clone();
        pod["metadata"]["labels"] = json!({"app": name, GROUP: "yes"});
        let plain = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {"replicas": 0, "selector": {"matchLabels": {"app": name}}, "template": pod},
        });
        self.space.apply(&plain.to_string()).map(drop)
    }
    async fn key(&self, secret: &str) -> Result<String> {
        let path = format!("/api/v1/namespaces/{}/secrets/{secret}", self.space.name());
        let found = self.api.get(&path).await?;
        let text = found["data"]["assignment"].as_str().unwrap_or_default();
        let json = base64::engine::general_purpose::STANDARD.decode(text)?;
        let assignment: Value = serde_json::from_slice(&json)?;
        let key = assignment["key"]
            .as_str()
            .context("the Assignment has a key")?;
        Ok(key.to_owned())
    }

    async fn scale(&self, name: &str, replicas: u32) -> Result<()> {
        let path = format!(
            "/apis/apps/v1/namespaces/{}/deployments/{name}/scale",
            self.space.name()
        );
        self.api
            .patch(&path, &json!({"spec": {"replicas": replicas}}))
            .await
            .map(drop)
    }

    /// Tells the addresses of all plain pods, one question at a time however many wait. Returns when it can't.
    async fn watch_addresses(&self, addresses: &Addresses) -> Result<Infallible> {
        let pods = format!(
            "/api/v1/namespaces/{}/pods?labelSelector={GROUP}",
            self.space.name()
        );
        loop {
            let found = self.api.get(&pods).await?;
            let all = found["items"].as_array().into_iter().flatten();
            let known = all.filter_map(|pod| {
                let name = pod["metadata"]["labels"]["app"].as_str()?;
                let ip = pod["status"]["podIP"].as_str()?;
                Some((name.to_owned(), format!("{ip}:8080").parse().ok()?))
            });
            addresses.send_replace(known.collect());
            tokio::time::sleep(PROBE).await;
        }
    }

    async fn first_answer(
        &self,
        name: &str,
        key: &str,
        question: Question,
        addresses: &Addresses,
    ) -> Result<()> {
        let began = Instant::now();
        let mut known = addresses.subscribe();
        let address = {
            let known = known.wait_for(|known| known.contains_key(name));
            let known = tokio::time::timeout(PATIENCE, known).await;
            known.context("the plain Deployment's pod has no address")??[name]
        };
        loop {
            let mut asked = question.request("/")?;
            asked
                .headers_mut()
                .insert("wisp-key", HeaderValue::from_str(key)?);
            let client = Client::new(address);
            let answer = tokio::time::timeout(Duration::from_secs(1), client.fetch(asked));
            if answer
                .await
                .is_ok_and(|answer| answer.is_ok_and(|answer| answer.status == 200))
            {
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                bail!("the plain Deployment's pod never answered");
            }
            tokio::time::sleep(PROBE).await;
        }
    }
}
