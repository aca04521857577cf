//! A real registry on a free port of this machine.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use wisp_artifacts::Reference;

/// distribution's `registry`, as long as this lives.
pub(crate) struct Registry {
    child: Child,
    address: String,
    folder: TempDir,
}

impl Registry {
    /// Starts one that lets everybody in; `None`, with a word why, where it can't be built and needn't be.
    pub(crate) fn open() -> Result<Option<Self>> {
        Self::start("")
    }

    /// Starts one that lets in the user `u` with the password `s3cret`.
    pub(crate) fn locked() -> Result<Option<Self>> {
        Self::start("auth: {htpasswd: {realm: test, path: FOLDER/users}}\n")
    }

    fn start(more: &str) -> Result<Option<Self>> {
        let program = match wisp_cluster::registry() {
            Ok(program) => program,
            Err(error) => {
                wisp_skip::skip(format!("there is no registry: {error:#}"));
                return Ok(None);
            }
        };
        let folder = tempfile::tempdir()?;
        let path = folder.path().display().to_string();
        // htpasswd -Bbn u s3cret
        let users = "u:$2y$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK\n";
        std::fs::write(folder.path().join("users"), users)?;
        let config = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {path}/images}}}}\n\
             http: {{addr: \"127.0.0.1:0\"}}\n{}",
            more.replace("FOLDER", &path)
        );
        std::fs::write(folder.path().join("config.yaml"), config)?;
        let mut child = Command::new(program)
            .arg("serve")
            .arg(folder.path().join("config.yaml"))
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut said = BufReader::new(child.stderr.take().context("no output")?);
        let mut registry = Self {
            child,
            address: String::new(),
            folder,
        };
        let mut all = String::new();
        loop {
            let start = all.len();
            if said.read_line(&mut all)? == 0 {
                bail!("the registry ended: {all}");
            }
            let line = &all[start..];
            if let Some(address) = line.split("listening on ").nth(1) {
                let end = address.find(['"', ',']).unwrap_or(address.len());
                registry.address = address[..end].trim().to_owned();
                // Read on, so that it can go on talking.
                std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
                return Ok(Some(registry));
            }
        }
    }

    pub(crate) fn image(&self, name: &str) -> Reference {
        format!("{}/{name}", self.address).parse().unwrap()
    }

    /// Its host and port.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Replaces the bytes of a blob behind the registry's back.
    pub(crate) fn corrupt(&self, sha256: &str, bytes: &[u8]) -> Result<()> {
        let start = sha256.get(..2).context("no digest")?;
        let blob = self.folder.path().join(format!(
            "images/docker/registry/v2/blobs/sha256/{start}/{sha256}/data"
        ));
        anyhow::ensure!(blob.exists(), "{} is missing", blob.display());
        Ok(std::fs::write(blob, bytes)?)
    }

    /// Ends it.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
