//! How is an image built? By buildah, from a folder that holds all it needs, in a storage of the project's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Platform;
use crate::{files, shell};

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

    /// Builds the Dockerfile in each folder for its platform, writes `archive`, and gives the digest of the manifest, or of
    /// the index where there are several.
    pub(crate) fn build(
        &self,
        contexts: &[(Platform, &Path)],
        name: &str,
        archive: &Path,
    ) -> Result<String> {
        // Two builds of one name at a time would take each other's image away.
        let lock = fs::File::create(self.storage.with_file_name("lock"))?;
        lock.lock()?;
        if let [(platform, context)] = contexts {
            self.build_one(*platform, context, name)?;
            let digest = self.write(&["push"], name, archive)?;
            // The archive is what counts; a copy of every version in the storage would only fill the disk.
            shell::run(self.command().args(["rmi", "--force", name]))?;
            return Ok(digest);
        }
        // What a build that was broken off left would be in the index, too.
        let _ = self.command().args(["manifest", "rm", name]).output();
        shell::run(self.command().args(["manifest", "create", name]))?;
        let mut built = Vec::new();
        for (platform, context) in contexts {
            let one = format!("{name}-{}", platform.architecture());
            self.build_one(*platform, context, &one)?;
            shell::run(self.command().args(["manifest", "add", name, &one]))?;
            built.push(one);
        }
        let digest = self.write(&["manifest", "push", "--all"], name, archive)?;
        shell::run(self.command().args(["manifest", "rm", name]))?;
        shell::run(self.command().args(["rmi", "--force"]).args(&built))?;
        Ok(digest)
    }

    fn build_one(&self, platform: Platform, context: &Path, name: &str) -> Result<()> {
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
                .args(["--platform", &platform.to_string()])
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
        .with_context(|| format!("cannot build {name} for {platform}"))?;
        Ok(())
    }

    /// Writes an image or an index to `archive` with one of buildah's commands, and gives its digest.
    fn write(&self, push: &[&str], name: &str, archive: &Path) -> Result<String> {
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
                .args(push)
                .args(["--quiet", "--digestfile"])
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
        Ok(digest)
    }
}
