//! What goes into an image? A root folder put together from Debian packages and from programs that were just built.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::Platform;
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
    /// The machines that it can be built for: all, where none is named.
    #[serde(default)]
    platforms: Vec<Platform>,
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
    /// Libraries, by name, in which one `*` stands for what differs between machines.
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

    /// Sees to it that the image can be built for `platform`.
    pub(super) fn ensure_for(&self, platform: Platform) -> Result<()> {
        let allowed: Vec<String> = self.platforms.iter().map(Platform::to_string).collect();
        ensure!(
            allowed.is_empty() || self.platforms.contains(&platform),
            "image {} can't be built for {platform}: it is for {} alone",
            self.name,
            allowed.join(", ")
        );
        Ok(())
    }
}

/// Puts the build context together in a fresh folder.
pub(super) fn prepare(
    folder: &Path,
    manifest: &Manifest,
    programs: &Programs,
    platform: Platform,
) -> Result<tempfile::TempDir> {
    manifest.ensure_for(platform)?;
    let context = tempfile::tempdir()?;
    let root = context.path().join("rootfs");
    fs::create_dir(&root)?;
    fs::copy(folder.join("Dockerfile"), context.path().join("Dockerfile"))
        .with_context(|| format!("cannot read the Dockerfile of {}", folder.display()))?;
    for package in &manifest.debian {
        unpack(package, platform, &root)?;
    }
    for program in &manifest.program {
        let from = programs
            .find(program, platform)
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
fn unpack(package: &Package, platform: Platform, root: &Path) -> Result<()> {
    ensure!(
        Path::new("/usr/bin/dpkg-deb").exists() && Path::new("/usr/bin/apt-get").exists(),
        "images take their libraries from Debian packages: build them on Debian or Ubuntu"
    );
    let all = tempfile::tempdir()?;
    shell::run(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(deb(&package.package, platform)?)
            .arg(all.path()),
    )?;
    let found = walk(all.path())?;
    for name in &package.files {
        let library = found
            .iter()
            .find(|path| path.file_name().is_some_and(|file| is_named(file, name)))
            .with_context(|| format!("package {} has no {name}", package.package))?;
        let to = root
            .join("usr/lib")
            .join(library.file_name().unwrap_or_default());
        make_parent(&to)?;
        // Follows libstdc++.so.6 → libstdc++.so.6.0.30: the name that programs ask for is the file.
        fs::copy(library, &to).with_context(|| format!("cannot copy {}", library.display()))?;
        if name.starts_with("ld-linux") {
            // Every program has its loader's path in it: /lib64 on x86-64, /lib on Arm.
            for link in ["lib64", "lib"] {
                symlink("usr/lib", root.join(link))?;
            }
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

/// Whether a file is called `name`, in which one `*` may stand for anything.
fn is_named(file: &OsStr, name: &str) -> bool {
    let file = file.to_string_lossy();
    match name.split_once('*') {
        Some((start, end)) => file
            .strip_prefix(start)
            .is_some_and(|rest| rest.ends_with(end)),
        None => file == name,
    }
}

/// The file of a package, of the version that the machine's sources offer; kept, so that a second build needs no network.
fn deb(package: &str, platform: Platform) -> Result<PathBuf> {
    let folder = files::cache()?.join("images/debian");
    fs::create_dir_all(&folder)?;
    let apt = Apt::of(platform, &folder)?;
    let mut file = apt.name(package)?;
    if file.is_none() || apt.is_stale() {
        // A fresh machine, or a container image, has no lists of packages yet.
        let updated = apt.update();
        if file.is_none() {
            updated?;
        }
        file = apt.name(package)?;
    }
    let file = file.with_context(|| {
        format!("apt knows no package {package} for {platform}: the machine's sources are to have it, as Debian's have")
    })?;
    let path = folder.join(&file);
    if !path.exists() {
        // Next to its place and then moved: a file of this name is whole.
        let fresh = tempfile::tempdir_in(&folder)?;
        shell::run(
            apt.command()
                .args(["download", "-qq", package])
                .current_dir(fresh.path()),
        )?;
        fs::rename(fresh.path().join(&file), &path)
            .with_context(|| format!("apt-get download {package} wrote no {file}"))?;
    }
    Ok(path)
}

/// apt-get as a machine of some platform would ask it.
struct Apt {
    options: Vec<String>,
    /// Lists of its own, where the platform isn't this machine's: what this machine knows of packages stays as it is.
    lists: Option<PathBuf>,
}

impl Apt {
    /// How long lists of its own count: nothing else updates them.
    const COUNT: Duration = Duration::from_hours(24);

    fn of(platform: Platform, folder: &Path) -> Result<Apt> {
        if platform == Platform::HERE {
            return Ok(Apt {
                options: Vec::new(),
                lists: None,
            });
        }
        let lists = folder.join(format!("lists-{}", platform.architecture()));
        fs::create_dir_all(lists.join("partial"))?;
        let options = vec![
            format!("APT::Architecture={}", platform.architecture()),
            format!("APT::Architectures={}", platform.architecture()),
            format!("Dir::State::lists={}", lists.display()),
            "Dir::Cache::pkgcache=".to_owned(),
            "Dir::Cache::srcpkgcache=".to_owned(),
        ];
        Ok(Apt {
            options,
            lists: Some(lists),
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new("apt-get");
        for option in &self.options {
            command.args(["--option", option]);
        }
        command
    }

    fn update(&self) -> Result<()> {
        shell::run(self.command().args(["update", "-qq"]))?;
        if let Some(lists) = &self.lists {
            fs::write(lists.join(UPDATED), "")?;
        }
        Ok(())
    }

    fn is_stale(&self) -> bool {
        let Some(lists) = &self.lists else {
            return false;
        };
        let updated = fs::metadata(lists.join(UPDATED)).and_then(|data| data.modified());
        let age = updated.ok().and_then(|at| at.elapsed().ok());
        age.is_none_or(|age| age > Apt::COUNT)
    }

    /// The name of the file that would be downloaded.
    fn name(&self, package: &str) -> Result<Option<String>> {
        // What lies in the folder already, apt would not name.
        let empty = tempfile::tempdir()?;
        let output = self
            .command()
            .args(["download", "--print-uris", package])
            .current_dir(empty.path())
            .output()
            .context("cannot start apt-get")?;
        // 'URI' FILE SIZE HASH
        let line = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(line.split_whitespace().nth(1).map(str::to_owned))
    }
}

/// Whose time tells when lists were updated: those of their files are the server's.
const UPDATED: &str = "updated";

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
