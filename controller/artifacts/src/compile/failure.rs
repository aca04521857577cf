//! What is remembered of a component that can't be prepared: trying may take minutes, for which all others wait.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// How long it isn't tried again after the first failure. Twice as long after each further one.
const FIRST: Duration = Duration::from_secs(60);
/// The longest that it isn't tried again: the machine may have been short of something.
const LONGEST: Duration = Duration::from_secs(3600);

/// The most bytes that are told of why: it may quote names of the component's.
const SENTENCE: usize = 4096;

/// A failure that will come again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    reason: String,
    sentence: String,
    /// How often it came.
    times: u32,
    /// The last time, in seconds since 1970.
    at: u64,
}

impl Failure {
    pub(super) fn of(error: &Error, before: Option<&Self>, now: SystemTime) -> Self {
        Self {
            reason: error.reason().to_owned(),
            sentence: sentence(error),
            times: before.map_or(0, |before| before.times).saturating_add(1),
            at: seconds(now),
        }
    }

    /// Whether it isn't to be tried again yet. A clock that was set back forgets nothing for longer than that.
    pub(super) fn holds(&self, now: SystemTime) -> bool {
        let doublings = self.times.saturating_sub(1);
        let pause = FIRST.saturating_mul(2_u32.saturating_pow(doublings));
        seconds(now)
            .checked_sub(self.at)
            .is_some_and(|since| since < pause.min(LONGEST).as_secs())
    }

    pub(super) fn error(self) -> Error {
        Error::told(&self.reason, self.sentence, false)
    }
}

/// What is told of `error`, and remembered.
pub(super) fn sentence(error: &Error) -> String {
    let mut sentence = error.sentence();
    sentence.truncate(sentence.floor_char_boundary(SENTENCE));
    sentence
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if what can't be prepared were tried again at once, or never again.
    #[test]
    fn what_failed_is_tried_again_ever_less_often() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let after = |seconds| start + Duration::from_secs(seconds);
        let error = Error::OutOfMemory { limit: 1 << 20 };
        let mut failure = Failure::of(&error, None, start);
        for pause in [60, 120, 240, 480, 960, 1920, 3600, 3600] {
            assert!(failure.holds(after(pause - 1)), "{pause}");
            assert!(!failure.holds(after(pause)), "{pause}");
            failure = Failure::of(&error, Some(&failure), start);
        }
        assert!(!failure.holds(start - Duration::from_secs(1)));
        let again = failure.error();
        assert_eq!(again.reason(), error.reason());
        assert_eq!(again.sentence(), error.sentence());
        assert!(!again.is_transient());
    }
}
