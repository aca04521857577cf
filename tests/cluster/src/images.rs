//! `cargo xtask images`: how are images built, and how do they reach a cluster? With buildah and skopeo, without a
//! daemon, from what `image.toml` beside each Dockerfile lists; the same input gives the same digest.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use crate::{files, lifecycle, machine};

mod builder;
mod context;
mod programs;
mod registry;

pub(crate) use builder::Builder;
pub use programs::Programs;
pub use registry::{load, push_to};

/// Build the product's images
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// Folders under deploy/images; all of them but runtime-cuda when left out
    images: Vec<String>,
    /// A program for an image, such as wisp-runtime=PATH, instead of one that cargo builds
    #[arg(long = "program", value_name = "NAME=PATH")]
    programs: Vec<String>,
    /// The profile that cargo builds programs with
    #[arg(long, default_value = "release")]
    profile: String,
    /// The tag
    #[arg(long, default_value = "dev")]
    tag: String,
    /// Where the archives go
    #[arg(long, value_name = "FOLDER", default_value = "target/images")]
    output: PathBuf,
    /// Put them into this cluster's registry
    #[arg(long, value_name = "CLUSTER")]
    load: Option<String>,
    /// Push them to this registry, such as ghcr.io/wisp-dev
    #[arg(long, value_name = "REGISTRY")]
    push: Option<String>,
}

impl Arguments {
    /// Whether an image that shall be built needs the program called `name` and none is given.
    ///
    /// # Errors
    /// When an `image.toml` can't be read.
    pub fn lack(&self, name: &str) -> Result<bool> {
        let given = Programs::parse(&self.programs)?;
        for folder in self.folders()? {
            let manifest = context::Manifest::read(&folder)?;
            let needs = manifest.program.iter().any(|program| program.name == name);
            if needs && !given.has(name) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Gives the program called `name`.
    pub fn give(&mut self, name: &str, path: &Path) {
        self.programs.push(format!("{name}={}", path.display()));
    }

    /// The folders of the images that shall be built.
    fn folders(&self) -> Result<Vec<PathBuf>> {
        let all = files::repository().join("deploy/images");
        if !self.images.is_empty() {
            return Ok(self.images.iter().map(|name| all.join(name)).collect());
        }
        let mut folders = Vec::new();
        for entry in fs::read_dir(&all).with_context(|| format!("cannot read {}", all.display()))? {
            let folder = entry?.path();
            if folder.join("image.toml").exists() && !context::Manifest::read(&folder)?.optional {
                folders.push(folder);
            }
        }
        folders.sort();
        Ok(folders)
    }
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
    let programs = Programs::parse(&arguments.programs)?.profile(&arguments.profile);
    for folder in arguments.folders()? {
        let image = build(&folder, &programs, &arguments.tag, &arguments.output)?;
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
                registry::load(&archive, Some(&image.name), &state.layout.registry())?
            );
        }
        if let Some(registry) = &arguments.push {
            println!("{}", push_to(&image, registry)?);
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    /// Would fail if gigabytes were built for everybody, or for nobody.
    #[test]
    fn the_image_with_cuda_is_built_where_it_is_named() {
        let folders = |line: &[&str]| -> Vec<String> {
            let Line { arguments } = Line::parse_from([&["images"], line].concat());
            let folders = arguments.folders().unwrap().into_iter();
            folders
                .map(|folder| folder.file_name().unwrap().to_string_lossy().into_owned())
                .collect()
        };
        assert_eq!(folders(&[]), ["gateway", "operator", "runtime"]);
        assert_eq!(folders(&["runtime-cuda"]), ["runtime-cuda"]);
    }
}
