//! Model files that no host should compute: refused before it is ready where the function names them, and as an error
//! where a guest brings them.
#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails is a test that fails"
)]

use std::path::{Path, PathBuf};

use wisp_contract::config::Model;
use wisp_contract::log::event;
use wisp_integration::{Host, assignment, component, model, onnxruntime, small_model};

/// The sentence with which a host refuses a function for its models. It must end with status 1, before it was ready,
/// and while it still listens it must not serve.
async fn refusal(library: &Path, models: Vec<Model>) -> String {
    let mut assignment = assignment(&component("fixture-nn"));
    assignment.config.models = models;
    let mut host = Host::start(
        Some(&assignment),
        &["--onnxruntime", library.to_str().unwrap()],
    )
    .await
    .unwrap();
    let line = host.event(event::FAILED).await.unwrap();
    assert_eq!(host.end().await.unwrap().code(), Some(1));
    let ready = format!(r#""event":"{}""#, event::READY);
    assert!(
        !host.log().iter().any(|line| line.contains(&ready)),
        "{:?}",
        host.log()
    );
    line.message.into_owned()
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(small_model(name).file).unwrap()
}

fn written(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let file = folder.join(name);
    std::fs::write(&file, bytes).unwrap();
    file
}

#[tokio::test]
async fn a_model_that_cannot_be_computed_is_refused_before_ready_with_its_name_and_the_reason() {
    let Some(library) = onnxruntime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let network = bytes("network");
    let mut flipped = network.clone();
    // Within the operators. Numbers that changed are a model, too: only a digest tells.
    for byte in &mut flipped[20..84] {
        *byte = !*byte;
    }
    let mut newer = bytes("add");
    // The version of the operators: the last field that `make.py` writes.
    let at = newer.len() - 1;
    assert_eq!(newer[at], 18);
    newer[at] = 127;
    for (name, bytes, word) in [
        ("truncated", &network[..network.len() / 2], "was refused"),
        ("flipped", &flipped, "was refused"),
        ("noise", &[0x5a; 100], "was refused"),
        ("newer", &newer, "127"),
        ("empty", b"", "it is empty"),
        ("torch", b"PK\x03\x04\0\0\0\0", "PyTorch"),
        ("gguf", b"GGUF\x03\0\0\0", "GGUF"),
        ("wasm", b"\0asm\x01\0\0\0", "WebAssembly"),
        (
            "pointer",
            b"version https://git-lfs.github.com/spec/v1\n",
            "git lfs pull",
        ),
    ] {
        let file = written(folder.path(), name, bytes);
        let text = refusal(&library, vec![small_model("add"), model(name, &file)]).await;
        assert!(
            text.contains(&format!("model `{name}`")) && text.contains(word),
            "{name}: {text}"
        );
        assert!(!text.contains("panicked"), "{name}: {text}");
    }
}

#[tokio::test]
async fn a_model_that_is_beyond_the_runtime_names_what_it_lacks() {
    let Some(library) = onnxruntime() else { return };
    let text = refusal(&library, vec![small_model("unknown-operator")]).await;
    assert!(
        text.contains("model `unknown-operator` was refused: ") && text.contains("Frobnicate"),
        "{text}"
    );
    let text = refusal(&library, vec![small_model("text")]).await;
    assert!(
        text.contains("its input `x` has elements of type String"),
        "{text}"
    );
    let absent = small_model("absent");
    let text = refusal(&library, vec![absent]).await;
    assert!(
        text.contains("model `absent`") && text.contains("absent.onnx can't be read"),
        "{text}"
    );
    let folder = model("folder", Path::new("/"));
    let text = refusal(&library, vec![folder]).await;
    assert!(text.contains("model `folder`: / can't be read"), "{text}");
    let mut other = small_model("add");
    other.sha256 = Some("00".repeat(32));
    let text = refusal(&library, vec![other]).await;
    assert!(
        text.contains("model `add`") && text.contains(&"00".repeat(32)),
        "{text}"
    );
    let text = refusal(&library, vec![small_model("add"), small_model("add")]).await;
    assert!(text.contains("two models named `add`"), "{text}");
}

#[tokio::test]
async fn a_model_that_a_guest_brings_is_refused_as_an_error_of_its_own() {
    let Some(library) = onnxruntime() else { return };
    let host = Host::with_models(&component("fixture-nn"), &library, |config| {
        config.models = vec![small_model("add")];
    })
    .await
    .unwrap();
    let load = async |query: &str, bytes: Vec<u8>| {
        let answer = host
            .client()
            .post(&format!("/load?{query}"), bytes)
            .await
            .unwrap();
        (answer.status.as_u16(), answer.text())
    };
    let add = bytes("add");
    for (query, bytes, start, word) in [
        ("onnx&cpu", Vec::new(), "InvalidEncoding: ", "it is empty"),
        (
            "onnx&cpu",
            add[..add.len() / 2].to_vec(),
            "InvalidEncoding: ",
            "truncated",
        ),
        ("onnx&cpu", vec![0x5a; 100], "InvalidEncoding: ", "sha256:"),
        (
            "onnx&cpu",
            b"GGUF\x03\0\0\0".to_vec(),
            "InvalidEncoding: ",
            "GGUF",
        ),
        (
            "ggml&cpu",
            add.clone(),
            "InvalidEncoding: ",
            "`ggml` can't be loaded: this host takes onnx",
        ),
        (
            "onnx&tpu",
            add.clone(),
            "UnsupportedOperation: ",
            "no TPU: it offers cpu and gpu",
        ),
        (
            "onnx&cpu",
            self::bytes("unknown-operator"),
            "InvalidEncoding: ",
            "Frobnicate",
        ),
        (
            "onnx&cpu",
            self::bytes("text"),
            "InvalidEncoding: ",
            "elements of type String",
        ),
        (
            "onnx&cpu",
            self::bytes("types"),
            "UnsupportedOperation: ",
            "`bool_in`",
        ),
        (
            "onnx&cpu",
            self::bytes("outside"),
            "Security: ",
            "other files",
        ),
    ] {
        let (status, text) = load(query, bytes).await;
        assert!(
            status == 400 && text.starts_with(start) && text.contains(word),
            "{query} {word}: {status} {text}"
        );
        assert_eq!(
            load("auto&cpu", add.clone()).await,
            (200, "loaded".to_owned())
        );
    }
}
