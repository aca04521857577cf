//! How is an image built? By buildah, from a folder that holds all it needs, in a storage of the project's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

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
