use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Response;
use http_body_util::Full;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use wisp_contract::assignment::{Compiled, Wasi};

use super::*;

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Serves `/component` and `/code` to who has the key; `/flaky` only at the second try. Returns its address.
async fn operator() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let asked = Arc::clone(&asked);
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                let known = request
                    .headers()
                    .get(headers::KEY)
                    .is_some_and(|key| key == "k");
                let flaky = asked.fetch_add(1, Ordering::Relaxed) == 0;
                let (status, body) = match request.uri().path() {
                    _ if !known => (403, "no"),
                    "/component" => (200, "component"),
                    "/code" => (200, "code"),
                    "/flaky" if flaky => (503, "starting"),
                    "/flaky" => (200, "flaky"),
                    _ => (404, "nothing"),
                };
                let response = Response::builder()
                    .status(status)
                    .body(Full::new(Bytes::from(body)));
                async move { Ok::<_, Infallible>(response.unwrap()) }
            });
            tokio::spawn(server::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    format!("http://{address}")
}

fn artifact(base: &str, path: &str, content: &str) -> Artifact {
    Artifact {
        sha256: sha256(content.as_bytes()),
        url: format!("{base}/{path}"),
        key: Some(Key("k".into())),
        compiled: Vec::new(),
    }
}

fn fitting() -> Fitting {
    let names = |p2: &str, p3: &str| Names {
        p2: p2.into(),
        p3: p3.into(),
    };
    Fitting {
        own: names("e2", "e3"),
        lower: vec![names("l2", "l3")].into(),
    }
}

fn assignment(artifacts: Vec<Artifact>) -> Assignment {
    let file = artifacts.first().map(Artifact::file);
    let mut assignment: Assignment = serde_json::from_str(
        r#"{"function": "a/b", "revision": "1", "config": {"component": {"file": "local.wasm"}}}"#,
    )
    .unwrap();
    if let Some(file) = file {
        assignment.config.component.file = file;
    }
    assignment.artifacts = artifacts;
    assignment
}

/// Fetches what didn't come with the Assignment: all of it.
async fn fetch_now(
    assignment: &mut Assignment,
    fitting: &Fitting,
    unneeded: &BTreeSet<PathBuf>,
) -> Result<(Artifacts, Option<Code>), FetchError> {
    Artifacts::fetch(assignment, fitting, unneeded, &mut Pushed::default()).await
}

/// Would fail if the names in the configuration were not replaced or the key not sent, if code that fits were not taken
/// in the component's place, or if code that doesn't were.
#[tokio::test]
async fn what_is_named_is_fetched_and_code_that_fits_stands_for_its_component() {
    let base = operator().await;
    let component = |engines: &[&str]| {
        let mut component = artifact(&base, "component", "component");
        let at = |engine: &str| {
            if engine.starts_with('e') {
                "code"
            } else {
                "flaky"
            }
        };
        let code = |engine: &&str| Compiled {
            engine: (*engine).into(),
            sha256: sha256(at(engine).as_bytes()),
            url: format!("{base}/{}", at(engine)),
            key: Some(Key("k".into())),
            facts: Facts {
                wasi: Wasi::P3,
                core_instances: 3,
                memories: 1,
                tables: 2,
                asks_models: false,
            },
        };
        component.compiled = engines.iter().map(code).collect();
        component
    };
    let mut other = assignment(vec![component(&["another"])]);
    let (held, code) = fetch_now(&mut other, &fitting(), &BTreeSet::new())
        .await
        .unwrap();
    assert!(code.is_none());
    assert_eq!(
        std::fs::read(&other.config.component.file).unwrap(),
        b"component"
    );
    drop(held);
    for (engines, length) in [(&["e3"][..], 4), (&["l3"], 5), (&["x", "l3", "e3"], 4)] {
        let mut fits = assignment(vec![component(engines)]);
        let (_held, code) = fetch_now(&mut fits, &fitting(), &BTreeSet::new())
            .await
            .unwrap();
        let code = code.unwrap();
        assert_eq!(code.component_sha256, sha256(b"component"));
        // The best, whichever comes first.
        assert_eq!((code.facts.tables, code.file.length()), (2, length));
    }
}

/// Would fail if what a host has loaded already were fetched again, or its name were taken for a mistake.
#[tokio::test]
async fn what_is_loaded_already_is_not_fetched() {
    let base = operator().await;
    let model = artifact(&base, "gone", "model");
    let mut assignment = assignment(vec![artifact(&base, "component", "component"), model]);
    let file = PathBuf::from(format!("artifact:{}", sha256(b"model")));
    assignment.config.models = serde_json::from_value(serde_json::json!([
        {"name": "m", "file": file},
    ]))
    .unwrap();
    let loaded = BTreeSet::from([file.clone()]);
    let (_held, _) = fetch_now(&mut assignment, &fitting(), &loaded)
        .await
        .unwrap();
    assert_eq!(assignment.config.models[0].file, file);
}

/// Would fail if an operator that just restarts failed a replica's start.
#[tokio::test]
async fn who_cannot_serve_now_is_asked_again() {
    let base = operator().await;
    let mut assignment = assignment(vec![artifact(&base, "flaky", "flaky")]);
    let (_held, code) = fetch_now(&mut assignment, &fitting(), &BTreeSet::new())
        .await
        .unwrap();
    assert_eq!(
        std::fs::read(&assignment.config.component.file).unwrap(),
        b"flaky"
    );
    assert!(code.is_none());
}

/// Would fail if anything but the bytes that were promised could be run, or a mistake were not told.
#[tokio::test]
async fn what_is_wrong_is_refused_and_named() {
    let base = operator().await;
    let mut keyless = artifact(&base, "component", "component");
    keyless.key = None;
    let mut https = artifact(&base, "component", "component");
    https.url = https.url.replace("http://", "https://");
    let cases = [
        (artifact(&base, "component", "another"), "has the sha256"),
        (artifact(&base, "none", "component"), "404"),
        (keyless, "403"),
        (https, "expected http://HOST"),
    ];
    for (artifact, expected) in cases {
        let error = fetch_now(
            &mut assignment(vec![artifact]),
            &fitting(),
            &BTreeSet::new(),
        )
        .await
        .unwrap_err();
        let mut text = error.to_string();
        if let Some(source) = std::error::Error::source(&error) {
            text = format!("{text}: {source}");
        }
        assert!(text.contains(expected), "{text}");
    }
    let mut unknown = assignment(Vec::new());
    unknown.config.component.file = "artifact:00".into();
    let error = fetch_now(&mut unknown, &fitting(), &BTreeSet::new())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("artifact:00"), "{error}");
    let mut local = assignment(Vec::new());
    fetch_now(&mut local, &fitting(), &BTreeSet::new())
        .await
        .unwrap();
    assert_eq!(local.config.component.file, PathBuf::from("local.wasm"));
}
