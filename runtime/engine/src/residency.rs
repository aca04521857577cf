//! May freed pool slots keep their pages?
//!
//! Resetting a slot in place, with the kernel's list of its dirty pages (`PAGEMAP_SCAN`), halves the cost of a fresh
//! instance. But pages that were swapped out are missing from that list, so the next instance could read what the last
//! one wrote: where memory may be swapped, slots are given back to the kernel instead.

use std::path::Path;

use wasmtime::PoolingAllocationConfig;

/// Whether dirty pages can be found by `PAGEMAP_SCAN` and none of this process' memory can be swapped out.
pub(crate) fn may_keep_pages() -> bool {
    PoolingAllocationConfig::is_pagemap_scan_available() && !may_swap(Path::new("/"))
}

/// Whether the kernel below `root` has swap that this process may use. Unreadable files count as "yes".
fn may_swap(root: &Path) -> bool {
    let Ok(swaps) = std::fs::read_to_string(root.join("proc/swaps")) else {
        return true;
    };
    // The first line is a heading.
    let areas = swaps.lines().skip(1).any(|line| !line.trim().is_empty());
    areas && !cgroup_forbids_swap(root)
}

/// Whether this process' cgroup, or one above it, has `memory.swap.max` 0.
fn cgroup_forbids_swap(root: &Path) -> bool {
    let Ok(groups) = std::fs::read_to_string(root.join("proc/self/cgroup")) else {
        return false;
    };
    // cgroup v2 has one line, `0::/path`.
    let Some(path) = groups.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return false;
    };
    let mount = root.join("sys/fs/cgroup");
    let group = mount.join(path);
    group
        .ancestors()
        .take_while(|directory| directory.starts_with(&mount))
        .filter_map(|directory| std::fs::read_to_string(directory.join("memory.swap.max")).ok())
        .any(|limit| limit.trim() == "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADING: &str = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";

    fn machine(swaps: &str, limits: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("proc/self")).unwrap();
        std::fs::write(root.path().join("proc/swaps"), swaps).unwrap();
        std::fs::write(root.path().join("proc/self/cgroup"), "0::/pods/one\n").unwrap();
        for (group, limit) in limits {
            let group = root.path().join("sys/fs/cgroup").join(group);
            std::fs::create_dir_all(&group).unwrap();
            std::fs::write(group.join("memory.swap.max"), limit).unwrap();
        }
        root
    }

    #[test]
    fn pages_may_be_swapped_only_where_there_is_swap_and_no_group_forbids_it() {
        let swap = format!("{HEADING}/dev/sda2 partition 1000 0 -2\n");
        assert!(!may_swap(machine(HEADING, &[]).path()));
        assert!(may_swap(machine(&swap, &[]).path()));
        assert!(may_swap(
            machine(&swap, &[("pods/one", "max\n"), ("pods", "4096\n")]).path()
        ));
        assert!(!may_swap(machine(&swap, &[("pods/one", "0\n")]).path()));
        assert!(!may_swap(
            machine(&swap, &[("pods/one", "max\n"), ("pods", "0\n")]).path()
        ));
    }

    #[test]
    fn what_cannot_be_read_counts_as_swap() {
        assert!(may_swap(tempfile::tempdir().unwrap().path()));
    }
}
