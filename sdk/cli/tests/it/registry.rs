//! A real registry on a free port of this machine.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// distribution's `registry`, as long as this lives.
pub(crate) struct Registry {
    child: Child,
    pub(crate) address: String,
    _folder: TempDir,
}

impl Registry {
    /// Starts one that lets everybody in; `None`, with a word why, where it can't be built and needn't be.
    pub(crate) fn start() -> Option<Self> {
        Self::with("")
    }

    /// Starts one that lets in the user `u` with the password `s3cret`.
    pub(crate) fn locked() -> Option<Self> {
        Self::with("auth: {htpasswd: {realm: test, path: FOLDER/users}}\n")
    }

    fn with(more: &str) -> Option<Self> {
        let program = match wisp_cluster::registry() {
            Ok(program) => program,
            Err(error) => {
                wisp_skip::skip(format!("there is no registry: {error:#}"));
                return None;
            }
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display().to_string();
        let config = folder.path().join("config.yaml");
        // htpasswd -Bbn u s3cret
        let users = "u:$2y$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK\n";
        std::fs::write(folder.path().join("users"), users).unwrap();
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\n\
                 storage: {{filesystem: {{rootdirectory: {path}/images}}}}\n\
                 http: {{addr: \"127.0.0.1:0\"}}\n{}",
                more.replace("FOLDER", &path)
            ),
        )
        .unwrap();
        let mut child = Command::new(program)
            .arg("serve")
            .arg(config)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert!(said.read_line(&mut line).unwrap() > 0, "the registry ended");
            if let Some(address) = line.split("listening on ").nth(1) {
                let end = address.find(['"', ',']).unwrap_or(address.len());
                break address[..end].trim().to_owned();
            }
        };
        // Read on, so that it can go on talking.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Some(Self {
            child,
            address,
            _folder: folder,
        })
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
