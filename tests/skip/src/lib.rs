//! What a test does that lacks what it needs: it says so and passes, but where CI runs it, it fails. A check that was
//! skipped unnoticed would be worse than none.

use std::ffi::OsStr;
use std::fmt::Display;

/// Whether CI runs this: `CI` is set, and is none of the empty text, `false` and `0`.
#[must_use]
pub fn is_ci() -> bool {
    means_ci(std::env::var_os("CI").as_deref())
}

fn means_ci(value: Option<&OsStr>) -> bool {
    value.is_some_and(|value| ["", "false", "0"].iter().all(|no| value != *no))
}

/// Says that a test, or the rest of one, is skipped, and `why`: what is missing, and how it is had.
///
/// What can't be had is told by hand instead: a GPU where there is none, or what another kind of processor has.
///
/// # Panics
/// Where CI runs it: there nothing may be missing.
#[track_caller]
pub fn skip(why: impl Display) {
    assert!(!is_ci(), "CI skips nothing: {why}");
    eprintln!("skipped: {why}");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if a way to say that this is CI were taken for none, and tests were skipped there.
    #[test]
    fn ci_is_whatever_does_not_say_no() {
        let means = |value: &str| means_ci(Some(OsStr::new(value)));
        assert!(
            ["true", "1", "yes", "True", "woodpecker"]
                .into_iter()
                .all(means)
        );
        assert!(!["", "false", "0"].into_iter().any(means));
        assert!(!means_ci(None));
    }
}
