//! What the numbers were measured on.

use std::time::Duration;

use serde::Serialize;

/// For so long it is looked how busy the machine is.
const LOOK: Duration = Duration::from_secs(1);

/// The machine.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// How many cores this process may use.
    pub cores: usize,
    /// Memory in GiB.
    pub memory_gib: f64,
    /// The kernel's release.
    pub kernel: String,
    /// How many cores were busy in the second before the run began: above about 0.2, others worked at the same time. The
    /// load average would tell of what was built for the run.
    pub busy: f64,
}

impl Machine {
    /// This one; takes a second, in which nothing may run that belongs to the bench.
    #[must_use]
    pub fn here() -> Self {
        let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = file("/proc/cpuinfo");
        let processor = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or("unknown", |(_, name)| name);
        let meminfo = file("/proc/meminfo");
        let kib: f64 = meminfo
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next())
            .and_then(|text| text.parse().ok())
            .unwrap_or_default();
        Self {
            processor: processor.to_owned(),
            cores: cores(),
            memory_gib: kib / f64::from(1 << 20),
            kernel: file("/proc/sys/kernel/osrelease").trim().to_owned(),
            busy: busy(),
        }
    }
}

/// How many cores this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn busy() -> f64 {
    let stat = || std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let before = stat();
    std::thread::sleep(LOOK);
    busy_between(&before, &stat()).unwrap_or_default()
}

/// How many cores worked on average between two times, <https://man7.org/linux/man-pages/man5/proc_stat.5.html>. What the
/// hypervisor gave to others counts as work.
fn busy_between(before: &str, after: &str) -> Option<f64> {
    // All ticks, and those in which nothing was to do. What guests took is in the time of the user, too.
    let ticks = |stat: &str| -> Option<(u64, u64)> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let each: Vec<u64> = line
            .split_whitespace()
            .take(8)
            .map_while(|word| word.parse().ok())
            .collect();
        Some((each.iter().sum(), each.iter().skip(3).take(2).sum()))
    };
    let cores = after.lines().filter(|line| {
        let number = line.strip_prefix("cpu");
        number.is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
    });
    let ((all, idle), (all_before, idle_before)) = (ticks(after)?, ticks(before)?);
    let all = all.saturating_sub(all_before);
    let idle = idle.saturating_sub(idle_before);
    (all > 0).then(|| all.saturating_sub(idle) as f64 / all as f64 * cores.count() as f64)
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}, {} cores, {:.0} GiB, Linux {}, {:.2} cores busy before the start",
            self.processor, self.cores, self.memory_gib, self.kernel, self.busy
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if waiting for a disk counted as work, or what a guest took twice.
    #[test]
    fn cores_are_busy_that_are_not_idle() {
        let stat = |user: u64, idle: u64, waiting: u64, stolen: u64| {
            format!(
                "cpu  {user} 0 10 {idle} {waiting} 0 0 {stolen} 7 0\ncpu0 1 0 0 1\ncpu1 1 0 0 1\nintr 5\n"
            )
        };
        let before = stat(100, 1000, 50, 0);
        let busy = busy_between(&before, &stat(130, 1140, 70, 10)).unwrap();
        assert!((busy - 0.4).abs() < 1e-9, "{busy}");
        assert_eq!(busy_between(&before, &before), None);
        assert_eq!(busy_between("", ""), None);
    }
}
