//! What a guest says of itself, for the log: within bounds, as it may say anything.

use std::fmt::{self, Debug, Write};

/// Bytes of it, at most.
const MOST: usize = 4 << 10;

/// How `thing` shows itself to developers, cut off where it is long.
pub(crate) fn said(thing: &impl Debug) -> String {
    let mut text = Bounded(String::new());
    if write!(text, "{thing:?}").is_err() {
        text.0.push('…');
    }
    text.0
}

struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = MOST.saturating_sub(self.0.len());
        let fits = text.get(..text.floor_char_boundary(room));
        self.0.push_str(fits.unwrap_or_default());
        if text.len() > room {
            return Err(fmt::Error);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_is_cut_off() {
        assert_eq!(said(&"short"), "\"short\"");
        let long = said(&"ä".repeat(1 << 20));
        assert!(
            long.len() <= MOST + "…".len() && long.ends_with("ä…"),
            "{}",
            long.len()
        );
    }
}
