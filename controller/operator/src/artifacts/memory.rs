//! How much of this container's memory may preparing one component take?

/// Where the kernel tells what this container may have (cgroup v2).
const LIMIT: &str = "/sys/fs/cgroup/memory.max";
/// Where it has no limit.
const WITHOUT: u64 = 1280 << 20;

/// What a process that prepares a component may have, where nobody says.
pub(crate) fn share_of_memory() -> u64 {
    share(std::fs::read_to_string(LIMIT).ok().as_deref())
}

/// Five eighths: 1280 of 2048 MiB. The operator itself has the rest, and with it the pages of files that are written.
fn share(limit: Option<&str>) -> u64 {
    let limit: Option<u64> = limit.and_then(|limit| limit.trim().parse().ok());
    limit.map_or(WITHOUT, |limit| limit / 8 * 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if a component could take all of a container's memory, which would end the operator.
    #[test]
    fn preparing_leaves_the_operator_some_memory() {
        assert_eq!(share(Some("2147483648\n")), 1280 << 20);
        assert_eq!(share(Some("536870912\n")), 320 << 20);
        for none in [None, Some("max\n"), Some("")] {
            assert_eq!(share(none), 1280 << 20, "{none:?}");
        }
    }
}
