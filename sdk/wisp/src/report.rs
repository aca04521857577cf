//! What the SDK itself has to say: to the log where the function has one, else to standard error.

use std::io::Write as _;

/// Writes one line of level error.
pub(crate) fn error(message: &str) {
    if crate::log::is_ready() {
        ::log::error!(target: "wisp", "{message}");
    } else {
        // Nobody is left to tell when standard error is closed.
        let _ = writeln!(std::io::stderr(), "error: {message}");
    }
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
