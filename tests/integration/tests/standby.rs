//! A host that waits for its function, and what it has ready meanwhile.

use std::path::Path;
use std::time::Instant;

use http::StatusCode;
use wisp_contract::assignment::Preload;
use wisp_contract::config::Model;
use wisp_contract::log::event;
use wisp_integration::{Host, PATIENCE, assignment, component, model, onnxruntime, small_model};

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
    let answer = host
        .control()
        .post("/assign", serde_json::to_vec(&wanted).unwrap())
        .await
        .unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let models = answer.json()["models"].clone();
    assert_eq!(models.as_array().unwrap().len(), 1, "{models}");
    assert_eq!(models[0]["name"], "mine");

    let computed = host
        .client()
        .get("/compute?mine&a:FP32:1,2:8&b:FP32:1,2:8")
        .await
        .unwrap();
    assert_eq!(computed.text(), "y:FP32:1,2:8");
    let unknown = host
        .client()
        .get("/compute?theirs&a:FP32:1,2:8&b:FP32:1,2:8")
        .await
        .unwrap();
    assert!(
        unknown.text().contains("there is no model `theirs`"),
        "{}",
        unknown.text()
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
