//! What the other commands need, installed where it is missing.

mod wheels;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};
use wisp_cluster::images::{Platform, ensure_compiler};
use wisp_cluster::install_packages as debian;

use crate::cache;
use crate::command::{cargo, command, execute, output, succeeds, workspace};

pub(crate) use wheels::{
    LIBRARY, ONNXRUNTIME_VERSION, PROVIDERS, cuda, onnxruntime, onnxruntime_for, onnxruntime_gpu,
};

/// Installs all of it.
pub(crate) fn everything() -> Result<()> {
    wasm_target()?;
    onnxruntime()?;
    python()?;
    Ok(())
}

/// Rust's target for Wasm components.
pub(crate) fn wasm_target() -> Result<()> {
    const TARGET: &str = "wasm32-wasip2";
    let sysroot = output(command("rustc").args(["--print", "sysroot"]))?;
    if Path::new(sysroot.trim())
        .join("lib/rustlib")
        .join(TARGET)
        .join("lib")
        .is_dir()
    {
        return Ok(());
    }
    if !succeeds(command("rustup").arg("--version")) {
        bail!(
            "Rust's target {TARGET} is missing and there is no rustup to add it: install the target the way this Rust was installed"
        );
    }
    execute(command("rustup").args(["target", "add", TARGET]))
}

/// What builds a host for 64-bit Arm, and emulates it, on a machine that is none.
pub(crate) fn arm64() -> Result<()> {
    ensure_compiler(Platform::Arm64)?;
    let needed = [
        (
            "libstdc++6-arm64-cross",
            "/usr/aarch64-linux-gnu/lib/libstdc++.so.6",
        ),
        ("qemu-user-static", "/usr/bin/qemu-aarch64-static"),
    ];
    let missing: Vec<&str> = needed
        .iter()
        .filter(|(_, file)| !Path::new(file).exists())
        .map(|(package, _)| *package)
        .collect();
    if !missing.is_empty() {
        debian(&missing)?;
    }
    onnxruntime_for(Platform::Arm64)?;
    Ok(())
}

/// The Python packages that the model scripts use, in an environment of their own in the cache; returns its interpreter.
pub(crate) fn python() -> Result<PathBuf> {
    let requirements = workspace().join("examples/requirements.txt");
    let requirements = std::fs::read_to_string(&requirements)
        .with_context(|| format!("cannot read {}", requirements.display()))?;
    Ok(environment("python", &requirements)?.join(INTERPRETER))
}

/// In an environment.
const INTERPRETER: &str = "bin/python";

/// A Python environment in the cache's folder `name`, with what `requirements` says, a requirement a line; it is made anew
/// where it has others.
pub(crate) fn environment(name: &str, requirements: &str) -> Result<PathBuf> {
    let dir = cache::dir()?.join(name);
    let interpreter = dir.join(INTERPRETER);
    let stamp = dir.join("requirements.sha256");
    let wanted = hex::encode(Sha256::digest(requirements));
    if std::fs::read_to_string(&stamp).is_ok_and(|got| got == wanted) && interpreter.exists() {
        return Ok(dir);
    }
    if !succeeds(command("python3").args(["-c", "import venv, ensurepip"])) {
        debian(&["python3", "python3-venv", "python3-pip"])?;
    }
    execute(command("python3").args(["-m", "venv", "--clear"]).arg(&dir))?;
    let file = dir.join("requirements.txt");
    std::fs::write(&file, requirements)?;
    execute(
        command(&interpreter)
            .args(["-m", "pip", "install", "--quiet"])
            .args(["--disable-pip-version-check", "--no-cache-dir"])
            .arg("--requirement")
            .arg(&file),
    )?;
    std::fs::write(&stamp, wanted)?;
    Ok(dir)
}

/// A cargo subcommand from crates.io, built once into the cache; returns its path.
pub(crate) fn cargo_tool(name: &str, version: &str, features: &[&str]) -> Result<PathBuf> {
    let root = cache::dir()?
        .join("tools")
        .join(format!("{name}-{version}"));
    let binary = root.join("bin").join(name);
    if !binary.exists() {
        execute(
            cargo()
                // Debug-speed is enough for a tool that runs for seconds, and builds in a third of the time.
                .args([
                    "install",
                    "--locked",
                    "--debug",
                    "--no-track",
                    "--version",
                    version,
                    "--root",
                ])
                .arg(&root)
                .arg("--target-dir")
                .arg(root.join("target"))
                .args(features)
                .arg(name),
        )?;
        std::fs::remove_dir_all(root.join("target"))?;
    }
    Ok(binary)
}
