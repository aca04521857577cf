//! How many sessions and threads does a model get on the CPU?

use std::num::NonZeroUsize;

/// Copies of a model's weights that sessions may hold together, in bytes of its file.
const COPIES: u64 = 512 << 20;
/// The most sessions of one model.
const SESSIONS: usize = 8;

/// Sessions of one model, and threads of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Sessions, each with a thread and a copy of the weights of its own.
    pub sessions: usize,
    /// Threads that each uses for one operator, its own included. They never spin.
    pub threads: usize,
}

/// Splits `cores` between sessions and their threads.
///
/// One thread per session computes most calls per second, because it never waits for another; more threads per
/// session answer a single call sooner. A model whose calls are joined gets its parallelism from within the batch: one
/// session with all cores, up to eight. Another gets a session per core, at most eight, and no more than hold 512 MiB
/// of weights together; the cores are shared out among them.
#[must_use]
pub fn plan(cores: NonZeroUsize, joined: bool, file_bytes: u64) -> Plan {
    let cores = cores.get();
    let affordable = usize::try_from(COPIES / file_bytes.max(1))
        .unwrap_or(usize::MAX)
        .max(1);
    let sessions = if joined {
        1
    } else {
        cores.min(SESSIONS).min(affordable)
    };
    let threads = (cores / sessions).clamp(1, 8);
    Plan { sessions, threads }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_shared_out() {
        let plan = |cores, joined, mib: u64| {
            let Plan { sessions, threads } =
                super::plan(NonZeroUsize::new(cores).unwrap(), joined, mib << 20);
            (sessions, threads)
        };
        assert_eq!(plan(1, true, 1), (1, 1));
        assert_eq!(plan(4, true, 1), (1, 4));
        assert_eq!(plan(64, true, 1), (1, 8));
        assert_eq!(plan(4, false, 1), (4, 1));
        assert_eq!(plan(16, false, 1), (8, 2));
        assert_eq!(plan(8, false, 256), (2, 4));
        assert_eq!(plan(8, false, 4096), (1, 8));
    }
}
