//! Building the product's programs, and where they are then.

use std::path::PathBuf;

use anyhow::{Context, Result};
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
    let mut metadata = cargo();
    metadata.args(["metadata", "--format-version", "1", "--no-deps"]);
    let metadata: serde_json::Value = serde_json::from_str(&output(&mut metadata)?)?;
    let target = metadata
        .get("target_directory")
        .and_then(|value| value.as_str())
        .context("cargo metadata names no target folder")?;
    Ok(PathBuf::from(target))
}
