//! Log lines with levels, through `wasi:logging`; the host adds the request's id to each.
//!
//! The macros are those of the crate [`log`](https://docs.rs/log):
//!
//! ```
//! use wisp::log;
//!
//! log::info!("{} items", 3);
//! # let logs = wisp::test::logs();
//! # assert_eq!((logs[0].level, logs[0].message.as_str()), (log::Level::Info, "3 items"));
//! ```
//!
//! Whatever logs through the crate `log` arrives too, once one of these macros ran, [`init`] was called, or the
//! function's own crate depends on `log` (the handler's attribute sees that in its Cargo.toml). A function that does none
//! of it doesn't import `wasi:logging`; what the SDK itself has to say goes to standard error then.
//!
//! Lines of an [`#[wisp::init]`](macro@crate::init) that runs at the build go to standard error: there is nobody to log to.
//!
//! The least grave level that is written is the environment variable `LOG_LEVEL`: `off`, `error`, `warn`, `info` (the
//! default), `debug` or `trace`, for what the SDK itself has to say, too; [`set_max_level`] goes before it. In tests everything
//! is captured, whatever the variable says.
//! Where the function has a logger of its own, set before the first line, that keeps its level, too.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

pub use ::log::{Level, LevelFilter, Log, Metadata, Record};

pub use crate::{
    __log_debug as debug, __log_enabled as log_enabled, __log_error as error, __log_info as info,
    __log_trace as trace, __log_warn as warn,
};

use crate::{init as start_up, platform};

/// The environment variable that names the least grave level to write.
///
/// ```
/// assert_eq!(wisp::log::LEVEL, "LOG_LEVEL");
/// ```
pub const LEVEL: &str = "LOG_LEVEL";

const NEVER: u8 = 0;
const AT_BUILD: u8 = 1;
const IN_A_REQUEST: u8 = 2;
/// The function set it: no environment changes that.
const BY_HAND: u8 = 3;

/// When the level was read. A snapshot carries that it was read at the build, and not in a request.
static LEVEL_READ: AtomicU8 = AtomicU8::new(NEVER);

/// Whether the crate `log` has the logger of this module.
static IS_OURS: AtomicBool = AtomicBool::new(false);

/// Makes what is logged through the crate `log` arrive. The macros here do it by themselves, and so does
/// `#[wisp::handler]` in a crate that depends on `log`; needed only where nothing but a dependency logs. It may be called
/// again and again.
///
/// ```
/// wisp::log::init();
/// ```
pub fn init() {
    let now = if start_up::is_at_build() {
        AT_BUILD
    } else {
        IN_A_REQUEST
    };
    if LEVEL_READ.load(Ordering::Relaxed) >= now {
        return;
    }
    LEVEL_READ.store(now, Ordering::Relaxed);
    if ::log::set_logger(&Logger).is_ok() {
        IS_OURS.store(true, Ordering::Relaxed);
    }
    // A logger of the function's own, set before, stays, and so does its level.
    if !IS_OURS.load(Ordering::Relaxed) {
        return;
    }
    match asked_for(platform::log::variable(LEVEL)) {
        Ok(level) => ::log::set_max_level(level),
        Err(level) => {
            ::log::set_max_level(LevelFilter::Info);
            ::log::warn!(
                target: "wisp",
                "{LEVEL} is `{level}`; allowed are off, error, warn, info, debug and trace; taking info"
            );
        }
    }
}

/// The level that the environment gives, or what is there in its place.
fn asked_for(given: Option<String>) -> Result<LevelFilter, String> {
    let level = given.as_deref().unwrap_or(platform::log::DEFAULT_LEVEL);
    level.parse().map_err(|_| given.unwrap_or_default())
}

/// Whether a line of `level` is written where there is no logger to ask.
pub(crate) fn is_asked_for(level: Level) -> bool {
    level <= asked_for(platform::log::variable(LEVEL)).unwrap_or(LevelFilter::Info)
}

/// The least grave level that is written.
///
/// ```
/// assert_eq!(wisp::log::max_level(), wisp::log::LevelFilter::Trace);
/// ```
#[must_use]
pub fn max_level() -> LevelFilter {
    init();
    ::log::max_level()
}

/// Sets the least grave level that is written from now on, whatever `LOG_LEVEL` says.
///
/// ```standalone_crate
/// use wisp::log::{self, Level, LevelFilter};
///
/// log::set_max_level(LevelFilter::Warn);
/// log::info!("3 items");
/// log::warn!("the cache is full");
/// assert!(log::log_enabled!(Level::Warn) && !log::log_enabled!(Level::Info));
/// assert_eq!(wisp::test::logs().len(), 1);
/// ```
pub fn set_max_level(level: LevelFilter) {
    init();
    LEVEL_READ.store(BY_HAND, Ordering::Relaxed);
    ::log::set_max_level(level);
}

/// Whether [`init`] was called.
pub(crate) fn is_ready() -> bool {
    LEVEL_READ.load(Ordering::Relaxed) != NEVER
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= ::log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            match record.args().as_str() {
                Some(text) => platform::log::write(record.level(), record.target(), text),
                None => platform::log::write(
                    record.level(),
                    record.target(),
                    &record.args().to_string(),
                ),
            }
        }
    }

    fn flush(&self) {}
}

/// Logs what failed.
///
/// ```
/// wisp::log::error!("the index is broken");
/// assert_eq!(wisp::test::logs()[0].message, "the index is broken");
/// ```
#[doc(hidden)]
#[macro_export]
macro_rules! __log_error {
    ($($arguments:tt)+) => {{
        $crate::log::init();
        $crate::__private::log::error!($($arguments)+)
    }};
}

/// Logs what somebody should look at soon.
///
/// ```
/// wisp::log::warn!("the cache is full");
/// assert_eq!(wisp::test::logs()[0].message, "the cache is full");
/// ```
#[doc(hidden)]
#[macro_export]
macro_rules! __log_warn {
    ($($arguments:tt)+) => {{
        $crate::log::init();
        $crate::__private::log::warn!($($arguments)+)
    }};
}

/// Logs what is worth knowing.
///
/// ```
/// wisp::log::info!("3 items");
/// assert_eq!(wisp::test::logs()[0].message, "3 items");
/// ```
#[doc(hidden)]
#[macro_export]
macro_rules! __log_info {
    ($($arguments:tt)+) => {{
        $crate::log::init();
        $crate::__private::log::info!($($arguments)+)
    }};
}

/// Logs what helps whoever looks for a mistake.
///
/// ```
/// wisp::log::debug!("cache miss");
/// assert_eq!(wisp::test::logs()[0].message, "cache miss");
/// ```
#[doc(hidden)]
#[macro_export]
macro_rules! __log_debug {
    ($($arguments:tt)+) => {{
        $crate::log::init();
        $crate::__private::log::debug!($($arguments)+)
    }};
}

/// Logs every step.
///
/// ```
/// wisp::log::trace!("parsed");
/// assert_eq!(wisp::test::logs()[0].message, "parsed");
/// ```
#[doc(hidden)]
#[macro_export]
macro_rules! __log_trace {
    ($($arguments:tt)+) => {{
        $crate::log::init();
        $crate::__private::log::trace!($($arguments)+)
    }};
}

/// Whether lines of a level are written: `log_enabled!(Level::Debug)`, for what is costly to compute.
///
/// ```
/// use wisp::log::{self, Level};
///
/// assert!(log::log_enabled!(Level::Debug));
/// assert!(log::log_enabled!(target: "cache", Level::Debug));
/// ```
#[doc(hidden)]
#[macro_export]
macro_rules! __log_enabled {
    ($($arguments:tt)+) => {{
        $crate::log::init();
        $crate::__private::log::log_enabled!($($arguments)+)
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if a word that is none silenced a function, or a level weren't what the guide says.
    #[test]
    fn the_environment_says_what_is_written() {
        let asked = |given: &str| asked_for(Some(given.to_owned()));
        assert_eq!(asked("off"), Ok(LevelFilter::Off));
        assert_eq!(asked("Warn"), Ok(LevelFilter::Warn));
        assert_eq!(asked("loud"), Err("loud".to_owned()));
        assert!(is_asked_for(Level::Trace), "tests see everything");
    }
}
