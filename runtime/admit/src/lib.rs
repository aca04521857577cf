//! The bounded limiter that host and gateway put in front of their work.
//!
//! One [`Limiter`] bounds what runs and what waits, and hands out a [`Permit`] that gives its place back when it is
//! dropped:
//!
//! ```
//! use std::time::Duration;
//! use tokio::time::Instant;
//! use wisp_admit::{Limiter, Limits, Refused};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let limiter = Limiter::new(Limits { in_flight: 1, queue: 0, queue_bytes: 0 });
//! let deadline = Instant::now() + Duration::from_secs(1);
//! let permit = limiter.acquire(0, deadline).await.unwrap();
//! assert_eq!(limiter.acquire(0, deadline).await.unwrap_err(), Refused::QueueFull { allowed: 0 });
//! drop(permit);
//! assert!(limiter.acquire(0, deadline).await.is_ok());
//! # });
//! ```

mod limiter;

pub use limiter::{Limiter, Limits, Load, Permit, Refused};
