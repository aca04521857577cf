//! A host that waits for its function, and what it has ready meanwhile.

use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Instant;

use http::{HeaderValue, Method, Request, StatusCode};
use sha2::{Digest as _, Sha256};
use wisp_contract::assignment::{Artifact, Assignment, Compiled, Facts, Held, Hold, Preload, Wasi};
use wisp_contract::config::Model;
use wisp_contract::log::event;
use wisp_contract::parts::Parts;
use wisp_engine::cache::Source;
use wisp_engine::{Cpu, Engines, Loader, compatibility};
use wisp_integration::{
    Answer, Body, Host, PATIENCE, arm64, assignment, component, model, onnxruntime, request,
    small_model,
};

fn preload(models: Vec<Model>) -> Preload {
    Preload {
        onnxruntime: true,
        models,
        artifacts: Vec::new(),
    }
}

async fn stands_by(host: &Host) {
    let began = Instant::now();
    let is_warm = async || {
        let answer = host.control().get("/warmz").await;
        answer.is_ok_and(|answer| answer.status == StatusCode::OK)
    };
    while !is_warm().await {
        assert!(began.elapsed() < PATIENCE, "{:?}", host.log());
        tokio::task::yield_now().await;
    }
}

async fn assign(host: &Host, assignment: &Assignment) -> anyhow::Result<Answer> {
    let assignment = serde_json::to_vec(assignment)?;
    host.control().post("/assign", assignment).await
}

/// What the fixture computes with `model`, which adds.
async fn sum(host: &Host, model: &str) -> anyhow::Result<String> {
    let path = format!("/compute?{model}&a:FP32:1,2:8&b:FP32:1,2:8");
    Ok(host.client().get(&path).await?.text())
}

/// Would fail if a model that is loaded were loaded again, or a function were given one that it didn't ask for.
#[tokio::test]
async fn a_model_that_is_loaded_is_the_functions_and_no_other_is() {
    let Some(library) = onnxruntime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let copied = folder.path().join("add.onnx");
    std::fs::copy(small_model("add").file, &copied).unwrap();
    let loaded = vec![model("theirs", &copied), small_model("grow")];
    let host = Host::standing_by(&preload(loaded), &library).await.unwrap();
    stands_by(&host).await;

    // Whoever wants to load it now finds nothing.
    std::fs::remove_file(&copied).unwrap();
    let mut wanted = assignment(&component("fixture-nn"));
    wanted.config.models = vec![model("mine", &copied)];
    let answer = assign(&host, &wanted).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let models = answer.json()["models"].clone();
    assert_eq!(models.as_array().unwrap().len(), 1, "{models}");
    assert_eq!(models[0]["name"], "mine");

    let computed = sum(&host, "mine").await.unwrap();
    assert_eq!(computed, "y:FP32:1,2:8");
    let unknown = sum(&host, "theirs").await.unwrap();
    assert!(
        unknown.contains("there is no model `theirs`"),
        "{}",
        unknown
    );
}

/// Would fail if a host stood by without what it is to have ready, or didn't say what is wrong with it.
#[tokio::test]
async fn a_model_that_cannot_be_had_ends_the_host_with_the_reason() {
    let Some(library) = onnxruntime() else { return };
    let nowhere = model("lost", Path::new("/nowhere/lost.onnx"));
    let mut host = Host::standing_by(&preload(vec![nowhere]), &library)
        .await
        .unwrap();
    let said = host.event(event::FAILED).await.unwrap();
    assert!(
        said.message.contains("/nowhere/lost.onnx"),
        "{}",
        said.message
    );
    assert!(!host.end().await.unwrap().success());
}

/// Would fail if a host that can't become a function ended before it told whoever asked it to.
#[tokio::test]
async fn who_asks_for_what_cannot_be_served_learns_why_before_the_host_ends() {
    let mut host = Host::start(None, &[]).await.unwrap();
    let wanted = assignment(Path::new("/nowhere/lost.wasm"));
    let answer = assign(&host, &wanted).await.unwrap();
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        answer.text().contains("/nowhere/lost.wasm"),
        "{}",
        answer.text()
    );
    assert!(!host.end().await.unwrap().success());
}

/// A component's machine code, and what is said of it. It can't be fetched.
fn compiled(package: &str) -> anyhow::Result<(Compiled, Vec<u8>)> {
    compiled_for(package, Cpu::here())
}

fn compiled_for(package: &str, cpu: Cpu) -> anyhow::Result<(Compiled, Vec<u8>)> {
    let engines = Engines::for_cpu(cpu);
    let source = Source::read(&component(package), None)?;
    let inspection = source.inspection();
    let wasi = match inspection.wasi {
        wisp_engine::Wasi::P2 => Wasi::P2,
        wisp_engine::Wasi::P3 => Wasi::P3,
    };
    let code = Loader::compile(&source, &engines)?;
    let compiled = Compiled {
        engine: compatibility(engines.get(inspection.wasi)?),
        sha256: hex::encode(Sha256::digest(&code)),
        url: "http://127.0.0.1:9/code".into(),
        key: None,
        facts: Facts {
            wasi,
            core_instances: inspection.footprint.core_instances,
            memories: inspection.footprint.memories,
            tables: inspection.footprint.tables,
            asks_models: inspection.asks_models(),
        },
    };
    Ok((compiled, code))
}

/// An Assignment of a component that can't be fetched, and of which there is machine code.
fn assignment_of(package: &str, compiled: Vec<Compiled>) -> Assignment {
    let mut function = assignment(&component(package));
    let artifact = Artifact {
        sha256: "0".repeat(64),
        url: "http://127.0.0.1:9/component".into(),
        key: None,
        compiled,
    };
    function.config.component.file = artifact.file();
    function.artifacts = vec![artifact];
    function
}

async fn hold(host: &Host, code: Vec<Compiled>, parts: &[&[u8]]) -> anyhow::Result<Answer> {
    let models = Vec::new();
    send(host, &Hold { code, models }, parts).await
}

async fn send(host: &Host, hold: &Hold, parts: &[&[u8]]) -> anyhow::Result<Answer> {
    host.control().fetch(holding(hold, parts)?).await
}

fn holding(hold: &Hold, parts: &[&[u8]]) -> anyhow::Result<Request<Body>> {
    let hold = serde_json::to_vec(hold)?;
    let of = |bytes: &&[u8]| (hex::encode(Sha256::digest(bytes)), bytes.len() as u64);
    let header = Parts {
        assignment: hold.len() as u64,
        artifacts: parts.iter().map(of).collect(),
    };
    let body = [&hold[..], &parts.concat()].concat();
    let mut sent = request(Method::POST, "/hold", body)?;
    let header = HeaderValue::from_str(&header.to_string())?;
    sent.headers_mut().insert("wisp-parts", header);
    Ok(sent)
}

fn held(answer: anyhow::Result<Answer>) -> anyhow::Result<Held> {
    let answer = answer?;
    anyhow::ensure!(answer.status == StatusCode::OK, "{}", answer.text());
    Ok(serde_json::from_slice(&answer.body)?)
}

/// Would fail if whoever reaches a pod's control port could make it a function of theirs, fill it, drain it or read what
/// it is.
#[tokio::test]
async fn who_has_no_key_can_ask_a_host_for_its_health_alone() {
    let host = Host::with_control_key("the-key").await.unwrap();
    stands_by(&host).await;
    let function = serde_json::to_vec(&assignment(&component("fixture-p2"))).unwrap();
    let asks = [
        (Method::POST, "/assign", function.clone()),
        (Method::POST, "/hold", b"{\"code\": []}".to_vec()),
        (Method::POST, "/drain", Vec::new()),
        (Method::GET, "/status", Vec::new()),
    ];
    for (method, path, body) in &asks {
        for key in [None, Some("another-key"), Some("the-ke"), Some("")] {
            let mut asked = request(method.clone(), path, body.clone()).unwrap();
            if let Some(key) = key {
                let key = HeaderValue::from_static(key);
                asked.headers_mut().insert("wisp-key", key);
            }
            let answer = host.control().fetch(asked).await.unwrap();
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path} {key:?}");
            assert_eq!(answer.json()["reason"], "forbidden");
        }
    }
    for path in ["/healthz", "/warmz", "/metrics"] {
        let answer = host.control().get(path).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{path}");
    }
    // It is nobody's yet.
    let mut asked = request(Method::POST, "/assign", function).unwrap();
    let key = HeaderValue::from_static("the-key");
    asked.headers_mut().insert("wisp-key", key);
    let answer = host.control().fetch(asked).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
}

/// Would fail if a web page, which may speak to a port of the machine that shows it, could bring machine code to run there.
#[tokio::test]
async fn who_needs_no_key_brings_no_code() {
    for (key, is_held) in [("the-key", true), ("", false)] {
        let host = Host::with_control_key(key).await.unwrap();
        stands_by(&host).await;
        let (wanted, bytes) = compiled("fixture-p2").unwrap();
        let (models, code) = (Vec::new(), vec![wanted]);
        let mut sent = holding(&Hold { code, models }, &[&bytes]).unwrap();
        let key = HeaderValue::from_static(key);
        sent.headers_mut().insert("wisp-key", key);
        let held = held(host.control().fetch(sent).await).unwrap();
        assert_eq!(!held.code.is_empty(), is_held);
    }
}

/// Would fail if code that a host has were fetched, code that it was told to forget were kept, or code for another engine
/// were taken; or if one that has a function could be told to hold more.
#[tokio::test]
async fn code_that_is_ready_is_the_functions_without_being_fetched() {
    let nothing = Preload::default();
    for package in ["fixture-p2", "fixture-p3"] {
        let host = Host::standing_by(&nothing, Path::new("/nowhere"))
            .await
            .unwrap();
        stands_by(&host).await;
        let (wanted, bytes) = compiled(package).unwrap();
        let (other, others) = compiled("fixture-nn").unwrap();
        let answer = hold(&host, vec![other.clone()], &[&others]).await;
        assert_eq!(
            held(answer).unwrap().code,
            std::slice::from_ref(&other.sha256)
        );
        let mut foreign = wanted.clone();
        foreign.engine = "another".into();
        let answer = hold(&host, vec![foreign, other], &[&bytes]).await;
        assert_eq!(held(answer).unwrap().code.len(), 1);
        let answer = hold(&host, vec![wanted.clone()], &[&bytes]).await;
        assert_eq!(
            held(answer).unwrap().code,
            std::slice::from_ref(&wanted.sha256)
        );
        // What it has needn't come once more.
        let answer = hold(&host, vec![wanted.clone()], &[]).await;
        assert_eq!(
            held(answer).unwrap().code,
            std::slice::from_ref(&wanted.sha256)
        );

        let function = assignment_of(package, vec![wanted]);
        let answer = assign(&host, &function).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        let answer = host.client().get("/hello").await.unwrap();
        assert_eq!(answer.text(), "hello\n", "{package}");
        let late = hold(&host, Vec::new(), &[]).await.unwrap();
        assert_eq!(late.status, StatusCode::CONFLICT, "{}", late.text());
    }
}

/// Would fail if a model that was sent to a host were loaded from elsewhere, or one that it was told to forget were kept.
#[tokio::test]
async fn a_model_that_was_sent_is_the_functions_until_it_is_forgotten() {
    let Some(library) = onnxruntime() else { return };
    let bytes = std::fs::read(small_model("add").file).unwrap();
    let digest = hex::encode(Sha256::digest(&bytes));
    let artifact = Artifact {
        sha256: digest.clone(),
        url: "http://127.0.0.1:9/model".into(),
        key: None,
        compiled: Vec::new(),
    };
    let with = Hold {
        code: Vec::new(),
        models: vec![model("theirs", &artifact.file())],
    };
    let host = Host::standing_by(&preload(Vec::new()), &library)
        .await
        .unwrap();
    stands_by(&host).await;
    let sent = held(send(&host, &with, &[&bytes]).await).unwrap();
    assert_eq!(sent.models, std::slice::from_ref(&digest));
    let sent = held(send(&host, &Hold::default(), &[]).await).unwrap();
    assert!(sent.models.is_empty(), "{sent:?}");
    let sent = held(send(&host, &with, &[&bytes]).await).unwrap();
    assert_eq!(sent.models, std::slice::from_ref(&digest));
    let sent = held(send(&host, &with, &[]).await).unwrap();
    assert_eq!(sent.models, [digest]);

    let mut wanted = assignment(&component("fixture-nn"));
    wanted.config.models = vec![model("mine", &artifact.file())];
    wanted.artifacts = vec![artifact];
    let answer = assign(&host, &wanted).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let computed = sum(&host, "mine").await.unwrap();
    assert_eq!(computed, "y:FP32:1,2:8");
}

/// Would fail if a host on a lesser processor were believed to run all code, ran what asks for more than it has, or had to
/// compile what there is code of for it.
#[tokio::test]
async fn a_lesser_processor_tells_what_it_runs_and_takes_its_own_code_alone() {
    let (Cpu::X86_64V3, [lower]) = (Cpu::here(), Cpu::here().below()) else {
        eprintln!("skipped: code for this machine has no levels");
        return;
    };
    let (code_here, here) = compiled_for("fixture-p2", Cpu::X86_64V3).unwrap();
    let (code_lower, below) = compiled_for("fixture-p2", *lower).unwrap();
    let level = lower.to_string();
    let host = Host::start(None, &["--cpu-level", &level]).await.unwrap();
    stands_by(&host).await;
    let both = vec![code_here.clone(), code_lower.clone()];
    let held = held(hold(&host, both.clone(), &[&here, &below]).await).unwrap();
    assert_eq!(held.cpu.as_ref(), Some(&level));
    assert_eq!(held.code, std::slice::from_ref(&code_lower.sha256));
    assert!(held.engines.contains(&code_lower.engine));
    assert!(!held.engines.contains(&code_here.engine));

    let function = assignment_of("fixture-p2", both);
    let answer = assign(&host, &function).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(host.client().get("/hello").await.unwrap().text(), "hello\n");
}

/// Would fail if a host could serve only what it has ready where a process has 39 bits of addresses, as with the kernel of
/// Raspberry Pi OS.
#[tokio::test]
async fn what_is_ready_makes_room_where_addresses_are_few() {
    let (other, bytes) = compiled("fixture-p2").unwrap();
    for package in ["fixture-p2", "fixture-p3"] {
        let host = Host::with_addresses(1 << 39).await.unwrap();
        stands_by(&host).await;
        let answer = hold(&host, vec![other.clone()], &[&bytes]).await;
        assert_eq!(held(answer).unwrap().code.len(), 1);
        let mut function = assignment(&component(package));
        // Another pool than the one that is ready.
        function.config.limits.table_elements = NonZeroUsize::MIN.saturating_add(20_000);
        let answer = assign(&host, &function).await.unwrap();
        assert_eq!(
            answer.status,
            StatusCode::OK,
            "{package}: {}",
            answer.text()
        );
        let answer = host.client().get("/hello").await.unwrap();
        assert_eq!(answer.text(), "hello\n", "{package}");
    }
}

/// Would fail if code that is made here for Arm didn't run there, a host there had to compile it or took another family's,
/// or a model were computed otherwise.
#[tokio::test]
async fn a_host_on_arm_runs_the_code_that_was_made_for_it_here() {
    let Some(arm) = arm64() else { return };
    let (code_here, here) = compiled("fixture-nn").unwrap();
    let (code_arm, made) = compiled_for("fixture-nn", Cpu::Arm64).unwrap();
    let add = small_model("add");
    let host = Host::standing_by_on(&arm, &preload(vec![add.clone()]))
        .await
        .unwrap();
    stands_by(&host).await;
    let both = vec![code_here.clone(), code_arm.clone()];
    let held = held(hold(&host, both.clone(), &[&here, &made]).await).unwrap();
    assert_eq!(held.cpu.as_deref(), Some("arm64"));
    assert_eq!(held.code, std::slice::from_ref(&code_arm.sha256));
    assert!(held.engines.contains(&code_arm.engine));
    assert!(!held.engines.contains(&code_here.engine));

    let mut function = assignment_of("fixture-nn", both);
    function.config.models = vec![add];
    let answer = assign(&host, &function).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(sum(&host, "add").await.unwrap(), "y:FP32:1,2:8");
}
