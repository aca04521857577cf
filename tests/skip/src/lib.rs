//! What a test does that lacks what it needs: it says so and passes, but where CI runs it, it fails. A check that was
//! skipped unnoticed would be worse than none.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::path::PathBuf;

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

/// The folder that `cargo xtask` keeps what tests need in: `$WISP_CACHE`, else `$XDG_CACHE_HOME/wisp`, else
/// `~/.cache/wisp`. It is absolute: processes that are told of it run in other folders. None where no variable says one.
#[must_use]
pub fn cache() -> Option<PathBuf> {
    let folder = cache_by(|name| std::env::var_os(name))?;
    Some(std::path::absolute(&folder).unwrap_or(folder))
}

fn cache_by(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let given = |name: &str| {
        variable(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    given("WISP_CACHE")
        .or_else(|| given("XDG_CACHE_HOME").map(|base| base.join("wisp")))
        .or_else(|| given("HOME").map(|home| home.join(".cache/wisp")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if an empty variable were taken for a folder, or one that says less for one that says more.
    #[test]
    fn the_cache_is_where_the_first_variable_says_that_is_not_empty() {
        let cache = |set: &[(&str, &str)]| {
            cache_by(|name| {
                let (_, value) = set.iter().find(|(other, _)| *other == name)?;
                Some(value.into())
            })
        };
        let (home, xdg) = (("HOME", "/h"), ("XDG_CACHE_HOME", "/x"));
        let cases = [
            (vec![home, xdg, ("WISP_CACHE", "/w")], Some("/w")),
            (vec![home, xdg, ("WISP_CACHE", "")], Some("/x/wisp")),
            (vec![home, ("XDG_CACHE_HOME", "")], Some("/h/.cache/wisp")),
            (vec![("HOME", "")], None),
        ];
        for (set, folder) in cases {
            assert_eq!(cache(&set), folder.map(PathBuf::from), "{set:?}");
        }
    }

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
