//! File descriptors: one for each client, and one for the replica that answers it.

use std::num::NonZeroU32;

/// What the process has open beside: sockets that listen, watches, the operator, log lines.
const OTHERS: u64 = 256;

/// Has the process open as many files as it may, and gives how many connections of clients that is enough for, `wanted` at the
/// most: a gateway without descriptors can't reach replicas, either, which isn't their fault.
pub(crate) fn connections(wanted: NonZeroU32) -> NonZeroU32 {
    let files = wisp_places::open_files();
    let found = enough_for(files, wanted);
    if found < wanted {
        tracing::warn!(%wanted, most = %found, ?files, "fewer connections are taken than wanted: the limit of open files is too low");
    }
    found
}

fn enough_for(files: Option<u64>, wanted: NonZeroU32) -> NonZeroU32 {
    let Some(files) = files else { return wanted };
    let most = u32::try_from(files.saturating_sub(OTHERS) / 2).unwrap_or(u32::MAX);
    wanted.min(NonZeroU32::new(most).unwrap_or(NonZeroU32::MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if clients were let in for whom no replica can be reached.
    #[test]
    fn each_connection_has_two_files() {
        let enough = |files| enough_for(files, NonZeroU32::new(10_000).unwrap()).get();
        assert_eq!(enough(None), 10_000);
        assert_eq!(enough(Some(1 << 20)), 10_000);
        assert_eq!(enough(Some(1024)), 384);
        assert_eq!(enough(Some(3)), 1);
    }
}
