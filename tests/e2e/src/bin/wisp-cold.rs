//! How long the first request to a sleeping function takes, on a real Kubernetes: of a pod that stands by, and of a plain
//! Deployment of the same host that is scaled from nothing and asked every few milliseconds. `cargo xtask bench cold`.

#![expect(
    clippy::indexing_slicing,
    reason = "what JSON doesn't have is null, and functions are there because they were made here"
)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use clap::Parser;
use http::{HeaderValue, Method};
use serde_json::{Value, json};
use wisp_cluster::Cluster;
use wisp_e2e::{Api, Installation, PATIENCE, Space, repository};
use wisp_integration::{Answer, Client, request};
use wisp_load::{Aim, Machine, Report, Row, Sample};

const BENCH: &str = "cold";
/// Functions that take turns: while one is woken, the others fall asleep.
const TURNS: usize = 8;
/// Before each wake-up nothing happens for so long.
const QUIET: Duration = Duration::from_millis(200);
/// How often the plain Deployment's pod is asked.
const PROBE: Duration = Duration::from_millis(5);

/// How to measure.
#[derive(Debug, Parser)]
struct Options {
    /// The folder of wisp-runtime, wisp-operator and wisp-gateway.
    #[arg(long)]
    programs: PathBuf,
    /// The folder of hello.wasm and digits.wasm.
    #[arg(long)]
    components: PathBuf,
    /// How often functions are woken, in each case.
    #[arg(long, default_value_t = 200)]
    wakes: usize,
    /// How often the plain Deployment is.
    #[arg(long, default_value_t = 40)]
    plain: usize,
    /// Where the numbers go.
    #[arg(long)]
    out: PathBuf,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let machine = Machine::here();
    let cluster = Cluster::shared().context("there is no cluster to measure on")?;
    let wisp = Installation::of(cluster, |name| options.programs.join(name))?;
    let wisp: &'static Installation = Box::leak(Box::new(wisp));
    let bench = Bench {
        space: wisp.space("cold")?,
        api: Api::open(cluster)?,
        options: &options,
    };
    let report = Report {
        machine,
        rows: bench.run().await?,
    };
    report.write(&options.out)?;
    println!("{}", report.table());
    Ok(if report.met() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

struct Bench<'a> {
    space: Space,
    api: Api,
    options: &'a Options,
}

/// What is asked of a function, and what must be answered.
#[derive(Clone, Copy)]
struct Question {
    method: &'static str,
    media_type: &'static str,
    body: &'static [u8],
    word: &'static str,
}

/// Milliseconds from a client's first byte to the last of the answer, and of these until there was a replica.
#[derive(Default)]
struct Found {
    total: Sample,
    activate: Sample,
}

const HELLO: Question = Question {
    method: "GET",
    media_type: "text/plain",
    body: b"",
    word: "",
};
const DIGIT: Question = Question {
    method: "POST",
    media_type: "image/png",
    body: include_bytes!("../../../../examples/digits/seven.png"),
    word: "7",
};

impl Bench<'_> {
    async fn run(&self) -> Result<Vec<Row>> {
        self.pool("warm", 2, 4)?;
        let component = |name: &str| self.options.components.join(name);
        let hello = self
            .space
            .push_component("hello", &component("hello.wasm"))
            .await?;
        let digits = self
            .space
            .push_component("digits", &component("digits.wasm"))
            .await?;
        let model = self
            .space
            .push_model("mnist", repository().join("examples/digits/mnist.onnx"))
            .await?;
        let model = format!("  models: [{{name: mnist, source: {{image: '{model}'}}}}]\n");
        let hellos = self.functions("hello", &hello, "")?;
        let numbers = self.functions("digits", &digits, &model)?;

        let plain = self.plain(&hellos[..1], HELLO).await?;
        let mut rows = vec![self.row("hello, plain Deployment", "p50", percentile(&plain, 50.0))];
        let baseline = percentile(&plain, 50.0);
        let cases = [
            (
                "hello, pool",
                &hellos,
                HELLO,
                Aim::Below(5.0),
                Some(Aim::Below(25.0)),
            ),
            ("digits, pool", &numbers, DIGIT, Aim::Below(10.0), None),
        ];
        for (case, functions, question, p50, p99) in cases {
            let found = self.wake(functions, question).await?;
            let of = |metric: &str, value| self.row(case, metric, value).against(baseline);
            rows.push(of("p50", percentile(&found.total, 50.0)).aiming(p50));
            let tail = of("p99", percentile(&found.total, 99.0));
            rows.push(match p99 {
                Some(aim) => tail.aiming(aim),
                None => tail,
            });
            rows.push(of(
                "p50 until there is a replica",
                percentile(&found.activate, 50.0),
            ));
        }
        self.space
            .kubectl(&["delete", "runtimepool", "warm", "--wait"])?;
        self.pool("three", 3, 3)?;
        self.asleep(&hellos, 3).await?;
        let burst = self.burst(&hellos).await?;
        let case = "8 functions at once, pool of 3";
        rows.push(
            self.row(case, "p50", percentile(&burst, 50.0))
                .against(baseline),
        );
        rows.push(
            self.row(case, "slowest", percentile(&burst, 100.0))
                .against(baseline)
                .aiming(Aim::Below(600.0)),
        );
        Ok(rows)
    }

    fn row(&self, case: &str, metric: &str, value: f64) -> Row {
        Row::new(BENCH, case, metric, &Sample(vec![value]), "ms")
    }

    fn pool(&self, name: &str, min: u32, max: u32) -> Result<()> {
        let manifest = json!({
            "apiVersion": "wisp.dev/v1alpha1", "kind": "RuntimePool", "metadata": {"name": name},
            "spec": {"minReplicas": min, "maxReplicas": max},
        });
        self.space.apply(&manifest.to_string()).map(drop)
    }

    fn functions(&self, name: &str, image: &str, rest: &str) -> Result<Vec<String>> {
        let names: Vec<String> = (0..TURNS).map(|turn| format!("{name}-{turn}")).collect();
        for name in &names {
            let rest = format!("  scaling: {{idleTimeout: 1s}}\n{rest}");
            self.space.apply(&Space::function(name, image, &rest))?;
        }
        for name in &names {
            self.space.condition(name, "Ready", "True")?;
        }
        Ok(names)
    }

    async fn wake(&self, functions: &[String], question: Question) -> Result<Found> {
        let mut found = Found::default();
        for name in functions.iter().cycle().take(self.options.wakes) {
            self.asleep(std::slice::from_ref(name), 1).await?;
            let (took, answer) = self.ask(name, question).await?;
            found.total.0.push(took);
            found.activate.0.push(timing(&answer, "activate")?);
        }
        Ok(found)
    }

    async fn burst(&self, functions: &[String]) -> Result<Sample> {
        let asked = functions.iter().map(|name| self.ask(name, HELLO));
        let answers = futures::future::try_join_all(asked).await?;
        Ok(Sample(answers.into_iter().map(|(took, _)| took).collect()))
    }

    async fn ask(&self, function: &str, question: Question) -> Result<(f64, Answer)> {
        let path = self.space.path(function, "");
        let mut request = request(
            Method::from_bytes(question.method.as_bytes())?,
            &path,
            question.body,
        )?;
        let media_type = HeaderValue::from_static(question.media_type);
        request.headers_mut().insert("content-type", media_type);
        let began = Instant::now();
        let answer = self.space.client().fetch(request).await?;
        let took = began.elapsed().as_secs_f64() * 1e3;
        ensure!(
            answer.status == 200 && answer.text().contains(question.word),
            "{function}: {answer:?}"
        );
        Ok((took, answer))
    }

    /// Waits until none of the functions has a pod, and so many stand by; and then for the machine to be quiet.
    async fn asleep(&self, functions: &[String], least: usize) -> Result<()> {
        let began = Instant::now();
        let pods = format!("/api/v1/namespaces/{}/pods", self.space.name());
        loop {
            let all = self.api.get(&pods).await?;
            let all = all["items"].as_array().cloned().unwrap_or_default();
            let label = |pod: &Value, key: &str| pod["metadata"]["labels"][key].clone();
            let is_ready = |pod: &Value| {
                let conditions = pod["status"]["conditions"].as_array();
                conditions
                    .into_iter()
                    .flatten()
                    .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
            };
            let awake = all.iter().any(|pod| {
                functions
                    .iter()
                    .any(|name| label(pod, "wisp.dev/function") == name.as_str())
            });
            let standing = all.iter().filter(|pod| {
                label(pod, "wisp.dev/pool").is_string()
                    && is_ready(pod)
                    && pod["metadata"]["deletionTimestamp"].is_null()
            });
            if !awake && standing.count() >= least {
                tokio::time::sleep(QUIET).await;
                return Ok(());
            }
            ensure!(began.elapsed() < PATIENCE, "functions don't fall asleep");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The same host with the same Assignment, in a Deployment that nobody of wisp knows.
    async fn plain(&self, functions: &[String], question: Question) -> Result<Sample> {
        let (namespace, name) = (self.space.name(), &functions[0]);
        let deployments = format!("/apis/apps/v1/namespaces/{namespace}/deployments");
        let revisions = format!("{deployments}?labelSelector=wisp.dev%2Ffunction%3D{name}");
        let found = self.api.get(&revisions).await?;
        let mut template = found["items"][0]["spec"]["template"].clone();
        let secret = template
            .pointer("/spec/containers/0/env/0/valueFrom/secretKeyRef/name")
            .and_then(Value::as_str)
            .context("the revision has a Secret")?
            .to_owned();
        template["metadata"]["labels"] = json!({"app": "plain"});
        let plain = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "plain"},
            "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "plain"}}, "template": template},
        });
        self.space.apply(&plain.to_string())?;
        let key = self.key(&secret).await?;
        let mut took = Sample::default();
        for _ in 0..self.options.plain {
            tokio::time::sleep(QUIET).await;
            let began = Instant::now();
            self.scale(1).await?;
            self.first_answer(&key, question).await?;
            took.0.push(began.elapsed().as_secs_f64() * 1e3);
            self.scale(0).await?;
            self.space
                .wait("no plain pod", &["pods", "--selector=app=plain"], |pods| {
                    pods.is_empty().then_some(())
                })?;
        }
        self.space.kubectl(&["delete", "deployment", "plain"])?;
        Ok(took)
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

    async fn scale(&self, replicas: u32) -> Result<()> {
        let path = format!(
            "/apis/apps/v1/namespaces/{}/deployments/plain/scale",
            self.space.name()
        );
        self.api
            .patch(&path, &json!({"spec": {"replicas": replicas}}))
            .await
            .map(drop)
    }

    async fn first_answer(&self, key: &str, question: Question) -> Result<()> {
        let began = Instant::now();
        let pods = format!(
            "/api/v1/namespaces/{}/pods?labelSelector=app%3Dplain",
            self.space.name()
        );
        let mut address = None;
        loop {
            if address.is_none() {
                let found = self.api.get(&pods).await?;
                let ip = found["items"][0]["status"]["podIP"].as_str();
                address = ip.map(|ip| format!("{ip}:8080").parse()).transpose()?;
            }
            if let Some(address) = address {
                let mut asked = request(Method::GET, "/", question.body)?;
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
            }
            if began.elapsed() > PATIENCE {
                bail!("the plain Deployment's pod never answered");
            }
            tokio::time::sleep(PROBE).await;
        }
    }
}

/// One duration of a response's `server-timing`, in milliseconds.
fn timing(answer: &Answer, name: &str) -> Result<f64> {
    let prefix = format!("{name};dur=");
    let values = answer.headers.get_all("server-timing").iter();
    let all: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
    let mut parts = all.iter().flat_map(|value| value.split(", "));
    let found = parts.find_map(|part| part.strip_prefix(&prefix));
    Ok(found
        .with_context(|| format!("no {name} in {all:?}"))?
        .parse()?)
}

/// The value that so many percent are below or at.
fn percentile(sample: &Sample, percent: f64) -> f64 {
    let mut sorted = sample.0.clone();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index below some hundreds"
    )]
    let index = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted
        .get(index.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}
