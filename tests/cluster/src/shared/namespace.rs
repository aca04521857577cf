//! What does a test have of a cluster? A namespace of its own, that is deleted when the test is done with it.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::Cluster;
use super::forward::Forward;
use crate::control::PATIENCE;
use crate::wait::{Objects, wait};
use crate::{files, shell};

/// A namespace of one test. It is deleted when this is dropped; when the test panics, what was in it is kept first.
pub struct Namespace<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl<'a> Namespace<'a> {
    pub(crate) fn create(
        cluster: &'a Cluster,
        hint: &str,
        security: &str,
    ) -> Result<Namespace<'a>> {
        let random = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        let name = format!("{hint}-{}", random.get(..8).unwrap_or("0"));
        let manifest = serde_json::json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": {
                "pod-security.kubernetes.io/enforce": security, "wisp.test/run": "true",
            }},
        });
        cluster.kubectl.apply_unchecked(&manifest.to_string())?;
        let namespace = Namespace { cluster, name };
        // Pods are refused until their service account is there.
        namespace.wait(
            "the default service account",
            &["serviceaccounts"],
            PATIENCE,
            |objects| objects.contains_key("default").then_some(()),
        )?;
        Ok(namespace)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs kubectl in this namespace and gives its output.
    ///
    /// # Errors
    /// When kubectl does not succeed; with what it said.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        shell::run(
            self.cluster
                .kubectl
                .command()
                .args(["--namespace", &self.name])
                .args(arguments),
        )
    }

    /// A port of this machine that leads to `port` of `target` in this namespace, such as `service/web`; it works in every
    /// cluster, for one pod and until that pod is gone.
    ///
    /// # Errors
    /// When there is no such target, or none of its pods runs.
    pub fn forward(&self, target: &str, port: u16) -> Result<Forward> {
        let mut kubectl = self.cluster.kubectl.command();
        kubectl.args(["--namespace", &self.name]);
        Forward::open(kubectl, target, port)
    }

    /// Applies manifests to this namespace.
    ///
    /// # Errors
    /// When the API server refuses one; with its reason.
    pub fn apply(&self, manifests: &str) -> Result<String> {
        self.cluster.kubectl.apply(manifests, Some(&self.name))
    }

    /// Waits until `seen` gives something for the objects that `kubectl get QUERY` in this namespace finds. `what` says
    /// what is waited for.
    ///
    /// # Errors
    /// When `limit` has passed; with `what`, the objects as they were last, and the namespace's last events.
    pub fn wait<T>(
        &self,
        what: &str,
        query: &[&str],
        limit: Duration,
        seen: impl FnMut(&Objects) -> Option<T>,
    ) -> Result<T> {
        wait(
            &self.cluster.kubectl,
            Some(&self.name),
            what,
            query,
            limit,
            seen,
        )
    }

    /// Waits until all replicas of a Deployment are available.
    ///
    /// # Errors
    /// As [`Namespace::wait`].
    pub fn wait_available(&self, deployment: &str, limit: Duration) -> Result<()> {
        self.wait(
            &format!("deployment {deployment} to be available"),
            &["deployments"],
            limit,
            |objects| {
                let object = objects.get(deployment)?;
                let wanted = object.pointer("/spec/replicas")?.as_u64()?;
                let number = |path: &str| object.pointer(path).and_then(Value::as_u64).unwrap_or(0);
                let current =
                    number("/status/observedGeneration") >= number("/metadata/generation");
                let all = number("/status/updatedReplicas") == wanted
                    && number("/status/availableReplicas") == wanted;
                (current && all && number("/status/replicas") == wanted).then_some(())
            },
        )
    }

    /// Keeps what is in this namespace, and the cluster's logs, in a folder, and gives that.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn keep(&self) -> Result<String> {
        let folder = files::repository()
            .join("target/cluster-failures")
            .join(&self.name);
        fs::create_dir_all(&folder)?;
        let put = |file: &str, arguments: &[&str]| {
            let text = self
                .kubectl(arguments)
                .unwrap_or_else(|error| format!("{error:#}"));
            fs::write(folder.join(file), text)
        };
        put(
            "objects.yaml",
            &[
                "get",
                "all,configmaps,persistentvolumeclaims,endpointslices",
                "--output=yaml",
            ],
        )?;
        put("pods.txt", &["describe", "pods"])?;
        put(
            "events.txt",
            &["get", "events", "--sort-by=.metadata.creationTimestamp"],
        )?;
        let pods = self
            .kubectl(&["get", "pods", "--output=name"])
            .unwrap_or_default();
        for pod in pods.lines() {
            let file = format!("{}.log", pod.replace('/', "-"));
            put(&file, &["logs", pod, "--all-containers", "--prefix"])?;
        }
        self.cluster
            .keep_component_logs(&folder.join("components"))?;
        Ok(folder.display().to_string())
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            match self.keep() {
                Ok(folder) => eprintln!("what was in {} is kept in {folder}", self.name),
                Err(error) => eprintln!("what was in {} could not be kept: {error:#}", self.name),
            }
        }
        if let Err(error) =
            self.cluster
                .kubectl
                .run(["delete", "namespace", &self.name, "--wait=false"])
        {
            eprintln!("namespace {} is left behind: {error:#}", self.name);
        }
    }
}
