//! What the SDK itself has to say: to the log where the function has one, else to standard error.

/// Writes one line of level error.
pub(crate) fn error(message: &str) {
    write(::log::Level::Error, message);
}

/// Writes one line, where lines of its level are.
pub(crate) fn write(level: ::log::Level, message: &str) {
    if crate::log::is_ready() {
        ::log::log!(target: "wisp", level, "{message}");
    } else if crate::log::is_asked_for(level) {
        to_stderr(level, message);
    }
}

/// Writes one line to standard error.
pub(crate) fn to_stderr(level: ::log::Level, message: &str) {
    let line = format!("{}: {message}\n", level.as_str().to_ascii_lowercase());
    write_raw(line.as_bytes());
}

/// Opens standard error for this line only: the standard library's stays open for good, and a component that is
/// pre-initialised may hold nothing of the host's when `#[wisp::init]` returns.
#[cfg(target_family = "wasm")]
fn write_raw(line: &[u8]) {
    /// The most that the host takes in one call.
    const PIECE: usize = 4096;
    let stderr = wasip2::cli::stderr::get_stderr();
    for piece in line.chunks(PIECE) {
        // Nobody is left to tell when standard error is closed.
        let _ = stderr.blocking_write_and_flush(piece);
    }
}

#[cfg(not(target_family = "wasm"))]
fn write_raw(line: &[u8]) {
    use std::io::Write as _;
    // Nobody is left to tell when standard error is closed.
    let _ = std::io::stderr().write_all(line);
}

/// Makes a panic one line that says where and why, ahead of the trap that ends the instance.
#[cfg(target_family = "wasm")]
pub(crate) fn hook_panics() {
    use std::sync::atomic::{AtomicBool, Ordering};
    static HOOKED: AtomicBool = AtomicBool::new(false);
    if HOOKED.swap(true, Ordering::Relaxed) {
        return;
    }
    std::panic::set_hook(Box::new(|panic| {
        let message = panic
            .payload_as_str()
            .unwrap_or("a panic without a message");
        match panic.location() {
            Some(at) => error(&format!(
                "panicked at {}:{}:{}: {message}",
                at.file(),
                at.line(),
                at.column()
            )),
            None => error(&format!("panicked: {message}")),
        }
    }));
}

/// A native test shows its panics itself.
#[cfg(not(target_family = "wasm"))]
pub(crate) fn hook_panics() {}
