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
        // What a build that was broken off left.
        let _ = self.command().args(["manifest", "rm", name]).output();
        let _ = self.command().args(["rmi", "--force", name]).output();
        let mut built = Vec::new();
        let digest = self.build_all(contexts, name, archive, &mut built);
        // The archive is what counts; a copy of every version in the storage would only fill the disk.
        let _ = self.command().args(["manifest", "rm", name]).output();
        let _ = self.command().args(["rmi", "--force"]).args(built).output();
        digest
    }

    /// Builds, and tells the ids of the images that were `built`.
    fn build_all(
        &self,
        contexts: &[(Platform, &Path)],
        name: &str,
        archive: &Path,
        built: &mut Vec<String>,
    ) -> Result<String> {
        if let [(platform, context)] = contexts {
            built.push(self.build_one(*platform, context, Some(name))?);
            return self.write(&["push"], name, archive);
        }
        shell::run(self.command().args(["manifest", "create", name]))?;
        for (platform, context) in contexts {
            // By its id: a name would be looked for in the registries that the world has.
            let id = self.build_one(*platform, context, None)?;
            let added = shell::run(self.command().args(["manifest", "add", name, &id]));
            built.push(id);
            added?;
        }
        self.write(&["manifest", "push", "--all"], name, archive)
    }

    /// Builds one image, and gives its id.
    fn build_one(&self, platform: Platform, context: &Path, name: Option<&str>) -> Result<String> {
        let id = tempfile::NamedTempFile::new()?;
        let mut command = self.command();
        shell::run(
            command
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
                .args(name.map(|name| format!("--tag={name}")))
                .arg("--iidfile")
                .arg(id.path())
                .arg(context),
        )
        .with_context(|| format!("cannot build {} for {platform}", context.display()))?;
        let id = fs::read_to_string(id.path())?;
        Ok(id.trim().trim_start_matches("sha256:").to_owned())
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
