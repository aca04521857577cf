//! Log lines: captured for the test, and shown where it fails.

use crate::test::LogLine;
use crate::test::fakes;

/// Tests see everything.
pub(crate) const DEFAULT_LEVEL: &str = "trace";

pub(crate) fn write(level: log::Level, target: &str, message: &str) {
    eprintln!("{level} {target}: {message}");
    let line = LogLine {
        level,
        target: target.to_owned(),
        message: message.to_owned(),
    };
    fakes::with(|fakes| fakes.logs.push(line));
}

/// The environment doesn't change what a test sees.
pub(crate) fn variable(_name: &str) -> Option<String> {
    None
}
