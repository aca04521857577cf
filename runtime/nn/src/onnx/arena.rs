//! When does a session give memory back?
//!
//! On the CPU a session keeps the memory that a run used for the next one: ONNX Runtime's arena,
//! <https://onnxruntime.ai/docs/get-started/with-c.html>. Without it, a tenth of EfficientNet's time went into having
//! memory from the system and giving it back. But it would keep for good what one large call took, and callers choose
//! how large their calls are. So it is told when to give it back; and models of which inputs of the same shapes may take
//! any memory have no arena.

use std::mem::take;

/// What was usual is forgotten where nothing came near it in a window of so many runs.
const WINDOW: u32 = 64;

/// How large a session's runs are, by the bytes of their inputs.
#[derive(Debug, Default)]
pub(super) struct Arena {
    /// The session keeps memory for runs up to twice this.
    usual: u64,
    /// The last that was larger.
    spike: u64,
    /// The largest of this window.
    recent: u64,
    /// Runs in this window.
    runs: u32,
}

impl Arena {
    /// A run with inputs of so many `bytes` begins. Returns whether the session should give back what it holds when that
    /// run has ended.
    ///
    /// It should after a run that is more than twice as large as usual. A second one, up to twice as large as that, makes
    /// its size usual. It also should where all runs of a window took less than half of what was usual.
    pub(super) fn begins(&mut self, bytes: u64) -> bool {
        let is_large = bytes / 2 > self.usual;
        let is_usual_now = is_large && bytes / 2 <= self.spike;
        if is_usual_now {
            self.usual = bytes;
        } else if is_large {
            self.spike = bytes;
        }
        let is_spike = is_large && !is_usual_now;

        self.recent = self.recent.max(bytes);
        self.runs += 1;
        if self.runs < WINDOW {
            return is_spike;
        }
        self.runs = 0;
        let recent = take(&mut self.recent);
        let is_less = recent < self.usual / 2;
        if is_less {
            (self.usual, self.spike) = (recent, 0);
        }
        is_spike || is_less
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: u64 = 600;

    /// How many of so many runs of this size give memory back.
    fn given(arena: &mut Arena, runs: u32, bytes: u64) -> usize {
        (0..runs).filter(|_| arena.begins(bytes)).count()
    }

    /// Would fail if memory were given back and asked for again where runs are about as large as ever.
    #[test]
    fn what_is_usual_is_kept() {
        let mut arena = Arena::default();
        given(&mut arena, 2, ROW);
        assert_eq!(given(&mut arena, 10 * WINDOW, ROW), 0);
        // Batches of 1 to 16 rows.
        let mut batches = || {
            let rows = (0..100 * WINDOW).map(|run| u64::from(1 + run * 7 % 16));
            rows.filter(|rows| arena.begins(rows * ROW)).count()
        };
        assert!(batches() <= 8);
        assert_eq!(batches(), 0);
    }

    /// Would fail if what one call took were kept for good.
    #[test]
    fn what_a_spike_took_is_given_back_with_it() {
        let mut arena = Arena::default();
        given(&mut arena, 10 * WINDOW, ROW);
        assert!(arena.begins(1000 * ROW));
        assert_eq!(given(&mut arena, 10 * WINDOW, ROW), 0);
        // It comes again, and again.
        assert!(!arena.begins(1000 * ROW), "it is usual now");
        assert_eq!(given(&mut arena, 2 * WINDOW, ROW), 1, "it was");
        assert_eq!(given(&mut arena, 10 * WINDOW, ROW), 0);
        assert!(arena.begins(1000 * ROW), "it isn't any more");
        assert!(arena.begins(u64::MAX) && !arena.begins(0));
    }
}
