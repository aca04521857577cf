//! Kinds of other projects that the chart makes objects of: their definitions are in those projects' Go modules.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use wisp_cluster::Cluster;

use crate::space::PATIENCE;

/// A kind of another project.
pub struct Foreign {
    /// The name of its definition.
    definition: &'static str,
    /// The Go module that has it, with its version.
    module: &'static str,
    /// The module's checksum, as in a go.sum.
    sum: &'static str,
    file: &'static str,
}

/// The Gateway API's routes.
pub const HTTP_ROUTE: Foreign = Foreign {
    definition: "httproutes.gateway.networking.k8s.io",
    module: "sigs.k8s.io/gateway-api@v1.6.3",
    sum: "h1:lKpJa5bGlraC/QeACvCpsHLdmO6y0iKfzVl6gzaFEYc=",
    file: "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",
};

/// What the Prometheus operator scrapes.
pub const POD_MONITOR: Foreign = Foreign {
    definition: "podmonitors.monitoring.coreos.com",
    module: "github.com/prometheus-operator/prometheus-operator@v0.85.0",
    sum: "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
    file: "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
};

impl Foreign {
    /// Has the cluster know the kind. A cluster of the user's own is left as it is: false, where it doesn't know it.
    ///
    /// # Errors
    /// When the module can't be had, or the cluster doesn't take the definition.
    pub fn is_known(&self, cluster: &Cluster) -> Result<bool> {
        let found = ["get", "crd", self.definition, "--ignore-not-found"];
        if !cluster.kubectl(&found)?.trim().is_empty() {
            return Ok(true);
        }
        if cluster.name().is_none() {
            wisp_skip::skip(format!(
                "{} are unknown to this cluster, which is your own",
                self.definition
            ));
            return Ok(false);
        }
        let file = self.folder()?.join(self.file);
        let file = file.to_str().context("a path of UTF-8")?;
        cluster.kubectl(&["apply", "--server-side", "--filename", file])?;
        let query = [self.definition, "--all-namespaces"];
        cluster.wait("the kind to be served", &query, PATIENCE, |_| Some(true))
    }

    /// Where the module is in Go's cache.
    fn folder(&self) -> Result<PathBuf> {
        // In no module of ours, whose versions would count.
        let nowhere = tempfile::tempdir()?;
        let output = Command::new("go")
            .args(["mod", "download", "-json", self.module])
            .current_dir(nowhere.path())
            .output()
            .context("cannot start go")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{}: {said}{complaint}",
            self.module
        );
        let found: Value = serde_json::from_str(&said)?;
        let text = |key: &str| found.get(key).and_then(Value::as_str).unwrap_or_default();
        ensure!(
            text("Sum") == self.sum,
            "{} is another than it was: {said}",
            self.module
        );
        Ok(text("Dir").into())
    }
}
