//! What is written to the cluster beside everything else: one write at a time for each object, and ever less often while it
//! fails. A namespace whose admission webhook is slow, or refuses all, keeps no other waiting.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::live::lock;
use crate::resolver::pause;

/// What was written isn't written once more before: the watch may not show it yet.
const SHOWN_WITHIN: Duration = Duration::from_secs(1);

/// Writes of one kind, by what is written.
#[derive(Debug)]
pub(super) struct Writes<K>(Mutex<BTreeMap<K, Write>>);

/// What became of writing one object.
#[derive(Debug, Default)]
struct Write {
    /// A digest of what is written, or was last.
    what: u64,
    is_going_on: bool,
    failures: u32,
    /// The same isn't written again before.
    not_before: Option<Instant>,
    error: Option<String>,
}

impl<K> Default for Writes<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord + Clone> Writes<K> {
    /// Whether something with the digest `what` is to be written as of `now`; who is told so says how it [ends](Self::end).
    pub(super) fn begin(&self, key: &K, what: u64, now: Instant) -> bool {
        let mut all = lock(&self.0);
        let write = all.entry(key.clone()).or_default();
        let is_same = write.what == what;
        if write.is_going_on || (is_same && write.not_before.is_some_and(|at| now < at)) {
            return false;
        }
        if !is_same {
            // It may be what mends it.
            write.failures = 0;
        }
        write.what = what;
        write.is_going_on = true;
        true
    }

    /// It was written, or it is known why not.
    pub(super) fn end(&self, key: &K, result: Result<(), String>, now: Instant) {
        let mut all = lock(&self.0);
        let Some(write) = all.get_mut(key) else {
            return;
        };
        write.is_going_on = false;
        write.error = result.err();
        let pause = match &write.error {
            Some(_) => pause(write.failures, true),
            None => SHOWN_WITHIN,
        };
        write.not_before = now.checked_add(pause);
        write.failures = match &write.error {
            Some(_) => write.failures.saturating_add(1),
            None => 0,
        };
    }

    /// Why it could not be written the last time.
    pub(super) fn error(&self, key: &K) -> Option<String> {
        lock(&self.0).get(key)?.error.clone()
    }

    /// Forgets what is no more.
    pub(super) fn retain(&self, is_there: impl Fn(&K) -> bool) {
        lock(&self.0).retain(|key, _| is_there(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if what fails were written again and again, or what may mend it waited for its turn, or two wrote at once.
    #[test]
    fn what_fails_is_written_ever_less_often_and_what_is_new_at_once() {
        let (writes, start) = (Writes::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let fail = |second| writes.end(&"a", Err("no".to_owned()), at(second));
        assert!(writes.begin(&"a", 1, at(0)));
        assert!(!writes.begin(&"a", 1, at(0)) && !writes.begin(&"a", 2, at(0)));
        assert!(writes.begin(&"b", 1, at(0)));
        fail(0);
        assert_eq!(writes.error(&"a").as_deref(), Some("no"));
        assert!(!writes.begin(&"a", 1, at(0)) && writes.begin(&"a", 1, at(1)));
        fail(1);
        assert!(!writes.begin(&"a", 1, at(2)) && writes.begin(&"a", 1, at(3)));
        fail(3);
        assert!(writes.begin(&"a", 2, at(3)));
        // The reason is told until it is over.
        assert!(writes.error(&"a").is_some());
        writes.end(&"a", Ok(()), at(3));
        assert_eq!(writes.error(&"a"), None);
        assert!(!writes.begin(&"a", 2, at(3)) && writes.begin(&"a", 2, at(4)));
        writes.retain(|key| *key == "b");
        writes.end(&"a", Err("late".to_owned()), at(4));
        assert_eq!(writes.error(&"a"), None);
    }
}
