//! Builds what the tests start, once per test process, into the workspace's target folder.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use serde_json::Value;

use crate::readme::repository;

/// Where cargo puts what it builds, which its configuration may say, too.
///
/// # Panics
/// When cargo doesn't say it.
#[must_use]
pub fn target_folder() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    #[expect(
        clippy::expect_used,
        reason = "a test without its programs can't go on"
    )]
    let find = || {
        let asked = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--no-deps"])
            .current_dir(repository())
            .output()
            .expect("cargo starts");
        let said: Value = serde_json::from_slice(&asked.stdout).expect("cargo metadata is JSON");
        let folder = said.get("target_directory").and_then(Value::as_str);
        PathBuf::from(folder.expect("cargo metadata names the target folder"))
    };
    FOLDER.get_or_init(find).clone()
}

/// The component of the workspace's package `package`, built for wasm32-wasip2.
///
/// # Panics
/// When it doesn't build.
#[must_use]
pub fn component(package: &str) -> PathBuf {
    build(&["--package", package, "--target", "wasm32-wasip2"]);
    target_folder()
        .join("wasm32-wasip2/debug")
        .join(format!("{}.wasm", package.replace('-', "_")))
}

/// One of the product's programs: `wisp`, `wisp-runtime`, `wisp-operator` or `wisp-gateway`.
///
/// # Panics
/// When it doesn't build.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    // The selections of `cargo xtask`, whatever is asked for: others would build the dependencies with other features.
    let local = [
        "--package",
        "wisp-cli",
        "--package",
        "wisp-runtime",
        "--bins",
    ];
    let cluster = [
        "--package",
        "wisp-operator",
        "--package",
        "wisp-gateway",
        "--package",
        "wisp-api",
        "--features",
        "wisp-gateway/cluster",
        "--bins",
    ];
    build(match name {
        "wisp" | "wisp-runtime" => &local,
        _ => &cluster,
    });
    target_folder().join("debug").join(name)
}

/// The program of the workspace's package `package`, built for the Linux `target`, whose linker is Debian's.
///
/// # Panics
/// When it doesn't build.
pub(crate) fn cross(package: &str, target: &str) -> PathBuf {
    let compiler = target.replace("-unknown-", "-");
    let linker = format!("target.{target}.linker=\"{compiler}-gcc\"");
    let selection = ["--package", package, "--target", target];
    build(&[&selection[..], &["--config", &linker]].concat());
    target_folder().join(target).join("debug").join(package)
}

fn build(arguments: &[&str]) {
    static BUILT: Mutex<BTreeMap<String, Result<(), String>>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let result = built.entry(arguments.join(" ")).or_insert_with(|| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.arg("build").args(arguments).current_dir(repository());
        // What cargo tells a test of its package would make build scripts that read it run again, and much after them.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
                cargo.env_remove(&name);
            }
        }
        let output = cargo.output();
        match output {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => Err(error.to_string()),
        }
    });
    #[expect(clippy::panic, reason = "a test without its program can't go on")]
    if let Err(error) = result {
        panic!("cargo build {}: {error}", arguments.join(" "));
    }
}
