//! The examples, from their folders to answers, by the command line alone.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use wisp_e2e::{Installation, NAMESPACE, PATIENCE, Space, installed, repository};
use wisp_integration::{Answer, request, target_folder, wisp};

fn folder(name: &str) -> PathBuf {
    repository().join("examples").join(name)
}

fn read(name: &str, file: &str) -> Result<Vec<u8>> {
    let path = folder(name).join(file);
    std::fs::read(&path).with_context(|| path.display().to_string())
}

/// Whether the models are here that `cargo xtask models` makes: two examples need them, and CI has them.
fn has_models() -> Result<bool> {
    let models = wisp_cluster::cache()?.join("models");
    for model in ["efficientnet-lite0.onnx", "all-minilm-l6-v2.onnx"] {
        if !models.join(model).is_file() {
            wisp_skip::skip(format!("{model} is missing: run `cargo xtask models`"));
            return Ok(false);
        }
    }
    Ok(true)
}

/// The command line, as somebody uses it who looks after one namespace of a cluster.
struct Shell<'a> {
    wisp: &'a Installation,
    space: &'a Space,
}

impl Shell<'_> {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = wisp(&repository(), words);
        command
            // Where the README's demonstration builds, too.
            .env("CARGO_TARGET_DIR", target_folder())
            .env("KUBECONFIG", self.wisp.cluster().kubeconfig())
            .args(["--namespace", self.space.name()]);
        command
    }

    /// Runs it, and gives what it printed.
    fn run(&self, words: &[&str]) -> Result<Vec<u8>> {
        let output = self.command(words).output()?;
        ensure!(
            output.status.success(),
            "wisp {} ended with {}:\n{}{}",
            words.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(output.stdout)
    }

    /// Runs it, and gives the objects that it printed.
    fn json(&self, words: &[&str]) -> Result<Vec<Value>> {
        let said = self.run(&[words, &["--output", "json"]].concat())?;
        String::from_utf8(said)?
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
            .collect()
    }
}

async fn post(space: &Space, name: &str, file: &str) -> Result<Answer> {
    let image = read(name, file)?;
    space.client().post(&space.path(name, ""), image).await
}

fn ok<T: for<'a> Deserialize<'a>>(answer: &Answer) -> Result<T> {
    ensure!(answer.status == 200, "{answer:?}");
    Ok(serde_json::from_slice(&answer.body)?)
}

/// Would fail if a folder that runs under `wisp dev` couldn't be deployed as it is, if what it answers differed from what the
/// models' reference implementations do, or if the command line didn't find, ask and tell of it.
#[tokio::test(flavor = "multi_thread")]
async fn every_example_is_deployed_and_answers_as_its_reference_does() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    if !has_models()? {
        return Ok(());
    }
    let space = wisp.space("examples")?;
    let shell = Shell {
        wisp,
        space: &space,
    };
    let registry = format!("{}/{}", wisp.cluster().registry()?, space.name());
    let deploy = [
        "deploy",
        "examples",
        "--plain-http",
        "--timeout",
        "5m",
        "--registry",
    ];
    let deployed = shell.json(&[&deploy[..], &[&registry]].concat())?;
    let names: Vec<_> = deployed
        .iter()
        .filter_map(|told| told["function"].as_str()?.split_once('/'))
        .map(|(_, name)| name)
        .collect();
    ensure!(
        names == ["classify", "digits", "embed", "hello", "stream"]
            && deployed.iter().all(|told| told["ready"] == true),
        "{deployed:?}"
    );

    if let Err(error) = answered(&space, &shell).await {
        // What the pods went through may say why.
        let pods = space.kubectl(&["get", "pods", "--output=wide"])?;
        bail!("{error:?}\n{pods}");
    }
    // The same again changes nothing, not even the revision.
    let hello = folder("hello");
    let hello = hello.to_str().context("a path of UTF-8")?;
    let again = shell.json(&["deploy", hello, "--plain-http", "--registry", &registry])?;
    ensure!(
        again.len() == 1 && again[0]["result"] == "unchanged",
        "{again:?}"
    );
    by_an_invoker(&space, &shell)
}

/// Asks all five, and what is told of them.
async fn answered(space: &Space, shell: &Shell<'_>) -> Result<()> {
    hello(space, shell).await?;
    digits(space, shell).await?;
    classify(space).await?;
    embed(space).await?;
    stream(space).await?;

    let told = shell.json(&["get"])?;
    ensure!(
        told.len() == 5 && told.iter().all(|function| function["ready"] == "True"),
        "{told:?}"
    );
    // What a host tells is told while one is awake, which the first of five may not be any more.
    digits(space, shell).await?;
    let told = String::from_utf8(shell.run(&["get", "digits"])?)?;
    for text in [
        "digits True (Serving)",
        "device    cpu",
        "sha256:",
        "/digits/",
    ] {
        ensure!(told.contains(text), "no {text:?} in {told}");
    }
    Ok(())
}

async fn hello(space: &Space, shell: &Shell<'_>) -> Result<()> {
    ensure!(space.get("hello", "").await?.text() == "Hello, world!\n");
    let id = format!("{}-1", space.name());
    let mut ada = request(http::Method::GET, &space.path("hello", "Ada"), "")?;
    ada.headers_mut().insert("x-request-id", id.parse()?);
    let answer = space.client().fetch(ada).await?;
    ensure!(answer.text() == "Hello, Ada!\n", "{answer:?}");
    // What one request made the function say, among what all say. The kubelet has it a moment later.
    let began = std::time::Instant::now();
    loop {
        let lines = shell.json(&["logs", "hello", "--request", &id])?;
        let said =
            |line: &Value, text: &str| line["message"].as_str().is_some_and(|it| it.contains(text));
        ensure!(
            !lines.iter().any(|line| said(line, "greeting world")),
            "{lines:?}"
        );
        if lines.iter().any(|line| said(line, "greeting Ada")) {
            break;
        }
        ensure!(began.elapsed() < PATIENCE, "the logs are {lines:?}");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    let asked = [
        "invoke",
        "hello",
        "--cluster",
        "--data",
        "{\"name\": \"Grace\"}",
    ];
    let said = String::from_utf8(shell.run(&asked)?)?;
    ensure!(said.contains("Hello, Grace!"), "{said}");
    // What isn't 2xx is told by the exit status.
    let wrong = shell
        .command(&["invoke", "hello", "--cluster", "--data", "{}"])
        .output()?;
    ensure!(
        wrong.status.code() == Some(22)
            && String::from_utf8_lossy(&wrong.stderr).contains("missing field `name`"),
        "{wrong:?}"
    );
    Ok(())
}

/// A user of one namespace, with no rights but to edit it and those that the chart gives to `rbac.invokers`, calls a function and
/// lists it.
fn by_an_invoker(space: &Space, shell: &Shell<'_>) -> Result<()> {
    let cluster = shell.wisp.cluster();
    let (name, namespace) = ("ada", space.name());
    space.kubectl(&["create", "serviceaccount", name])?;
    let edits = format!("--serviceaccount={namespace}:{name}");
    space.kubectl(&["create", "rolebinding", name, "--clusterrole=edit", &edits])?;

    let chart = repository().join("deploy/chart");
    let invokers = json!([{"kind": "ServiceAccount", "name": name, "namespace": namespace}]);
    let rendered = cluster.helm(&[
        "template",
        "wisp",
        chart.to_str().context("a path of UTF-8")?,
        "--namespace",
        NAMESPACE,
        "--show-only=templates/rbac.yaml",
        "--set-json",
        &format!("rbac.invokers={invokers}"),
    ])?;
    let rights: Vec<&str> = rendered
        .split("\n---\n")
        .filter(|object| object.contains("\n  name: wisp-invoke\n"))
        .collect();
    ensure!(rights.len() == 2, "{rendered}");
    let file = tempfile::NamedTempFile::new()?;
    let path = file.path().to_str().context("a path of UTF-8")?;
    std::fs::write(file.path(), rights.join("\n---\n"))?;
    cluster.kubectl(&["apply", "--filename", path])?;

    let configuration = tempfile::NamedTempFile::new()?;
    std::fs::copy(cluster.kubeconfig(), configuration.path())?;
    let own = format!("--kubeconfig={}", configuration.path().display());
    let token = format!(
        "--token={}",
        space.kubectl(&["create", "token", name])?.trim()
    );
    cluster.kubectl(&["config", &own, "set-credentials", name, &token])?;
    let user = format!("--user={name}");
    cluster.kubectl(&["config", &own, "set-context", "--current", &user])?;
    for (words, word) in [
        (
            &[
                "invoke",
                "hello",
                "--cluster",
                "--data",
                "{\"name\": \"Ada\"}",
            ][..],
            "Hello, Ada!",
        ),
        (&["get"], "hello"),
    ] {
        let mut command = shell.command(words);
        let output = command.env("KUBECONFIG", configuration.path()).output()?;
        ensure!(
            output.status.success() && String::from_utf8_lossy(&output.stdout).contains(word),
            "{words:?}: {output:?}"
        );
    }
    // Whose others are no business of theirs.
    let all = |kubeconfig: &std::path::Path| {
        let mut command = wisp(&repository(), &["get", "--all-namespaces"]);
        command.env("KUBECONFIG", kubeconfig).output()
    };
    let (refused, told) = (all(configuration.path())?, all(cluster.kubeconfig())?);
    ensure!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("forbidden"),
        "{refused:?}"
    );
    let said = String::from_utf8_lossy(&told.stdout);
    ensure!(
        said.contains("NAMESPACE") && said.contains(namespace),
        "{told:?}"
    );
    cluster.kubectl(&["delete", "--filename", path]).map(drop)
}

async fn digits(space: &Space, shell: &Shell<'_>) -> Result<()> {
    for (image, digit) in [("seven.png", 7), ("two.png", 2), ("four-on-paper.jpg", 4)] {
        let got: Value = ok(&post(space, "digits", image).await?)?;
        ensure!(
            got["digit"] == digit && got["confidence"].as_f64() > Some(0.9),
            "{image}: {got}"
        );
    }
    let data = format!("@{}", folder("digits").join("two.png").display());
    let said = shell.json(&["invoke", "digits", "--cluster", "--data", &data])?;
    let said = said.first().context("nothing was printed")?;
    let told: Value = serde_json::from_str(said["body"].as_str().unwrap_or_default())?;
    ensure!(said["status"] == 200 && told["digit"] == 2, "{said}");
    Ok(())
}

/// The reference is Pillow's bicubic scaling with ONNX Runtime in Python.
async fn classify(space: &Space) -> Result<()> {
    for (image, label, probability) in [
        ("china.jpg", "palace", 0.3146),
        ("flower.jpg", "daisy", 0.364),
        ("chelsea.png", "tiger cat", 0.3858),
    ] {
        let got: Vec<Value> = ok(&post(space, "classify", image).await?)?;
        let first = got.first().context("no class")?;
        let found = first["probability"].as_f64().unwrap_or_default();
        ensure!(
            got.len() == 5 && first["label"] == label && (found - probability).abs() < 0.03,
            "{image}: {got:?}"
        );
    }
    Ok(())
}

/// The reference is sentence-transformers'.
async fn embed(space: &Space) -> Result<()> {
    #[derive(Deserialize)]
    struct Reference {
        sentences: Vec<String>,
        embeddings: Vec<Vec<f32>>,
    }
    #[derive(Deserialize)]
    struct Response {
        data: Vec<Embedding>,
    }
    #[derive(Deserialize)]
    struct Embedding {
        embedding: Vec<f32>,
    }
    let reference: Reference = serde_json::from_slice(&read("embed", "testdata/reference.json")?)?;
    let body = json!({"input": reference.sentences}).to_string();
    let path = space.path("embed", "v1/embeddings");
    let mut asked = request(http::Method::POST, &path, body)?;
    asked
        .headers_mut()
        .insert("content-type", "application/json".parse()?);
    let got: Response = ok(&space.client().fetch(asked).await?)?;
    ensure!(got.data.len() == reference.embeddings.len());
    for (got, expected) in got.data.iter().zip(&reference.embeddings) {
        let farthest = got
            .embedding
            .iter()
            .zip(expected)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        ensure!(
            got.embedding.len() == 384 && farthest < 1e-4,
            "off by {farthest}"
        );
    }
    Ok(())
}

/// The whole stream would take nearly three hours: an event that arrives at all wasn't held back for the others, neither by
/// the host nor by the gateway.
async fn stream(space: &Space) -> Result<()> {
    let path = space.path("stream", "?to=1000&interval=10000");
    let request = request(http::Method::GET, &path, "")?;
    let mut response = space.client().send(request).await?;
    let media_type = response.headers().get("content-type");
    ensure!(media_type.is_some_and(|it| it == "text/event-stream"));
    let mut text = String::new();
    while !text.ends_with("\n\n") {
        let frame = tokio::time::timeout(PATIENCE, response.frame()).await?;
        let frame = frame.context("the stream ended")??;
        text.push_str(std::str::from_utf8(frame.data_ref().context("no data")?)?);
    }
    ensure!(
        text == "event: count\nid: 1\ndata: {\"count\":1,\"to\":1000}\n\n",
        "{text}"
    );
    Ok(())
}
