//! What the other commands need, installed where it is missing.

mod wheels;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use wisp_cluster::images::{Platform, ensure_compiler};

use crate::cache;
use crate::command::{command, execute, output, succeeds};

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

/// Debian packages, by `apt-get` as root; else an error with the line to run.
pub(crate) fn debian(packages: &[&str]) -> Result<()> {
    let line = format!(
        "apt-get update && apt-get install --yes --no-install-recommends {}",
        packages.join(" ")
    );
    if !rustix::process::geteuid().is_root() || !succeeds(command("apt-get").arg("--version")) {
        bail!(
            "missing: {}. Install with: sudo sh -c '{line}'",
            packages.join(", ")
        );
    }
    eprintln!("   {line}");
    execute(
        command("sh")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-c", &format!("({line}) >&2")]),
    )
}

/// The Python packages that the model scripts use, in an environment of their own in the cache; returns its interpreter.
pub(crate) fn python() -> Result<PathBuf> {
    let requirements = crate::command::workspace().join("examples/requirements.txt");
    let dir = cache::dir()?.join("python");
    let interpreter = dir.join("bin/python");
    let stamp = dir.join("requirements.sha256");
    let wanted = cache::sha256(&requirements)?;
    if std::fs::read_to_string(&stamp).is_ok_and(|got| got == wanted) && interpreter.exists() {
        return Ok(interpreter);
    }
    if !succeeds(command("python3").args(["-c", "import venv, ensurepip"])) {
        debian(&["python3", "python3-venv", "python3-pip"])?;
    }
    execute(command("python3").args(["-m", "venv", "--clear"]).arg(&dir))?;
    execute(
        command(&interpreter)
            .args(["-m", "pip", "install", "--quiet"])
            .args(["--disable-pip-version-check", "--no-cache-dir"])
            .arg("--requirement")
            .arg(&requirements),
    )?;
    std::fs::write(&stamp, wanted)?;
    Ok(interpreter)
}

/// A Python environment with `packages` in the cache's folder `name`, which is made anew where it has others.
pub(crate) fn environment(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let dir = cache::dir()?.join(name);
    let stamp = dir.join("packages");
    let wanted = packages.join(" ");
    if std::fs::read_to_string(&stamp).is_ok_and(|got| got == wanted) {
        return Ok(dir);
    }
    if !succeeds(command("python3").args(["-c", "import venv, ensurepip"])) {
        debian(&["python3", "python3-venv", "python3-pip"])?;
    }
    execute(command("python3").args(["-m", "venv", "--clear"]).arg(&dir))?;
    execute(
        command(dir.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet"])
            .args(["--disable-pip-version-check", "--no-cache-dir"])
            .args(packages),
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
            crate::command::cargo()
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
