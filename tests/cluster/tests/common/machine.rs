//! What of a cluster is on this machine? Other clusters may come and go beside it; theirs is not counted.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// What kubelets and kube-proxies like to set.
const SETTINGS: [&str; 8] = [
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "net/ipv4/ip_forward",
    "net/netfilter/nf_conntrack_max",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
];

/// The record that a cluster keeps of itself.
pub(crate) struct Record(Value);

impl Record {
    /// That of the cluster called `name`.
    pub(crate) fn read(name: &str) -> Result<Record> {
        let path = states()?.join(name).join("state.json");
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Record(serde_json::from_str(&text)?))
    }

    /// Those of all clusters but `name`, as far as they stay while they are read.
    fn others(name: &str) -> Result<Vec<Record>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(states()?)? {
            let file = entry?.file_name();
            let other = file.to_string_lossy();
            if other != name {
                found.extend(Record::read(&other));
            }
        }
        Ok(found)
    }

    fn text(&self, pointer: &str) -> String {
        match self.0.pointer(pointer) {
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            None => String::new(),
        }
    }

    /// Whether `up` came to its end.
    pub(crate) fn is_ready(&self) -> bool {
        self.text("/ready") == "true"
    }

    /// What all addresses of the cluster start with.
    pub(crate) fn network(&self) -> String {
        let slot: u32 = self.text("/layout/slot").parse().unwrap_or_default();
        format!("10.{}.", 200 + slot)
    }

    /// Its network interface on the machine.
    pub(crate) fn link(&self) -> String {
        format!("wisp{}", self.text("/layout/slot"))
    }

    /// What its cgroups start with.
    pub(crate) fn cgroup(&self) -> String {
        format!("{}-{}-node", self.link(), self.text("/layout/name"))
    }

    /// The processes that hold its namespaces.
    pub(crate) fn anchors(&self) -> Vec<String> {
        let anchors = self.0.pointer("/anchors").and_then(Value::as_object);
        anchors
            .into_iter()
            .flat_map(|anchors| anchors.values())
            .filter_map(|anchor| Some(anchor.pointer("/outside/pid")?.to_string()))
            .collect()
    }

    fn owns_line(&self, line: &str) -> bool {
        let link = self.link();
        line.contains(&self.network())
            || line.contains(&self.cgroup())
            || line
                .split(|character: char| !character.is_ascii_alphanumeric())
                .any(|word| word == link)
    }

    /// Whether the process whose folder in /proc is `process` belongs to the cluster: by its mark, its cgroup or its pid
    /// namespace.
    fn owns_process(&self, process: &Path) -> bool {
        let mark = format!("WISP_CLUSTER_PART={}/", self.text("/id"));
        let environment = fs::read(process.join("environ")).unwrap_or_default();
        let is_marked = environment
            .split(|byte| *byte == 0)
            .any(|entry| entry.starts_with(mark.as_bytes()));
        let cgroups = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
        let namespace = fs::read_link(process.join("ns/pid")).unwrap_or_default();
        let is_inside = self
            .0
            .pointer("/anchors")
            .is_some_and(|anchors| anchors.to_string().contains(&*namespace.to_string_lossy()))
            && namespace.as_os_str() != "";
        is_marked || is_inside || cgroups.contains(&self.cgroup())
    }

    /// Its processes.
    pub(crate) fn processes(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for process in processes()? {
            if self.owns_process(&process) {
                found.push(describe(&process));
            }
        }
        Ok(found)
    }
}

/// What clusters could leave behind on this machine, as lines: mounts, links, routes, rules, filters, namespaces, cgroups,
/// files and processes. What belongs to other clusters than `name` is left out.
pub(crate) fn snapshot(name: &str) -> Result<BTreeSet<String>> {
    let mut others = Record::others(name)?;
    let mut lines = BTreeSet::new();
    let mut add =
        |kind: &str, text: String| lines.extend(text.lines().map(|line| format!("{kind}: {line}")));
    add("mount", fs::read_to_string("/proc/self/mountinfo")?);
    add("link", run("ip", &["-brief", "link"])?);
    add("address", run("ip", &["-brief", "address"])?);
    add("route", run("ip", &["route", "show", "table", "all"])?);
    add("rule", run("ip", &["rule"])?);
    add("table", run("nft", &["list", "tables"])?);
    add("netns", run("ip", &["netns"])?);
    add(
        "cgroup",
        run(
            "find",
            &["/sys/fs/cgroup", "-ignore_readdir_race", "-type", "d"],
        )?,
    );
    for setting in SETTINGS {
        let value = fs::read_to_string(Path::new("/proc/sys").join(setting)).unwrap_or_default();
        add("setting", format!("{setting} {value}"));
    }
    for folder in [
        "/etc",
        "/etc/cni",
        "/opt",
        "/run",
        "/var/lib",
        "/var/log",
        "/var/run/netns",
    ] {
        let list = format!("ls -A {folder} 2>/dev/null || true");
        add(folder, run("sh", &["-c", &list])?);
    }
    let programs = wisp_cluster::cache()?.join("cluster");
    let mut started = Vec::new();
    for process in processes()? {
        // Clients are of whoever asks, and end by themselves.
        let is_program = fs::read_link(process.join("exe")).is_ok_and(|exe| {
            exe.starts_with(&programs) && !exe.ends_with("kubectl") && !exe.ends_with("helm")
        });
        if is_program {
            started.push(process);
        }
    }
    // Again: a cluster writes its record before it takes anything.
    others.extend(Record::others(name)?);
    started.retain(|process| !others.iter().any(|other| other.owns_process(process)));
    // What ended since has no environment any more, by which it would have been another cluster's.
    started.retain(|process| fs::read_link(process.join("exe")).is_ok());
    lines.extend(started.iter().map(|process| describe(process)));
    lines.retain(|line| {
        !line.contains("wisp_test_")
            && !line.contains("/process_api/")
            && !others.iter().any(|other| other.owns_line(line))
    });
    Ok(lines)
}

/// Fails with what is in only one of two snapshots.
pub(crate) fn ensure_same(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Result<()> {
    let left: Vec<&String> = after.difference(before).collect();
    let gone: Vec<&String> = before.difference(after).collect();
    ensure!(
        left.is_empty() && gone.is_empty(),
        "left behind: {left:#?}\ngone: {gone:#?}"
    );
    Ok(())
}

fn states() -> Result<PathBuf> {
    Ok(wisp_cluster::cache()?.join("cluster/state"))
}

/// All processes of the machine but the kernel's own, by their folders in /proc.
fn processes() -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        // A process that ended has no program any more, even while its parent has not asked for its end.
        let is_numbered = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().parse::<u32>().is_ok());
        if is_numbered && fs::read_link(path.join("exe")).is_ok() {
            found.push(path);
        }
    }
    Ok(found)
}

fn describe(process: &Path) -> String {
    let program = fs::read_link(process.join("exe")).unwrap_or_default();
    format!("process: {} {}", process.display(), program.display())
}

fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| program.to_owned())?;
    ensure!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
