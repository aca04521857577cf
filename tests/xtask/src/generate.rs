//! Files that follow from other files: the CRDs from the Rust types, the chart's copies of them, and the manifest of an
//! installation without Helm from the chart.

use std::fs;

use anyhow::{Context, Result};

use crate::build;
use crate::command::{command, output, workspace};

/// Where `kubectl apply -f deploy/install.yaml` installs.
const NAMESPACE: &str = "wisp-system";

/// Writes them.
pub(crate) fn run() -> Result<()> {
    build::control_plane()?;
    let generator = build::target()?.join("debug/crdgen");
    for name in ["function", "runtimepool"] {
        let crd = output(command(&generator).arg(name))?;
        write(&format!("deploy/crd/{name}.yaml"), &crd)?;
        write(&format!("deploy/chart/crds/{name}.yaml"), &crd)?;
    }
    let chart = output(
        command(wisp_cluster::helm()?)
            .args([
                "template",
                "wisp",
                "deploy/chart",
                "--include-crds",
                "--namespace",
            ])
            .arg(NAMESPACE),
    )?;
    let manifest = format!(
        "# wisp, with the default values of the chart: kubectl apply --server-side -f deploy/install.yaml\n\
         # Made by `cargo xtask generate` from deploy/chart.\n\
         apiVersion: v1\n\
         kind: Namespace\n\
         metadata:\n  \
           name: {NAMESPACE}\n  \
           labels: {{pod-security.kubernetes.io/enforce: restricted}}\n\
         {chart}"
    );
    write("deploy/install.yaml", &manifest)
}

fn write(path: &str, text: &str) -> Result<()> {
    // No editor's or linter's complaint about what a template left behind.
    let tidy: String = text
        .lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect();
    fs::write(workspace().join(path), tidy).with_context(|| format!("cannot write {path}"))
}
