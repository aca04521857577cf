//! The bounded limiter that host and gateway put in front of their work.
