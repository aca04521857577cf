//! What is done beside everything else: one attempt at a time for each object, and ever less often while it fails. A namespace
//! whose admission webhook is slow, or refuses all, keeps no other waiting.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::live::lock;
use crate::resolver::back_off;

/// What was done isn't done once more before: the watch may not show it yet.
const SHOWN_WITHIN: Duration = Duration::from_secs(1);

/// Attempts of one kind, by what they are made for.
#[derive(Debug)]
pub(crate) struct Attempts<K> {
    all: Mutex<BTreeMap<K, Attempt>>,
    /// The longest pause.
    longest: Duration,
    /// The shortest time from the beginning of one to that of the next, for one object.
    apart: Duration,
}

/// The attempt that is made, or was last.
#[derive(Debug, Default)]
struct Attempt {
    /// A digest of what is to be done.
    what: u64,
    began: Option<Instant>,
    is_going_on: bool,
    failures: u32,
    /// The same isn't done again before.
    not_before: Option<Instant>,
    error: Option<String>,
}

impl<K> Default for Attempts<K> {
    fn default() -> Self {
        Self::pausing(Duration::MAX)
    }
}

impl<K> Attempts<K> {
    /// Those that fail are made again after `longest` at the latest.
    pub(crate) fn pausing(longest: Duration) -> Self {
        Self {
            all: Mutex::default(),
            longest,
            apart: Duration::ZERO,
        }
    }

    /// Those for one object begin `apart` from each other at least. Who asks again then has what is so by then done.
    pub(crate) fn spaced(apart: Duration) -> Self {
        Self {
            apart,
            ..Self::default()
        }
    }
}

impl<K: Ord + Clone> Attempts<K> {
    /// Whether something with the digest `what` is to be done as of `now`; who is told so says how it [ends](Self::end).
    pub(crate) fn begin(&self, key: &K, what: u64, now: Instant) -> bool {
        let mut all = lock(&self.all);
        let attempt = all.entry(key.clone()).or_default();
        let is_same = attempt.what == what;
        let is_soon = attempt
            .began
            .is_some_and(|began| now.saturating_duration_since(began) < self.apart);
        let is_early = is_same && attempt.not_before.is_some_and(|at| now < at);
        if attempt.is_going_on || is_soon || is_early {
            return false;
        }
        attempt.began = Some(now);
        if !is_same {
            // It may be what mends it.
            attempt.failures = 0;
        }
        attempt.what = what;
        attempt.is_going_on = true;
        true
    }

    /// It was done, or it is known why not.
    pub(crate) fn end(&self, key: &K, result: Result<(), String>, now: Instant) {
        self.end_for(key, result, now, Duration::ZERO);
    }

    /// The same; the same isn't done again for `least`, either.
    pub(crate) fn end_for(
        &self,
        key: &K,
        result: Result<(), String>,
        now: Instant,
        least: Duration,
    ) {
        let mut all = lock(&self.all);
        let Some(attempt) = all.get_mut(key) else {
            return;
        };
        attempt.is_going_on = false;
        attempt.error = result.err();
        let (pause, failures) = match &attempt.error {
            Some(_) => (
                back_off(attempt.failures, true).min(self.longest),
                attempt.failures.saturating_add(1),
            ),
            None => (SHOWN_WITHIN, 0),
        };
        attempt.not_before = now.checked_add(pause.max(least));
        attempt.failures = failures;
    }

    /// When the same may be done once more; not where it is being done.
    pub(crate) fn due(&self, key: &K) -> Option<Instant> {
        let all = lock(&self.all);
        all.get(key)
            .filter(|attempt| !attempt.is_going_on)?
            .not_before
    }

    /// Why it could not be done the last time.
    pub(crate) fn error(&self, key: &K) -> Option<String> {
        lock(&self.all).get(key)?.error.clone()
    }

    /// Forgets what is no more.
    pub(crate) fn retain(&self, is_there: impl Fn(&K) -> bool) {
        lock(&self.all).retain(|key, _| is_there(key));
    }
}

/// A digest of what is to be done, by which it is told from something else.
pub(crate) fn digest_of(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if what changes all the time were done each time, or what is so in the end weren't done.
    #[test]
    fn what_changes_often_is_done_now_and_then() {
        let second = Duration::from_secs(1);
        let (attempts, start) = (Attempts::spaced(second), Instant::now());
        let done: Vec<u64> = (0..=25_u64)
            .filter(|tenth| {
                let now = start + second / 10 * u32::try_from(*tenth).unwrap();
                // From the 15th on it is the same.
                let begins = attempts.begin(&"a", (*tenth).min(15), now);
                if begins {
                    attempts.end(&"a", Ok(()), now);
                }
                begins
            })
            .collect();
        assert_eq!(done, [0, 10, 20]);
        assert!(attempts.begin(&"b", 1, start));
    }

    /// Would fail if what fails were tried again and again, or what may mend it waited for its turn, or two tried at once.
    #[test]
    fn what_fails_is_tried_ever_less_often_and_what_is_new_at_once() {
        let (attempts, start) = (Attempts::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let fail = |second| attempts.end(&"a", Err("no".to_owned()), at(second));
        assert!(attempts.begin(&"a", 1, at(0)));
        assert!(!attempts.begin(&"a", 1, at(0)) && !attempts.begin(&"a", 2, at(0)));
        assert!(attempts.begin(&"b", 1, at(0)));
        assert_eq!(attempts.due(&"a"), None, "it goes on");
        fail(0);
        assert_eq!(attempts.due(&"a"), Some(at(1)));
        assert_eq!(attempts.error(&"a").as_deref(), Some("no"));
        assert!(!attempts.begin(&"a", 1, at(0)) && attempts.begin(&"a", 1, at(1)));
        fail(1);
        assert!(!attempts.begin(&"a", 1, at(2)) && attempts.begin(&"a", 1, at(3)));
        fail(3);
        assert!(attempts.begin(&"a", 2, at(3)));
        // The reason is told until it is over.
        assert!(attempts.error(&"a").is_some());
        attempts.end(&"a", Ok(()), at(3));
        assert_eq!(attempts.error(&"a"), None);
        assert!(!attempts.begin(&"a", 2, at(3)) && attempts.begin(&"a", 2, at(4)));
        let asked = Duration::from_secs(9);
        attempts.end_for(&"a", Err("later".to_owned()), at(4), asked);
        assert!(!attempts.begin(&"a", 2, at(12)) && attempts.begin(&"a", 2, at(13)));
        attempts.retain(|key| *key == "b");
        attempts.end(&"a", Err("late".to_owned()), at(4));
        assert_eq!(attempts.error(&"a"), None);
    }
}
