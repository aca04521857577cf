//! Where lines go.

use std::sync::{Mutex, PoisonError};

use wisp_contract::log::Line;

/// Takes log lines. Called from async worker threads: it must return at once, and drop a line rather than wait.
pub trait Sink: Send + Sync + 'static {
    /// Takes one line.
    fn line(&self, line: &Line<'_>);
}

/// A sink that keeps every line, as the JSON that [`crate::Writer`] would write. For tests.
#[derive(Debug, Default)]
pub struct Memory(Mutex<Vec<String>>);

impl Memory {
    /// The lines so far, oldest first.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Sink for Memory {
    fn line(&self, line: &Line<'_>) {
        let json = serde_json::to_string(line).unwrap_or_default();
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(json);
    }
}
