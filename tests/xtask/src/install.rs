//! What the other commands need, installed where it is missing.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cache;
use crate::command::{command, execute, output, succeeds};

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
            .args(["-m", "pip", "install", "--quiet", "--requirement"])
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
            .arg("--disable-pip-version-check")
            .args(packages),
    )?;
    std::fs::write(&stamp, wanted)?;
    Ok(dir)
}

/// ONNX Runtime's version. The host accepts any from 1.24 on.
pub(crate) const ONNXRUNTIME_VERSION: &str = "1.31.1";

/// ONNX Runtime's shared library from its wheel on PyPI, in the cache; returns its path.
pub(crate) fn onnxruntime() -> Result<PathBuf> {
    let (platform, sha256) = match std::env::consts::ARCH {
        "x86_64" => (
            "manylinux_2_28_x86_64",
            "1f3dea47f2f0e5117c2404cea7d21fd253ae7836a3bf167a501cdfbb2600d536",
        ),
        "aarch64" => (
            "manylinux_2_28_aarch64",
            "0b9a492176886992e0e875f06bc0367e333f5fff11711a2d642e18b02f3009cc",
        ),
        other => bail!(
            "no ONNX Runtime wheel is known for the processor {other}: name a library in WISP_ONNXRUNTIME"
        ),
    };
    let dir = cache::dir()?.join("onnxruntime").join(ONNXRUNTIME_VERSION);
    let wheel = Wheel {
        package: "onnxruntime",
        platform,
        sha256,
    };
    from_wheel(&wheel, &dir, &[(&library_in_wheel(), LIBRARY)])?;
    Ok(dir.join(LIBRARY))
}

/// What the host calls ONNX Runtime's library.
pub(crate) const LIBRARY: &str = "libonnxruntime.so";
/// What ONNX Runtime loads beside itself to compute on NVIDIA's GPUs.
pub(crate) const PROVIDERS: [&str; 2] = [
    "libonnxruntime_providers_shared.so",
    "libonnxruntime_providers_cuda.so",
];

/// ONNX Runtime with CUDA 13, in a folder of the cache where no host looks for it; returns that folder.
pub(crate) fn onnxruntime_gpu() -> Result<PathBuf> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("ONNX Runtime's wheel with CUDA is for x86-64");
    }
    let dir = cache::dir()?
        .join("onnxruntime-gpu")
        .join(ONNXRUNTIME_VERSION);
    let wheel = Wheel {
        package: "onnxruntime-gpu",
        platform: "manylinux_2_28_x86_64",
        sha256: "05d548956197b9d01f59b625de740e0d6be3593f874e241a12dc0362650ecdf7",
    };
    let [shared, cuda] = PROVIDERS.map(|name| (format!("onnxruntime/capi/{name}"), name));
    let notices = ["LICENSE", "ThirdPartyNotices.txt"];
    let [licence, third] = notices.map(|name| (format!("onnxruntime/{name}"), name));
    from_wheel(
        &wheel,
        &dir,
        &[
            (&licence.0, licence.1),
            (&third.0, third.1),
            (&shared.0, shared.1),
            (&cuda.0, cuda.1),
            (&library_in_wheel(), LIBRARY),
        ],
    )?;
    Ok(dir)
}

fn library_in_wheel() -> String {
    format!("onnxruntime/capi/{LIBRARY}.{ONNXRUNTIME_VERSION}")
}

/// A wheel of ONNX Runtime's on PyPI.
struct Wheel {
    package: &'static str,
    platform: &'static str,
    sha256: &'static str,
}

/// Puts members of a wheel into `dir` under other names, unless they are there.
fn from_wheel(wheel: &Wheel, dir: &Path, members: &[(&str, &str)]) -> Result<()> {
    // The files get their names by a rename, after the wheel was checked: a file of such a name is whole.
    if members.iter().all(|(_, name)| dir.join(name).exists()) {
        return Ok(());
    }
    let Wheel {
        package,
        platform,
        sha256,
    } = wheel;
    if !succeeds(command("python3").args(["-m", "pip", "--version"])) {
        debian(&["python3", "python3-pip"])?;
    }
    std::fs::create_dir_all(dir)?;
    let scratch = tempfile::tempdir_in(dir)?;
    execute(
        command("python3")
            .args([
                "-m",
                "pip",
                "download",
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
                "--only-binary=:all:",
            ])
            .args([
                "--python-version",
                "3.12",
                "--implementation",
                "cp",
                "--abi",
                "cp312",
                "--platform",
                platform,
                "--dest",
            ])
            .arg(scratch.path())
            .arg(format!("{package}=={ONNXRUNTIME_VERSION}")),
    )?;
    let file = scratch.path().join(format!(
        "{}-{ONNXRUNTIME_VERSION}-cp312-cp312-{platform}.whl",
        package.replace('-', "_")
    ));
    let got = cache::sha256(&file).context("pip downloaded no wheel of the expected name")?;
    if got != *sha256 {
        bail!("{} has sha256 {got}, expected {sha256}", file.display());
    }
    execute(
        command("python3")
            .args(["-m", "zipfile", "-e"])
            .arg(&file)
            .arg(scratch.path()),
    )?;
    for (member, name) in members {
        let member = scratch.path().join(member);
        std::fs::rename(&member, dir.join(name))
            .with_context(|| format!("the wheel holds no {}", member.display()))?;
    }
    Ok(())
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
