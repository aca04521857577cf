//! A component in JavaScript, with its engine in it: what a bench needs that is large.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::cache;
use crate::command::{cargo, command, execute, output, succeeds, workspace};

/// The packages of npm that build it are kept below the cache folder.
const FOLDER: &str = "javascript";

/// Builds `tests/fixtures/javascript` to `out`, unless it is there.
pub(crate) fn build(out: &Path) -> Result<()> {
    if out.is_file() {
        return Ok(());
    }
    let from = workspace().join("tests/fixtures/javascript");
    let folder = cache::dir()?.join(FOLDER);
    std::fs::create_dir_all(&folder)?;
    for name in ["package.json", "handler.js", "build.mjs"] {
        std::fs::copy(from.join(name), folder.join(name))?;
    }
    if !succeeds(command("npm").arg("--version")) {
        bail!(
            "the component in JavaScript is built with Node.js 20 or newer and npm: install them"
        );
    }
    execute(
        command("npm")
            .args(["install", "--no-audit", "--no-fund"])
            .current_dir(&folder),
    )?;
    execute(
        command("node")
            .args(["build.mjs", "handler.js"])
            .arg(wit()?)
            .arg(out)
            .current_dir(&folder),
    )
}

/// The packages of WASI 0.2 that come with wasmtime.
fn wit() -> Result<PathBuf> {
    let metadata = output(cargo().args(["metadata", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let mut packages = metadata
        .get("packages")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let is_it = |package: &&Value| {
        package
            .get("name")
            .is_some_and(|name| name == "wasmtime-wasi-http")
    };
    let found = packages.find(is_it);
    let manifest = found.and_then(|package| package.get("manifest_path")?.as_str());
    let manifest = manifest.context("there is no package wasmtime-wasi-http")?;
    Ok(Path::new(manifest).with_file_name("wit").join("deps"))
}
