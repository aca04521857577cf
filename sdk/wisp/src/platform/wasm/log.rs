//! Log lines: `wasi:logging`, and the environment that says how many of them.

use crate::bindings::wasi::logging::logging::{self, Level};
use crate::{init, report};

/// Where `LOG_LEVEL` says nothing.
pub(crate) const DEFAULT_LEVEL: &str = "info";

pub(crate) fn write(level: log::Level, target: &str, message: &str) {
    if init::is_at_build() {
        // Where a component is built there is no host to log to.
        return report::to_stderr(level, message);
    }
    let level = match level {
        log::Level::Error => Level::Error,
        log::Level::Warn => Level::Warn,
        log::Level::Info => Level::Info,
        log::Level::Debug => Level::Debug,
        log::Level::Trace => Level::Trace,
    };
    logging::log(level, target, message);
}

/// One environment variable as it is now. `std::env` won't do: in a pre-initialised component it shows the environment
/// of the build.
pub(crate) fn variable(name: &str) -> Option<String> {
    let variables = wasip2::cli::environment::get_environment();
    variables
        .into_iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value)
}
