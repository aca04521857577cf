//! `cargo xtask images`: how are images built, and how do they reach a cluster? With buildah and skopeo, without a
//! daemon, from what `image.toml` beside each Dockerfile lists; the same input gives the same digest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::{files, lifecycle, machine, shell};

mod context;

pub use context::Programs;

/// Build the product's images
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// Folders under deploy/images; all of them when left out
    images: Vec<String>,
    /// A program for an image, such as wisp-runtime=target/release/wisp-runtime
    #[arg(long = "program", value_name = "NAME=PATH")]
    programs: Vec<String>,
    /// The tag
    #[arg(long, default_value = "dev")]
    tag: String,
    /// Where the archives go
    #[arg(long, default_value = "target/images")]
    output: PathBuf,
    /// Put them into this cluster's registry
    #[arg(long, value_name = "CLUSTER")]
    load: Option<String>,
    /// Push them to this registry, such as ghcr.io/wisp-dev
    #[arg(long, value_name = "REGISTRY")]
    push: Option<String>,
}

/// An image that was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// `name:tag`, without a registry.
    pub name: String,
    /// The archive that holds it, in OCI layout.
    pub archive: PathBuf,
    /// `sha256:…` of its manifest.
    pub digest: String,
}

/// Does what `cargo xtask images` says; prints each image's name, digest and size.
///
/// # Errors
/// When an image cannot be built or does not get where it should.
pub fn run(arguments: &Arguments) -> Result<()> {
    let all = files::repository().join("deploy/images");
    let mut names = arguments.images.clone();
    if names.is_empty() {
        for entry in fs::read_dir(&all).with_context(|| format!("cannot read {}", all.display()))? {
            let entry = entry?;
            if entry.path().join("image.toml").exists() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
    }
    let programs = Programs::parse(&arguments.programs)?;
    for name in names {
        let image = build(
            &all.join(&name),
            &programs,
            &arguments.tag,
            &arguments.output,
        )?;
        let size = fs::metadata(&image.archive)?.len();
        println!(
            "{} {} {:.1} MB {}",
            image.name,
            image.digest,
            size as f64 / 1e6,
            image.archive.display()
        );
        let archive = format!("oci-archive:{}", image.archive.display());
        if let Some(cluster) = &arguments.load {
            let state = lifecycle::standing(cluster)?;
            println!(
                "{}",
                load(&archive, Some(&image.name), &state.layout.registry())?
            );
        }
        if let Some(registry) = &arguments.push {
            println!("{}", push(&archive, registry, &image.name, true)?);
        }
    }
    Ok(())
}

/// Builds the image of `folder` (its `Dockerfile` and `image.toml`) into an archive in `output`.
///
/// # Errors
/// When a program it needs was not given, or a step of the build fails.
pub fn build(folder: &Path, programs: &Programs, tag: &str, output: &Path) -> Result<Image> {
    machine::ensure_image_tools()?;
    let manifest = context::Manifest::read(folder)?;
    let prepared = context::prepare(folder, &manifest, programs)?;
    fs::create_dir_all(output).with_context(|| format!("cannot make {}", output.display()))?;
    let archive = std::path::absolute(output.join(format!("{}-{tag}.tar", manifest.name)))?;
    let name = format!("{}:{tag}", manifest.name);
    let digest = Builder::new()?.build(prepared.path(), &name, &archive)?;
    Ok(Image {
        name,
        archive,
        digest,
    })
}

/// Puts `image` into the registry at `registry`, under its own name or `name`, and gives the reference that nodes pull.
///
/// # Errors
/// When there is no such image, or the registry does not take it.
pub fn load(image: &str, name: Option<&str>, registry: &str) -> Result<String> {
    let source = if image.contains("-archive:") {
        image.to_owned()
    } else if Path::new(image).is_file() {
        format!("{}:{image}", archive_kind(Path::new(image))?)
    } else {
        format!(
            "containers-storage:[vfs@{}]{image}",
            Builder::new()?.storage.display()
        )
    };
    let name = match name {
        Some(name) => name.to_owned(),
        None if source.starts_with("containers-storage:") => image.to_owned(),
        None => inspect_name(&source)?,
    };
    push(&source, registry, path_of(&name), false)
}

/// The part of a reference that a mirror of its registry knows it by: without the registry's name.
fn path_of(name: &str) -> &str {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains('.') || first.contains(':') || first == "localhost" =>
        {
            rest
        }
        _ => name,
    }
}

fn archive_kind(path: &Path) -> Result<&'static str> {
    let list = shell::run(Command::new("tar").arg("-tf").arg(path))?;
    if list
        .lines()
        .any(|line| line.trim_start_matches("./") == "oci-layout")
    {
        Ok("oci-archive")
    } else if list
        .lines()
        .any(|line| line.trim_start_matches("./") == "manifest.json")
    {
        Ok("docker-archive")
    } else {
        bail!(
            "{} is no image archive: neither oci-layout nor manifest.json is in it",
            path.display()
        )
    }
}

fn inspect_name(source: &str) -> Result<String> {
    let Some((kind, path)) = source.split_once(':') else {
        bail!("{source:?} names no image")
    };
    let member = if kind == "oci-archive" {
        "index.json"
    } else {
        "manifest.json"
    };
    let text = shell::run(Command::new("tar").args(["-xOf", path, member]))?;
    let value: serde_json::Value = serde_json::from_str(&text)?;
    let name = if kind == "oci-archive" {
        value.pointer("/manifests/0/annotations/org.opencontainers.image.ref.name")
    } else {
        value.pointer("/0/RepoTags/0")
    };
    let name = name.and_then(serde_json::Value::as_str);
    match name {
        Some(name) if name.contains(':') => Ok(name.to_owned()),
        _ => bail!("{path} does not say the image's name: give it with --as NAME:TAG"),
    }
}

/// Copies an image to `registry/name`, as it is: its digest stays.
fn push(source: &str, registry: &str, name: &str, verify: bool) -> Result<String> {
    let reference = format!("{registry}/{name}");
    let mut command = Command::new("skopeo");
    command.args(["copy", "--quiet", "--preserve-digests", "--insecure-policy"]);
    command.arg(format!("--dest-tls-verify={verify}"));
    shell::run(command.arg(source).arg(format!("docker://{reference}")))
        .with_context(|| format!("cannot push {reference}"))?;
    Ok(reference)
}

/// Pushes an image that was built to a registry of the user's own; a registry on this machine may speak plain HTTP.
///
/// # Errors
/// When the registry does not take it.
pub fn push_to(image: &Image, registry: &str) -> Result<String> {
    let local = ["localhost", "127.", "[::1]", "10."]
        .iter()
        .any(|start| registry.starts_with(start));
    push(
        &format!("oci-archive:{}", image.archive.display()),
        registry,
        &image.name,
        !local,
    )
}

/// buildah with a storage of its own.
pub(crate) struct Builder {
    storage: PathBuf,
}

impl Builder {
    pub(crate) fn new() -> Result<Builder> {
        let storage = files::cache()?.join("images/storage");
        fs::create_dir_all(&storage)
            .with_context(|| format!("cannot make {}", storage.display()))?;
        Ok(Builder { storage })
    }

    fn command(&self) -> Command {
        let mut command = Command::new("buildah");
        // No driver that needs mounts, no isolation that needs more than chroot: this runs in a plain container too.
        command
            .args(["--storage-driver", "vfs", "--root"])
            .arg(&self.storage);
        command
            .arg("--runroot")
            .arg(self.storage.with_file_name("run"));
        command
    }

    /// Builds the Dockerfile in `context`, writes `archive`, and gives the manifest's digest.
    pub(crate) fn build(&self, context: &Path, name: &str, archive: &Path) -> Result<String> {
        // Two builds of one name at a time would take each other's image away.
        let lock = fs::File::create(self.storage.with_file_name("lock"))?;
        lock.lock()?;
        shell::run(
            self.command()
                .args([
                    "bud",
                    "--isolation",
                    "chroot",
                    "--format",
                    "oci",
                    "--layers=false",
                    "--quiet",
                ])
                // Nothing of this machine or hour goes into the image.
                .args([
                    "--timestamp",
                    "0",
                    "--identity-label=false",
                    "--no-cache",
                    "--pull-never",
                ])
                .args(["--tag", name])
                .arg(context),
        )
        .with_context(|| format!("cannot build {name}"))?;
        let fresh = archive.with_extension("new");
        let _ = fs::remove_file(&fresh);
        let digest = tempfile::NamedTempFile::new()?;
        let base = name.rsplit('/').next().unwrap_or(name);
        let in_archive = if name.starts_with("wisp.test/") {
            name
        } else {
            base
        };
        shell::run(
            self.command()
                .args(["push", "--quiet", "--digestfile"])
                .arg(digest.path())
                .arg(name)
                .arg(format!("oci-archive:{}:{in_archive}", fresh.display())),
        )
        .with_context(|| format!("cannot write {}", fresh.display()))?;
        fs::rename(&fresh, archive)?;
        let digest = fs::read_to_string(digest.path())?.trim().to_owned();
        ensure!(
            digest.starts_with("sha256:"),
            "buildah gave no digest of {name}"
        );
        // The archive is what counts; a copy of every version in the storage would only fill the disk.
        shell::run(self.command().args(["rmi", "--force", name]))?;
        Ok(digest)
    }
}

#[cfg(test)]
mod tests {
    use super::path_of;

    #[test]
    fn a_mirror_knows_an_image_without_its_registry() {
        assert_eq!(
            path_of("ghcr.io/wisp-dev/wisp-runtime:1"),
            "wisp-dev/wisp-runtime:1"
        );
        assert_eq!(path_of("localhost/x:1"), "x:1");
        assert_eq!(path_of("10.200.0.2:5000/x:1"), "x:1");
        assert_eq!(path_of("vision/digits:1.4"), "vision/digits:1.4");
        assert_eq!(path_of("digits:1.4"), "digits:1.4");
    }
}
