//! Are images reproducible, small and complete? They are built for real, with buildah.
#![expect(
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use wisp_cluster::images::{self, Platform, Programs};
use wisp_cluster::repository;

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|data| data.uid() == 0)
}

/// Whether images can be built here; it says why not, and in CI that is a failure.
fn can_build() -> bool {
    let lacks_tools = ["buildah", "skopeo"]
        .iter()
        .any(|tool| !Path::new("/usr/bin").join(tool).exists());
    if !Path::new("/usr/bin/apt-get").exists() {
        wisp_skip::skip("images are built on Debian or Ubuntu, and this is neither");
    } else if lacks_tools && !is_root() {
        wisp_skip::skip("images need buildah and skopeo, which only root can install");
    } else {
        return true;
    }
    false
}

/// The layers of an archive, unpacked over each other.
fn unpack(archive: &Path) -> Result<(tempfile::TempDir, serde_json::Value)> {
    let folder = tempfile::tempdir()?;
    let run = |command: &mut Command| -> Result<()> {
        ensure!(command.status()?.success(), "{command:?} failed");
        Ok(())
    };
    let layout = folder.path().join("layout");
    let root = folder.path().join("root");
    fs::create_dir(&layout)?;
    fs::create_dir(&root)?;
    run(Command::new("tar")
        .arg("-xf")
        .arg(archive)
        .arg("-C")
        .arg(&layout))?;
    let blob = |digest: &str| layout.join("blobs").join(digest.replace(':', "/"));
    let read = |path: &Path| -> Result<serde_json::Value> {
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    };
    let index = read(&layout.join("index.json"))?;
    let manifest = read(&blob(
        index["manifests"][0]["digest"]
            .as_str()
            .context("no manifest")?,
    ))?;
    for layer in manifest["layers"].as_array().context("no layers")? {
        run(Command::new("tar")
            .arg("-xzf")
            .arg(blob(layer["digest"].as_str().context("no layer")?))
            .arg("-C")
            .arg(&root))?;
    }
    let config = read(&blob(
        manifest["config"]["digest"]
            .as_str()
            .context("no configuration")?,
    ))?;
    Ok((folder, config))
}

/// How many bytes the files below a folder have.
fn size(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        sum += match entry.file_type()? {
            kind if kind.is_dir() => size(&entry.path())?,
            kind if kind.is_file() => entry.metadata()?.len(),
            _ => 0,
        };
    }
    Ok(sum)
}

/// Would fail if a time, a mode or a path of this build got into the image.
#[test]
fn equal_input_gives_an_equal_digest() -> Result<()> {
    if !can_build() {
        return Ok(());
    }
    let build = |content: &str, mode: u32| -> Result<String> {
        let folder = tempfile::tempdir()?;
        let program = folder.path().join("some-program");
        fs::write(&program, content)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(mode))?;
        let programs = Programs::default().with("testserver", &program);
        Ok(images::build(
            &repository().join("tests/cluster/images/testserver"),
            &programs,
            "same",
            folder.path(),
        )?
        .digest)
    };
    let first = build("one", 0o700)?;
    assert_eq!(build("one", 0o755)?, first);
    assert_ne!(build("two", 0o755)?, first);
    Ok(())
}

/// Would fail if a library that a program of ours is linked with, its loader or the certificates were missing.
#[test]
fn the_runtime_image_has_all_that_its_program_needs_and_runs_as_nobody() -> Result<()> {
    if !can_build() {
        return Ok(());
    }
    // A program of this machine that needs the C library, its loader and libgcc stands for the real one: itself.
    let program = std::env::current_exe()?;
    let output = tempfile::tempdir()?;
    let library = output.path().join("library");
    fs::write(&library, "stands for ONNX Runtime")?;
    let programs = Programs::default()
        .with("wisp-runtime", &program)
        .with("libonnxruntime.so", &library);
    let image = images::build(
        &repository().join("deploy/images/runtime"),
        &programs,
        "test",
        output.path(),
    )?;
    let (folder, config) = unpack(&image.archive)?;
    assert_eq!(config["config"]["User"], "65532:65532");
    let root = folder.path().join("root");
    ensure!(
        fs::read_to_string(root.join("etc/ssl/certs/ca-certificates.crt"))?
            .contains("BEGIN CERTIFICATE")
    );
    ensure!(root.join("usr/lib/libstdc++.so.6").is_file());
    if !is_root() {
        wisp_skip::skip("only root can start a program in another root folder");
        return Ok(());
    }
    let listed = Command::new("chroot")
        .arg(&root)
        .args(["/usr/bin/wisp-runtime", "--list"])
        .output()?;
    ensure!(
        listed.status.success(),
        "{}",
        String::from_utf8_lossy(&listed.stderr)
    );
    ensure!(String::from_utf8_lossy(&listed.stdout).contains("equal_input_gives_an_equal_digest"));
    fs::remove_file(root.join("usr/bin/wisp-runtime"))?;
    let size = size(&root)?;
    ensure!(size < 10_000_000, "{size} bytes beside the program itself");
    Ok(())
}

/// Would fail if an image for several platforms lacked one, had one's libraries or program in another's, or a program found
/// no loader where Arm's is.
#[test]
fn an_image_for_several_platforms_has_each_ones_own() -> Result<()> {
    if !can_build() {
        return Ok(());
    }
    let output = tempfile::tempdir()?;
    let platforms = [
        (Platform::Amd64, 0x3e, "lib64/ld-linux-x86-64.so.2"),
        (Platform::Arm64, 0xb7, "lib/ld-linux-aarch64.so.1"),
    ];
    let mut programs = Programs::default();
    for (platform, ..) in platforms {
        let program = output.path().join(platform.architecture());
        fs::write(&program, platform.to_string())?;
        programs = programs.with_for(platform, "wisp-gateway", program);
    }
    let build = || {
        images::build_for(
            &platforms.map(|(platform, ..)| platform),
            &repository().join("deploy/images/gateway"),
            &programs,
            "both",
            output.path(),
        )
    };
    let image = build()?;
    assert_eq!(build()?.digest, image.digest);
    for (platform, machine, loader) in platforms {
        let one = output.path().join("one.tar");
        let _ = fs::remove_file(&one);
        let status = Command::new("skopeo")
            .args(["--insecure-policy", "--override-arch"])
            .args([platform.architecture(), "copy", "--quiet"])
            .arg(format!("oci-archive:{}", image.archive.display()))
            .arg(format!("oci-archive:{}", one.display()))
            .status()?;
        ensure!(status.success(), "{platform}: {status}");
        let (folder, config) = unpack(&one)?;
        assert_eq!(config["architecture"], platform.architecture());
        let root = folder.path().join("root");
        let program = fs::read_to_string(root.join("usr/bin/wisp-gateway"))?;
        assert_eq!(program, platform.to_string());
        for library in ["usr/lib/libc.so.6", loader] {
            // The gABI's e_machine.
            let bytes = fs::read(root.join(library))?;
            assert_eq!(bytes[18], machine, "{platform}: {library}");
        }
    }
    Ok(())
}

/// Would fail if gigabytes of libraries for x86-64 were packed for Arm.
#[test]
fn an_image_is_built_for_no_platform_that_it_is_not_for() -> Result<()> {
    if !can_build() {
        return Ok(());
    }
    let output = tempfile::tempdir()?;
    let cuda = repository().join("deploy/images/runtime-cuda");
    let programs = Programs::default();
    let built = images::build_for(&[Platform::Arm64], &cuda, &programs, "no", output.path());
    let error = built.err().context("it was built")?.to_string();
    ensure!(
        error.contains("wisp-runtime-cuda") && error.contains("linux/arm64"),
        "{error}"
    );
    Ok(())
}
