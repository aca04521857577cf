//! `cargo xtask images`: how are images built, and how do they reach a cluster? With buildah and skopeo, without a
//! daemon, from what `image.toml` beside each Dockerfile lists; the same input gives the same digest.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::{files, lifecycle, machine};

mod builder;
mod context;
mod platform;
mod programs;
mod registry;

pub use crate::machine::ensure_compiler;
pub(crate) use builder::Builder;
pub use platform::{Platform, PlatformError};
pub use programs::Programs;
pub use registry::{load, push_to};

/// Build the product's images
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// Folders under deploy/images; all of them but runtime-cuda when left out
    images: Vec<String>,
    /// The machines they are for: linux/amd64, linux/arm64, or both, separated by a comma [default: what this machine is]
    #[arg(long = "platform", value_name = "PLATFORM", value_delimiter = ',')]
    platforms: Vec<Platform>,
    /// A program for an image, such as wisp-runtime=PATH, instead of one that cargo builds; for one platform
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
    /// Programs that were given by [`Arguments::give`].
    #[arg(skip)]
    given: Programs,
}

impl Arguments {
    /// The machines that images shall be built for.
    #[must_use]
    pub fn platforms(&self) -> Vec<Platform> {
        if self.platforms.is_empty() {
            return vec![Platform::HERE];
        }
        let mut all = self.platforms.clone();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Looks at every name that was given, and whether the cluster stands: what is wrong is told before minutes of building.
    ///
    /// # Errors
    /// When there is no such image, program, file of one, or cluster; with those that there are.
    pub fn check(&self) -> Result<()> {
        let mut programs = BTreeSet::new();
        for folder in self.folders()? {
            let manifest = context::Manifest::read(&folder)?;
            programs.extend(manifest.program.into_iter().map(|program| program.name));
        }
        let names = self
            .programs
            .iter()
            .filter_map(|given| given.split_once('='));
        for (name, _) in names {
            ensure!(
                programs.contains(name),
                "--program {name}: no image that shall be built has it; they have {}",
                Vec::from_iter(programs).join(", ")
            );
        }
        self.given()?;
        ensure!(
            is_tag(&self.tag),
            "--tag {}: a tag has at most 128 letters, digits, `_`, `.` and `-`, and begins with none of the last two",
            self.tag
        );
        if let Some(registry) = &self.push {
            ensure!(
                is_repository(registry),
                "--push {registry}: it is a registry's host and, mostly, a path of lower-case letters, such as ghcr.io/ada, without a scheme and a `/` at its end"
            );
        }
        if let Some(cluster) = &self.load {
            lifecycle::standing(cluster)?;
        }
        Ok(())
    }

    /// Whether an image that shall be built needs the program called `name` and the command line gives none.
    ///
    /// # Errors
    /// When an `image.toml` can't be read, or an image can't be built for a platform.
    pub fn lack(&self, name: &str) -> Result<bool> {
        let is_given = |given: &String| given.split_once('=').is_some_and(|(n, _)| n == name);
        if self.programs.iter().any(is_given) {
            return Ok(false);
        }
        let mut is_needed = false;
        for folder in self.folders()? {
            let manifest = context::Manifest::read(&folder)?;
            for platform in self.platforms() {
                manifest.ensure_for(platform)?;
            }
            is_needed |= manifest.program.iter().any(|program| program.name == name);
        }
        Ok(is_needed)
    }

    /// Gives the program called `name` for a platform.
    pub fn give(&mut self, platform: Platform, name: &str, path: &Path) {
        self.given = std::mem::take(&mut self.given).with_for(platform, name, path);
    }

    /// All programs that are given.
    fn given(&self) -> Result<Programs> {
        let platforms = self.platforms();
        let (true, Some(platform)) = (platforms.len() == 1, platforms.first()) else {
            ensure!(
                self.programs.is_empty(),
                "--program gives a program for one platform: name one with --platform"
            );
            return Ok(self.given.clone());
        };
        self.given.clone().parse(&self.programs, *platform)
    }

    /// The folders of the images that shall be built.
    fn folders(&self) -> Result<Vec<PathBuf>> {
        let all = files::repository().join("deploy/images");
        let mut names = Vec::new();
        for entry in fs::read_dir(&all).with_context(|| format!("cannot read {}", all.display()))? {
            let entry = entry?;
            if entry.path().join("image.toml").exists() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        for name in &self.images {
            ensure!(
                names.contains(name),
                "there is no image {name}; there are {}",
                names.join(", ")
            );
        }
        if !self.images.is_empty() {
            return Ok(self.images.iter().map(|name| all.join(name)).collect());
        }
        let mut folders = Vec::new();
        for folder in names.iter().map(|name| all.join(name)) {
            if !context::Manifest::read(&folder)?.optional {
                folders.push(folder);
            }
        }
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
    arguments.check()?;
    let programs = arguments.given()?.profile(&arguments.profile);
    let (platforms, output) = (arguments.platforms(), &arguments.output);
    for folder in arguments.folders()? {
        let image = build_for(&platforms, &folder, &programs, &arguments.tag, output)?;
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

/// Builds the image of `folder` (its `Dockerfile` and `image.toml`) for this machine into an archive in `output`.
///
/// # Errors
/// When a program it needs was not given, or a step of the build fails.
pub fn build(folder: &Path, programs: &Programs, tag: &str, output: &Path) -> Result<Image> {
    build_for(&[Platform::HERE], folder, programs, tag, output)
}

/// The same for other machines: for several, the archive holds an image of each, and an index, which is what the digest is
/// of.
///
/// # Errors
/// As [`build`], and when the image is for none of them.
pub fn build_for(
    platforms: &[Platform],
    folder: &Path,
    programs: &Programs,
    tag: &str,
    output: &Path,
) -> Result<Image> {
    machine::ensure_image_tools()?;
    let manifest = context::Manifest::read(folder)?;
    let mut contexts = Vec::new();
    for platform in platforms {
        let context = context::prepare(folder, &manifest, programs, *platform)?;
        contexts.push((*platform, context));
    }
    fs::create_dir_all(output).with_context(|| format!("cannot make {}", output.display()))?;
    let archive = std::path::absolute(output.join(format!("{}-{tag}.tar", manifest.name)))?;
    let name = format!("{}:{tag}", manifest.name);
    let folders: Vec<(Platform, &Path)> = contexts
        .iter()
        .map(|(platform, context)| (*platform, context.path()))
        .collect();
    let digest = Builder::new()?.build(&folders, &name, &archive)?;
    Ok(Image {
        name,
        archive,
        digest,
    })
}

/// Whether it may be an image's tag:
/// <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests>.
fn is_tag(text: &str) -> bool {
    let mut letters = text.bytes();
    let begins_as_one = letters
        .next()
        .is_some_and(|letter| letter.is_ascii_alphanumeric() || letter == b'_');
    begins_as_one
        && text.len() <= 128
        && letters.all(|letter| letter.is_ascii_alphanumeric() || b"_.-".contains(&letter))
}

/// Whether images may be pushed below it: `HOST[:PORT][/PATH]`.
fn is_repository(text: &str) -> bool {
    let (authority, path) = text.split_once('/').unwrap_or((text, "path"));
    let may_be_host = |letter: u8| letter.is_ascii_alphanumeric() || b".:-[]".contains(&letter);
    let may_be_path = |letter: u8| {
        letter.is_ascii_lowercase() || letter.is_ascii_digit() || b"._-".contains(&letter)
    };
    let begins_as_host = |letter: char| letter.is_ascii_alphanumeric() || letter == '[';
    authority.starts_with(begins_as_host)
        && !authority.ends_with(':')
        && authority.bytes().all(may_be_host)
        && path
            .split('/')
            .all(|part| !part.is_empty() && part.bytes().all(may_be_path))
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

    /// Would fail if a mistake in a name were told after minutes of building, or not at all.
    #[test]
    fn names_are_looked_at_before_anything_is_built() {
        let error = |line: &[&str]| {
            let Line { arguments } = Line::parse_from([&["images"], line].concat());
            format!("{:#}", arguments.check().unwrap_err())
        };
        assert_eq!(
            error(&["operators"]),
            "there is no image operators; there are gateway, operator, runtime, runtime-cuda"
        );
        assert_eq!(
            error(&["operator", "--program", "wisp-runtime=/bin/sh"]),
            "--program wisp-runtime: no image that shall be built has it; they have wisp-operator"
        );
        let missing = error(&["--program", "wisp-operator=/nowhere"]);
        assert!(missing.contains("no file /nowhere"), "{missing}");
        let cluster = error(&["--load", "nobodys-cluster"]);
        assert!(cluster.contains("no cluster nobodys-cluster"), "{cluster}");
        for tag in ["feature/x", "", "-1", "a b"] {
            let error = error(&[&format!("--tag={tag}")]);
            assert!(error.starts_with(&format!("--tag {tag}: ")), "{error}");
        }
        for registry in [
            "https://ghcr.io/ada",
            "ghcr.io/",
            "ghcr.io/Ada",
            ":5000",
            "",
        ] {
            let error = error(&["--push", registry]);
            assert!(
                error.starts_with(&format!("--push {registry}: ")),
                "{error}"
            );
        }
        for registry in ["ghcr.io/ada", "localhost:5000", "[::1]:5000/a/b__c"] {
            let program = "--program=wisp-operator=/bin/sh";
            let line = [
                "images", "operator", program, "--push", registry, "--tag", "0.1.0_a",
            ];
            let Line { arguments } = Line::parse_from(line);
            arguments.check().unwrap();
        }
    }

    /// Would fail if a program that was given for one kind of machine got into the image of another.
    #[test]
    fn a_program_is_given_for_one_platform() {
        let Line { arguments } = Line::parse_from([
            "images",
            "--platform",
            "linux/arm64,linux/amd64,linux/arm64",
            "--program",
            "wisp-runtime=/dev/null",
        ]);
        assert_eq!(arguments.platforms(), [Platform::Amd64, Platform::Arm64]);
        let error = arguments.given().unwrap_err().to_string();
        assert!(error.contains("--platform"), "{error}");
    }
}
