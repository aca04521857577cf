//! What goes into an image? A root folder put together from Debian packages and from programs that were just built.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::{files, shell};

/// `image.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    /// The image's name, without a registry and tag.
    pub(super) name: String,
    #[serde(default)]
    debian: Vec<Package>,
    #[serde(default)]
    program: Vec<Program>,
}

/// What is taken of a Debian package.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Package {
    package: String,
    /// Libraries, by name.
    #[serde(default)]
    files: Vec<String>,
    /// The certificates of the public authorities, in one file.
    #[serde(default)]
    certificates: bool,
}

/// A file that the caller gives.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Program {
    name: String,
    to: PathBuf,
    /// Where in the cache folder it lies when it is not given; one `*` stands for one folder.
    cached: Option<String>,
}

/// The programs that the caller gives, by name.
#[derive(Clone, Debug, Default)]
pub struct Programs(BTreeMap<String, PathBuf>);

impl Programs {
    /// Reads `NAME=PATH` of each.
    ///
    /// # Errors
    /// When one has another form or its file does not exist.
    pub fn parse(given: &[String]) -> Result<Programs> {
        let mut programs = Programs::default();
        for entry in given {
            let (name, path) = entry
                .split_once('=')
                .with_context(|| format!("--program {entry:?}: want NAME=PATH"))?;
            ensure!(
                Path::new(path).is_file(),
                "--program {entry:?}: there is no file {path}"
            );
            programs = programs.with(name, path);
        }
        Ok(programs)
    }

    /// The same and one more.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, path: impl Into<PathBuf>) -> Programs {
        self.0.insert(name.into(), path.into());
        self
    }
}

impl Manifest {
    /// Reads the `image.toml` of `folder`.
    pub(super) fn read(folder: &Path) -> Result<Manifest> {
        let path = folder.join("image.toml");
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is not understood", path.display()))
    }
}

/// Puts the build context together in a fresh folder.
pub(super) fn prepare(
    folder: &Path,
    manifest: &Manifest,
    programs: &Programs,
) -> Result<tempfile::TempDir> {
    let context = tempfile::tempdir()?;
    let root = context.path().join("rootfs");
    fs::create_dir(&root)?;
    fs::copy(folder.join("Dockerfile"), context.path().join("Dockerfile"))
        .with_context(|| format!("cannot read the Dockerfile of {}", folder.display()))?;
    for package in &manifest.debian {
        unpack(package, &root)?;
    }
    for program in &manifest.program {
        let from = match (programs.0.get(&program.name), &program.cached) {
            (Some(path), _) => path.clone(),
            (None, Some(pattern)) => cached(pattern).with_context(|| {
                format!("{0} is neither given (--program {0}=PATH) nor in the cache folder as {pattern}", program.name)
            })?,
            (None, None) => bail!("image {} needs --program {}=PATH", manifest.name, program.name),
        };
        let to = root.join(&program.to);
        make_parent(&to)?;
        fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    normalise(context.path())?;
    Ok(context)
}

fn make_parent(path: &Path) -> Result<()> {
    let parent = path
        .parent()
        .with_context(|| format!("{} has no parent", path.display()))?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))
}

/// The newest file that `pattern` finds in the cache folder.
fn cached(pattern: &str) -> Result<PathBuf> {
    let (before, after) = pattern.split_once("/*/").context("a pattern has one *")?;
    let folder = files::cache()?.join(before);
    let mut found = Vec::new();
    for entry in
        fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let path = entry?.path().join(after);
        if path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    found.pop().context("there is none")
}

/// Fetches a package with apt, which checks its signature, and takes what is asked for out of it.
fn unpack(package: &Package, root: &Path) -> Result<()> {
    ensure!(
        Path::new("/usr/bin/dpkg-deb").exists() && Path::new("/usr/bin/apt-get").exists(),
        "images take their libraries from Debian packages: build them on Debian or Ubuntu"
    );
    let all = tempfile::tempdir()?;
    shell::run(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(deb(&package.package)?)
            .arg(all.path()),
    )?;
    let found = walk(all.path())?;
    for name in &package.files {
        let library = found
            .iter()
            .find(|path| path.file_name().is_some_and(|file| file == name.as_str()))
            .with_context(|| format!("package {} has no {name}", package.package))?;
        let to = root.join("usr/lib").join(name);
        make_parent(&to)?;
        // Follows libstdc++.so.6 → libstdc++.so.6.0.30: the name that programs ask for is the file.
        fs::copy(library, &to).with_context(|| format!("cannot copy {}", library.display()))?;
        if name.starts_with("ld-linux") {
            // Every program has its loader's path in it.
            make_parent(&root.join("lib64"))?;
            symlink("usr/lib", root.join("lib64"))?;
        }
    }
    if package.certificates {
        let mut bundle = Vec::new();
        for path in found
            .iter()
            .filter(|path| path.extension().is_some_and(|extension| extension == "crt"))
        {
            bundle.extend(fs::read(path)?);
            bundle.push(b'\n');
        }
        ensure!(
            !bundle.is_empty(),
            "package {} has no certificates",
            package.package
        );
        let to = root.join("etc/ssl/certs/ca-certificates.crt");
        make_parent(&to)?;
        fs::write(to, bundle)?;
    }
    Ok(())
}

/// The file of a package, of the version that the machine's sources offer; kept, so that a second build needs no network.
fn deb(package: &str) -> Result<PathBuf> {
    let folder = files::cache()?.join("images/debian");
    fs::create_dir_all(&folder)?;
    let line = shell::run(
        Command::new("apt-get")
            .args(["download", "--print-uris", package])
            .current_dir(&folder),
    )?;
    // 'URI' FILE SIZE HASH
    let file = line
        .split_whitespace()
        .nth(1)
        .with_context(|| format!("apt knows no package {package}: apt-get update"))?;
    let path = folder.join(file);
    if !path.exists() {
        shell::run(
            Command::new("apt-get")
                .args(["download", "-qq", package])
                .current_dir(&folder),
        )?;
    }
    ensure!(path.exists(), "apt-get download {package} wrote no {file}");
    Ok(path)
}

/// All files below `folder`, in a fixed order.
fn walk(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(walk(&entry.path())?);
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Gives every file a mode that does not depend on who built it where.
fn normalise(path: &Path) -> Result<()> {
    let kind = fs::symlink_metadata(path)?.file_type();
    if kind.is_symlink() {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    if kind.is_dir() {
        for entry in fs::read_dir(path)? {
            normalise(&entry?.path())?;
        }
    }
    Ok(())
}
