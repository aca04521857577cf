//! What goes into an image? A root folder put together from Debian packages and from programs that were just built.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::programs::{Program, Programs};
use crate::{files, shell};

/// `image.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    /// The image's name, without a registry and tag.
    pub(super) name: String,
    /// Whether it is built only where it is named.
    #[serde(default)]
    pub(super) optional: bool,
    #[serde(default)]
    debian: Vec<Package>,
    #[serde(default)]
    pub(super) program: Vec<Program>,
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
        let from = programs
            .find(program)
            .with_context(|| format!("image {} lacks a program", manifest.name))?;
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
    let file = match deb_name(package)? {
        Some(file) => file,
        None => {
            // A fresh machine, or a container image, has no lists of packages yet.
            shell::run(Command::new("apt-get").args(["update", "-qq"]))?;
            deb_name(package)?.with_context(|| format!("apt knows no package {package}"))?
        }
    };
    let path = folder.join(&file);
    if !path.exists() {
        // Next to its place and then moved: a file of this name is whole.
        let fresh = tempfile::tempdir_in(&folder)?;
        shell::run(
            Command::new("apt-get")
                .args(["download", "-qq", package])
                .current_dir(fresh.path()),
        )?;
        fs::rename(fresh.path().join(&file), &path)
            .with_context(|| format!("apt-get download {package} wrote no {file}"))?;
    }
    Ok(path)
}

/// The name of the file that apt would download.
fn deb_name(package: &str) -> Result<Option<String>> {
    // What lies in the folder already, apt would not name.
    let empty = tempfile::tempdir()?;
    let output = Command::new("apt-get")
        .args(["download", "--print-uris", package])
        .current_dir(empty.path())
        .output()
        .context("cannot start apt-get")?;
    // 'URI' FILE SIZE HASH
    let line = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(line.split_whitespace().nth(1).map(str::to_owned))
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
