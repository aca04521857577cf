//! What time it is, as a value.

use std::time::Instant;

use jiff::Timestamp;

/// One reading of both clocks: the monotonic one decides rates, the other one dates lines.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Monotonic.
    pub instant: Instant,
    /// UTC.
    pub timestamp: Timestamp,
}

impl Now {
    /// Reads both clocks.
    #[must_use]
    pub fn read() -> Self {
        Self {
            instant: Instant::now(),
            timestamp: Timestamp::now(),
        }
    }

    /// The timestamp as [`wisp_contract::log::Line::ts`] has it: RFC 3339, UTC, microseconds.
    #[must_use]
    pub fn ts(&self) -> String {
        format!("{:.6}", self.timestamp)
    }
}
