//! How many bytes may be logged now: a token bucket that holds one second's worth.

use std::num::NonZeroU64;
use std::time::Instant;

/// A token bucket. One token is one byte.
#[derive(Debug)]
pub(crate) struct Bucket {
    per_second: NonZeroU64,
    tokens: u64,
    filled: Instant,
}

impl Bucket {
    pub(crate) fn full(per_second: NonZeroU64, now: Instant) -> Self {
        Self {
            per_second,
            tokens: per_second.get(),
            filled: now,
        }
    }

    /// Takes `bytes` tokens, all or none. More than one second's worth is taken as one second's worth, so that a full
    /// bucket lets any line through.
    pub(crate) fn take(&mut self, bytes: u64, now: Instant) -> bool {
        self.fill(now);
        let cost = bytes.min(self.per_second.get());
        match self.tokens.checked_sub(cost) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }

    /// Adds what came in since the last fill. A clock that went back adds nothing.
    fn fill(&mut self, now: Instant) {
        let nanos = now.saturating_duration_since(self.filled).as_nanos();
        let gained = nanos.saturating_mul(u128::from(self.per_second.get())) / 1_000_000_000;
        if gained == 0 {
            return; // The fraction of a token stays in `filled`, so that frequent calls lose nothing.
        }
        let gained = u64::try_from(gained).unwrap_or(u64::MAX);
        self.tokens = self
            .tokens
            .saturating_add(gained)
            .min(self.per_second.get());
        self.filled = now;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rate(bytes: u64) -> NonZeroU64 {
        NonZeroU64::new(bytes).unwrap()
    }

    #[test]
    fn a_second_refills_what_a_second_may_take() {
        let start = Instant::now();
        let mut bucket = Bucket::full(rate(100), start);
        assert!(bucket.take(60, start));
        assert!(!bucket.take(41, start));
        assert!(bucket.take(40, start));
        assert!(!bucket.take(1, start + Duration::from_millis(9)));
        assert!(bucket.take(1, start + Duration::from_millis(10)));
        assert!(bucket.take(50, start + Duration::from_millis(510)));
        let later = start + Duration::from_secs(3600);
        assert!(bucket.take(100, later));
        assert!(
            !bucket.take(1, later),
            "a bucket holds no more than one second's worth"
        );
    }

    #[test]
    fn a_line_larger_than_the_rate_passes_a_full_bucket_only() {
        let start = Instant::now();
        let mut bucket = Bucket::full(rate(10), start);
        assert!(bucket.take(1000, start));
        assert!(!bucket.take(1000, start + Duration::from_millis(900)));
        assert!(bucket.take(1000, start + Duration::from_secs(2)));
    }

    proptest::proptest! {
        /// Over any sequence of calls no more passes than the first burst and what the elapsed time allows.
        #[test]
        fn never_more_than_burst_and_rate(calls in proptest::collection::vec((0u64..200, 0u64..50_000_000), 1..200)) {
            let start = Instant::now();
            let mut bucket = Bucket::full(rate(1000), start);
            let (mut now, mut passed) = (start, 0u64);
            for (bytes, pause) in calls {
                now += Duration::from_nanos(pause);
                if bucket.take(bytes, now) {
                    passed += bytes;
                }
            }
            let allowed = 1000.0 + 1000.0 * (now - start).as_secs_f64();
            proptest::prop_assert!(passed as f64 <= allowed, "{passed} > {allowed}");
        }
    }
}
