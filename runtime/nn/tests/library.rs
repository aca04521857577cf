//! What a user reads where ONNX Runtime is missing or is something else. A process loads the library once, so this has
//! one of its own.

#![expect(clippy::unwrap_used, reason = "what fails here is a failed test")]

use std::error::Error;
use std::path::{Path, PathBuf};

use wisp_contract::config::{Batching, Device, Model, ModelFormat};
use wisp_nn::{ModelStore, Options};

async fn refused(options: &Options) -> String {
    let model = Model {
        name: "add".to_owned(),
        format: ModelFormat::Onnx,
        file: Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/add.onnx"),
        sha256: None,
        device: Device::Cpu,
        batching: Batching::default(),
        trials: Vec::new(),
    };
    let error = ModelStore::load(&[model], options)
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(error.to_string(), "model `add` can't be loaded");
    error.source().unwrap().to_string()
}

#[tokio::test]
async fn a_missing_library_is_an_error_that_says_what_was_tried_and_how_to_install_it() {
    let folder = tempfile::tempdir().unwrap();
    let named = |path: PathBuf| Options {
        onnxruntime: Some(path),
        cache: Some(folder.path().to_owned()),
        ..Options::default()
    };

    let error = refused(&named("/nowhere/libonnxruntime.so".into())).await;
    assert!(
        error.contains("ONNX Runtime 1.24 or newer is needed"),
        "{error}"
    );
    assert!(
        error.contains("/nowhere/libonnxruntime.so: cannot open shared object file"),
        "{error}"
    );
    assert!(
        error.contains("pip download --no-deps onnxruntime==1.31.1"),
        "{error}"
    );
    let place = folder.path().join("onnxruntime/1.31.1/libonnxruntime.so");
    assert!(error.contains(&place.display().to_string()), "{error}");

    let text = folder.path().join("text.so");
    std::fs::write(&text, "no library").unwrap();
    let error = refused(&named(text)).await;
    assert!(
        error.contains("text.so: ") && error.contains("pip download"),
        "{error}"
    );

    // A library, but another one.
    let error = refused(&named("libc.so.6".into())).await;
    assert!(error.contains("libc.so.6"), "{error}");

    // Without models nothing is asked for.
    ModelStore::load(&[], &named("/nowhere".into()))
        .await
        .unwrap();
}
