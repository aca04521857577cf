//! The examples, as they are: each one's component, built and initialised, with its own function.yaml and its real model,
//! in a real host, compared with what the models' reference implementations answer.
#![expect(
    clippy::panic,
    clippy::expect_used,
    reason = "a helper that fails is a test that fails"
)]

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use wisp_api::{Objects, Place, parse_manifests};
use wisp_contract::config::FunctionConfig;
use wisp_contract::log::event;
use wisp_engine::Outcome;
use wisp_engine::preinit::{Limits, preinit};
use wisp_integration::{Answer, Client, Host, PATIENCE, assignment, component, repository};

fn folder(name: &str) -> PathBuf {
    repository().join("examples").join(name)
}

fn read(name: &str, file: &str) -> Vec<u8> {
    let path = folder(name).join(file);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Where `cargo xtask` puts models and ONNX Runtime; a test's own host has a cache of its own beside it.
fn cache() -> PathBuf {
    wisp_skip::cache().expect("WISP_CACHE, XDG_CACHE_HOME or HOME")
}

fn onnxruntime() -> PathBuf {
    let given = std::env::var_os("WISP_ONNXRUNTIME").map(PathBuf::from);
    given.unwrap_or_else(|| cache().join("onnxruntime/1.31.1/libonnxruntime.so"))
}

/// A file that `cargo xtask` fetches. Without it a test has nothing to say, which CI doesn't accept.
fn is_there(path: &Path, install: &str) -> bool {
    let there = path.is_file();
    if !there {
        wisp_skip::skip(format!("{} is missing: {install}", path.display()));
    }
    there
}

struct Example {
    host: Host,
    /// Whether its start-up is in the component.
    is_initialised: bool,
    // The component is in there, and the host's stores.
    _folder: tempfile::TempDir,
}

impl Example {
    fn client(&self) -> Client {
        self.host.client()
    }
}

/// Serves an example. `None` where a model isn't on this machine.
async fn serve(name: &str) -> anyhow::Result<Option<Example>> {
    let manifests = parse_manifests(&String::from_utf8(read(name, "function.yaml"))?)?;
    let [manifest] = manifests.as_slice() else {
        anyhow::bail!("{name} has {} manifests", manifests.len())
    };
    manifest.validate_for(Place::Local { project: true })?;
    let function = manifest
        .function()
        .context("no Function")?
        .clone()
        .with_cache(&cache());

    let scratch = tempfile::tempdir()?;
    let built = preinit(&std::fs::read(component(name))?, &Limits::default())?;
    let file = scratch.path().join("component.wasm");
    std::fs::write(&file, &built.component)?;
    let files =
        function.local_files(&folder(name), Some(file.clone()), scratch.path().to_owned())?;
    let has_models = files
        .models
        .values()
        .all(|model| is_there(model, "run `cargo xtask models`"));
    if !has_models
        || (!files.models.is_empty() && !is_there(&onnxruntime(), "run `cargo xtask setup`"))
    {
        return Ok(None);
    }
    let mut assignment = assignment(&file);
    let config: FunctionConfig =
        function.to_config(&files, Objects::new(&manifests).values(&function)?)?;
    assignment.config = config;
    let library = onnxruntime();
    let library = library.to_str().context("a path that is no UTF-8")?;
    let host = Host::start(Some(&assignment), &["--onnxruntime", library]).await?;
    host.event(event::READY).await?;
    Ok(Some(Example {
        host,
        is_initialised: matches!(built.outcome, Outcome::Snapshot { .. }),
        _folder: scratch,
    }))
}

async fn post_json(client: Client, path: &str, body: &Value) -> anyhow::Result<Answer> {
    let mut request = wisp_integration::request(http::Method::POST, path, body.to_string())?;
    request
        .headers_mut()
        .insert("content-type", "application/json".parse()?);
    client.fetch(request).await
}

fn ok<T: for<'a> Deserialize<'a>>(answer: &Answer) -> anyhow::Result<T> {
    anyhow::ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
    Ok(serde_json::from_slice(&answer.body)?)
}

#[tokio::test]
async fn hello_greets() -> anyhow::Result<()> {
    let Some(hello) = serve("hello").await? else {
        return Ok(());
    };
    assert_eq!(hello.client().get("/").await?.text(), "Hello, world!\n");
    assert_eq!(hello.client().get("/Ada").await?.text(), "Hello, Ada!\n");
    let answer = post_json(hello.client(), "/", &json!({})).await?;
    assert_eq!(answer.status, 400);
    assert!(
        answer.problem().detail.contains("missing field `name`"),
        "{}",
        answer.text()
    );
    Ok(())
}

#[tokio::test]
async fn digits_reads_handwriting() -> anyhow::Result<()> {
    #[derive(Deserialize)]
    struct Prediction {
        digit: u8,
        confidence: f32,
        probabilities: Vec<f32>,
    }
    let Some(digits) = serve("digits").await? else {
        return Ok(());
    };
    for (image, digit) in [("seven.png", 7), ("two.png", 2), ("four-on-paper.jpg", 4)] {
        let got: Prediction = ok(&digits.client().post("/", read("digits", image)).await?)?;
        assert_eq!((got.digit, got.probabilities.len()), (digit, 10), "{image}");
        assert!(
            got.confidence > 0.9 && (got.probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-4,
            "{image}"
        );
    }
    let answer = digits.client().post("/", "no image").await?;
    assert_eq!(answer.status, 415, "{}", answer.text());
    let answer = post_json(digits.client(), "/", &json!([1, 2, 3])).await?;
    assert!(
        answer.status == 400 && answer.text().contains("holds 3 numbers, expected 784"),
        "{}",
        answer.text()
    );
    Ok(())
}

/// The reference is Pillow's bicubic scaling with ONNX Runtime in Python: .3146, .3640 and .3858.
#[tokio::test]
async fn classify_names_what_photographs_show() -> anyhow::Result<()> {
    #[derive(Deserialize)]
    struct Class {
        label: String,
        probability: f32,
        class: usize,
    }
    let Some(classify) = serve("classify").await? else {
        return Ok(());
    };
    assert!(classify.is_initialised);
    let expected = [
        ("china.jpg", "palace", 698, 0.3146),
        ("flower.jpg", "daisy", 985, 0.364),
        ("chelsea.png", "tiger cat", 282, 0.3858),
    ];
    for (image, label, class, probability) in expected {
        let got: Vec<Class> = ok(&classify.client().post("/", read("classify", image)).await?)?;
        assert_eq!(
            (got.len(), got[0].label.as_str(), got[0].class),
            (5, label, class),
            "{image}"
        );
        assert!(
            (got[0].probability - probability).abs() < 0.03,
            "{image}: {}",
            got[0].probability
        );
        assert!(
            got.is_sorted_by(|a, b| a.probability >= b.probability),
            "{image}"
        );
    }
    let answer = classify.client().post("/", "no image").await?;
    assert_eq!(answer.status, 415, "{}", answer.text());
    Ok(())
}

#[tokio::test]
async fn embed_places_sentences_where_the_reference_does() -> anyhow::Result<()> {
    #[derive(Deserialize)]
    struct Reference {
        /// Of the first and second, first and third, second and third sentence: sentence-transformers' documentation's.
        similarities: [f32; 3],
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
    let Some(embed) = serve("embed").await? else {
        return Ok(());
    };
    assert!(embed.is_initialised);
    let reference: Reference = serde_json::from_slice(&read("embed", "testdata/reference.json"))?;
    let answer = post_json(
        embed.client(),
        "/v1/embeddings",
        &json!({"input": reference.sentences}),
    )
    .await?;
    let got: Vec<_> = ok::<Response>(&answer)?
        .data
        .into_iter()
        .map(|item| item.embedding)
        .collect();
    assert_eq!(got.len(), 3);
    for (got, expected) in got.iter().zip(&reference.embeddings) {
        let farthest = got
            .iter()
            .zip(expected)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(got.len() == 384 && farthest < 1e-4, "off by {farthest}");
    }
    let dot = |a: usize, b: usize| got[a].iter().zip(&got[b]).map(|(x, y)| x * y).sum::<f32>();
    for (got, expected) in [dot(0, 1), dot(0, 2), dot(1, 2)]
        .into_iter()
        .zip(reference.similarities)
    {
        assert!((got - expected).abs() < 2e-4, "{got} instead of {expected}");
    }
    Ok(())
}

/// The whole stream would take nearly three hours: an event that arrives at all wasn't held back for the others.
#[tokio::test]
async fn stream_sends_each_event_when_it_happens() -> anyhow::Result<()> {
    let Some(stream) = serve("stream").await? else {
        return Ok(());
    };
    let request = wisp_integration::request(http::Method::GET, "/?to=1000&interval=10000", "")?;
    let mut response = stream.client().send(request).await?;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut text = String::new();
    while !text.ends_with("\n\n") {
        let frame = tokio::time::timeout(PATIENCE, response.frame())
            .await?
            .context("the stream ended")??;
        text.push_str(std::str::from_utf8(frame.data_ref().context("no data")?)?);
    }
    assert_eq!(
        text,
        "event: count\nid: 1\ndata: {\"count\":1,\"to\":1000}\n\n"
    );
    Ok(())
}

#[tokio::test]
async fn stream_goes_on_where_the_client_was() -> anyhow::Result<()> {
    let Some(stream) = serve("stream").await? else {
        return Ok(());
    };
    let from = async |last: &'static str| {
        let mut request = wisp_integration::request(http::Method::GET, "/?to=4&interval=1", "")?;
        request
            .headers_mut()
            .insert("last-event-id", http::HeaderValue::from_static(last));
        stream.client().fetch(request).await
    };
    let text = from("2").await?.text();
    let ids: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("id: "))
        .collect();
    assert_eq!(ids, ["3", "4"]);
    assert_eq!(from("4").await?.status, 204);
    Ok(())
}
