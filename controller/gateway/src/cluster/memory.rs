//! How much of this container's memory may requests that wait hold?

use wisp_gateway::DEFAULT_QUEUE_MEMORY;

/// Where the kernel tells what this container may have (cgroup v2).
const LIMIT: &str = "/sys/fs/cgroup/memory.max";

/// What they may hold, where nobody says.
pub(crate) fn share_of_memory() -> u64 {
    share(std::fs::read_to_string(LIMIT).ok().as_deref())
}

/// A quarter: connections, and requests on their way, need the rest.
fn share(limit: Option<&str>) -> u64 {
    let limit: Option<u64> = limit.and_then(|limit| limit.trim().parse().ok());
    limit.map_or(DEFAULT_QUEUE_MEMORY, |limit| limit / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if requests that wait could take all of a container's memory, which would end the gateway.
    #[test]
    fn those_who_wait_leave_the_gateway_some_memory() {
        assert_eq!(share(Some("536870912\n")), 128 << 20);
        for none in [None, Some("max\n"), Some("")] {
            assert_eq!(share(none), 128 << 20, "{none:?}");
        }
    }
}
