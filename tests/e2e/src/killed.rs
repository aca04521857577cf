//! What happens to parts of a cluster without a warning: they don't answer for a while, or die.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use wisp_cluster::Cluster;

use crate::PATIENCE;
use crate::install::{Installation, NAMESPACE};

/// Parts of a cluster of ours that don't answer, as long as this lives.
pub struct Stopped(Vec<Pid>);

impl Stopped {
    /// Stops the `components`: `apiserver`, `registry`.
    ///
    /// # Errors
    /// When there is none, or the cluster is the user's own.
    pub fn of(cluster: &Cluster, components: &[&str]) -> Result<Self> {
        let status = cluster.drive(&["status"])?;
        let pid = |component: &&str| {
            // etcd                 pid 20835      120 MiB
            let mut lines = status.lines().map(str::split_whitespace);
            let pid = lines.find_map(|mut words| {
                let is_it = words.next() == Some(component) && words.next() == Some("pid");
                is_it.then(|| words.next()?.parse().ok()).flatten()
            });
            pid.and_then(Pid::from_raw)
                .with_context(|| format!("there is no {component} in {status}"))
        };
        let stopped = Self(components.iter().map(pid).collect::<Result<_>>()?);
        for pid in &stopped.0 {
            kill_process(*pid, Signal::STOP)?;
        }
        Ok(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = kill_process(*pid, Signal::CONT);
        }
    }
}

/// The operator that leads.
pub struct Operator {
    cluster: &'static Cluster,
    pod: String,
    process: Option<Pid>,
}

impl Operator {
    /// Finds it.
    ///
    /// # Errors
    /// When none leads.
    pub fn find(wisp: &Installation) -> Result<Self> {
        let pod = wisp.leader(|_| true)?;
        let text = |pointer: &str| pod.pointer(pointer).and_then(|value| value.as_str());
        let uid = text("/metadata/uid").unwrap_or_default();
        Ok(Self {
            cluster: wisp.cluster(),
            pod: text("/metadata/name").unwrap_or_default().to_owned(),
            process: process_of("wisp-operator", uid)?,
        })
    }

    /// Kills it without a warning; on a cluster elsewhere, as quickly as that can be asked for. Another pod takes its place
    /// at once, where its own would be started anew ever more slowly.
    ///
    /// # Errors
    /// When it can't be killed.
    pub fn kill(&self) -> Result<()> {
        if let Some(process) = self.process {
            kill_process(process, Signal::KILL)?;
        }
        let delete = [
            "-n",
            NAMESPACE,
            "delete",
            "pod",
            &self.pod,
            "--force",
            "--grace-period=0",
            "--wait=false",
        ];
        self.cluster.kubectl(&delete).map(drop)
    }
}

/// Kills the host in a function's `pod` without a warning, and waits until it is gone. Returns whether it could be: on a
/// cluster elsewhere it can't.
///
/// # Errors
/// When the processes of this machine can't be read, or it was gone before, or it stays.
pub fn kill_host(pod: &serde_json::Value) -> Result<bool> {
    let uid = pod.pointer("/metadata/uid").and_then(|uid| uid.as_str());
    let uid = uid.context("a pod without a uid")?;
    let Some(process) = process_of("wisp-runtime", uid)? else {
        return Ok(false);
    };
    kill_process(process, Signal::KILL)?;
    let began = Instant::now();
    while process_of("wisp-runtime", uid)? == Some(process) {
        ensure!(began.elapsed() < PATIENCE, "{process:?} doesn't end");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(true)
}

/// The process of `program` in the pod with this uid, where it runs on this machine.
fn process_of(program: &str, uid: &str) -> Result<Option<Pid>> {
    for entry in std::fs::read_dir("/proc")? {
        let folder = entry?.path();
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        if read("comm").trim() == program && read("cgroup").contains(uid) {
            let id = folder
                .file_name()
                .and_then(|name| name.to_str()?.parse().ok());
            return Ok(id.and_then(Pid::from_raw));
        }
    }
    Ok(None)
}
