//! How does each node get a cgroup of its own? The kubelets' pods live below it; on a shared root, two kubelets would
//! kill each other's pods as orphans.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::Process;

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    pub(crate) root: PathBuf,
    pub(crate) version: u8,
}

/// The hierarchies that are mounted; with controllers in version 1, version 2 stands beside them without any.
pub(crate) fn hierarchies() -> Vec<Hierarchy> {
    parse(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
}

fn parse(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else {
            continue;
        };
        let version = match after.split(' ').next() {
            Some("cgroup") => 1,
            Some("cgroup2") => 2,
            _ => continue,
        };
        if let Some(root) = before.split(' ').nth(4)
            && !found
                .iter()
                .any(|hierarchy| hierarchy.root == Path::new(root))
        {
            found.push(Hierarchy {
                root: root.into(),
                version,
            });
        }
    }
    found
}

/// Makes the cgroup `name` in every hierarchy.
pub(crate) fn make(name: &str) -> Result<()> {
    let hierarchies = hierarchies();
    let only_v2 = hierarchies.iter().all(|hierarchy| hierarchy.version == 2);
    for hierarchy in hierarchies {
        let folder = hierarchy.root.join(name);
        if let Err(error) = fs::create_dir(&folder)
            && error.kind() != ErrorKind::AlreadyExists
        {
            return Err(error)
                .with_context(|| format!("cannot make the cgroup {}", folder.display()));
        }
        if hierarchy.version == 1 {
            // A new cpuset starts empty, and no process may enter an empty one.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let from = hierarchy.root.join(file);
                if from.exists() {
                    fs::write(folder.join(file), fs::read(&from)?)?;
                }
            }
        } else if only_v2 {
            delegate(&hierarchy.root)?;
            delegate(&folder)?;
        }
    }
    Ok(())
}

/// Hands all controllers of a version 2 cgroup to its children.
fn delegate(folder: &Path) -> Result<()> {
    let controllers = fs::read_to_string(folder.join("cgroup.controllers"))?;
    for controller in controllers.split_whitespace() {
        let file = folder.join("cgroup.subtree_control");
        fs::write(&file, format!("+{controller}"))
            .with_context(|| format!("cannot hand {controller} down in {}", file.display()))?;
    }
    Ok(())
}

/// The processes in the cgroup `name` and below it, in every hierarchy.
pub(crate) fn processes(name: &str) -> Vec<Process> {
    let mut found = Vec::new();
    for hierarchy in hierarchies() {
        collect(&hierarchy.root.join(name), &mut found);
    }
    found.sort();
    found.dedup();
    found
}

fn collect(folder: &Path, found: &mut Vec<Process>) {
    let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    found.extend(
        text.lines()
            .filter_map(|line| line.parse().ok())
            .filter_map(Process::of),
    );
    for child in children(folder) {
        collect(&child, found);
    }
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Removes the cgroup `name` with all below it from every hierarchy, once nothing runs in it any more.
///
/// # Errors
/// When something still stands in it after five seconds.
pub(crate) fn remove(name: &str) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(5);
    for hierarchy in hierarchies() {
        let folder = hierarchy.root.join(name);
        while folder.exists() && !remove_tree(&folder) {
            if Instant::now() > end {
                let left: Vec<String> = processes(name)
                    .iter()
                    .map(|p| format!("{} ({})", p.pid, p.name()))
                    .collect();
                bail!(
                    "the cgroup {} cannot be removed; in it: {}",
                    folder.display(),
                    left.join(", ")
                );
            }
            sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}

fn remove_tree(folder: &Path) -> bool {
    // Every child is tried, even after one failed.
    let below = children(folder)
        .iter()
        .filter(|child| !remove_tree(child))
        .count();
    below == 0 && fs::remove_dir(folder).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_versions_are_seen_once() {
        let mountinfo = "\
30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
33 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
        let expected = [
            Hierarchy {
                root: "/sys/fs/cgroup/cpu,cpuacct".into(),
                version: 1,
            },
            Hierarchy {
                root: "/sys/fs/cgroup/unified".into(),
                version: 2,
            },
        ];
        assert_eq!(parse(mountinfo), expected);
    }
}
