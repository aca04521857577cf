//! Building the product's programs, and where they are then.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;
use wisp_cluster::images::Platform;

use crate::command::{cargo, execute, output};

/// The programs of the local platform.
pub(crate) struct Programs {
    /// The command line.
    pub(crate) wisp: PathBuf,
    /// The folder they are in.
    pub(crate) dir: PathBuf,
}

/// Builds all programs of the product in the development profile, in the selections that the tests build again.
pub(crate) fn everything() -> Result<()> {
    programs()?;
    control_plane()
}

/// Builds the programs that run in a cluster, and what writes the definitions of its resources: in one selection, whose
/// dependencies are built once.
pub(crate) fn control_plane() -> Result<()> {
    execute(cargo().args([
        "build",
        "--package",
        "wisp-operator",
        "--package",
        "wisp-gateway",
        "--package",
        "wisp-api",
        "--features",
        CLUSTER,
        "--bins",
    ]))
}

/// The feature by which the gateway is a program.
pub(crate) const CLUSTER: &str = "wisp-gateway/cluster";

/// The SDK's feature that is off by default.
pub(crate) const HALF: &str = "wisp/half";

/// All that is checked of the workspace.
pub(crate) const CHECKED: &str = "wisp-gateway/cluster,wisp/half";

/// Builds `wisp` and `wisp-runtime` in the development profile, whose dependencies are optimised.
pub(crate) fn programs() -> Result<Programs> {
    execute(cargo().args([
        "build",
        "--package",
        "wisp-cli",
        "--package",
        "wisp-runtime",
        "--bins",
    ]))?;
    let dir = target()?.join("debug");
    Ok(Programs {
        wisp: dir.join("wisp"),
        dir,
    })
}

/// Builds `wisp-runtime` for 64-bit Arm, on a machine that is none, as the tests that emulate it do.
pub(crate) fn arm64() -> Result<()> {
    execute(
        cargo()
            .args(["build", "--package", "wisp-runtime"])
            .args(Platform::Arm64.cross_build()),
    )
}

/// Builds the host and what loads it as they are released, and `guests` to serve.
pub(crate) fn released(guests: &[&str]) -> Result<()> {
    execute(cargo().args([
        "build",
        "--release",
        "--bins",
        "--package",
        "wisp-runtime",
        "--package",
        "wisp-load",
        "--features",
        "wisp-load/baselines",
    ]))?;
    let mut build = cargo();
    build.args(["build", "--release", "--target", "wasm32-wasip2"]);
    for guest in guests {
        build.args(["--package", guest]);
    }
    execute(&mut build)
}

/// Cargo's target folder.
pub(crate) fn target() -> Result<PathBuf> {
    let metadata = metadata()?;
    let target = metadata
        .get("target_directory")
        .and_then(|value| value.as_str())
        .context("cargo metadata names no target folder")?;
    Ok(PathBuf::from(target))
}

/// The packages of the workspace that are built into components.
pub(crate) fn guests() -> Result<Vec<String>> {
    Ok(components(&metadata()?))
}

/// What cargo says of the workspace:
/// <https://doc.rust-lang.org/cargo/commands/cargo-metadata.html#json-format>.
fn metadata() -> Result<Value> {
    let mut metadata = cargo();
    metadata.args(["metadata", "--format-version", "1", "--no-deps"]);
    Ok(serde_json::from_str(&output(&mut metadata)?)?)
}

/// Nothing else here is a dynamic library.
fn components(metadata: &Value) -> Vec<String> {
    let is_component = |package: &&Value| {
        items(package, "targets")
            .iter()
            .flat_map(|target| items(target, "crate_types"))
            .any(|kind| kind == "cdylib")
    };
    items(metadata, "packages")
        .iter()
        .filter(is_component)
        .filter_map(|package| Some(package.get("name")?.as_str()?.to_owned()))
        .collect()
}

/// Those of the array `name`; none where there is no such array.
fn items<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    let array = value.get(name).and_then(Value::as_array);
    array.map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if a guest weren't linted as the component that it is, or a program of the host's were built as one.
    #[test]
    fn guests_are_the_packages_that_become_components() {
        let package = |name: &str, kinds: &[&str]| {
            let targets: Vec<Value> = kinds
                .iter()
                .map(|kind| serde_json::json!({"name": name, "crate_types": [kind]}))
                .collect();
            serde_json::json!({"name": name, "targets": targets})
        };
        let metadata = serde_json::json!({"packages": [
            package("hello", &["cdylib"]),
            package("wisp", &["lib", "bin"]),
            package("fixture-p2", &["bin", "cdylib"]),
            package("empty", &[]),
        ]});
        assert_eq!(components(&metadata), ["hello", "fixture-p2"]);
        assert!(components(&Value::Null).is_empty());
    }
}
