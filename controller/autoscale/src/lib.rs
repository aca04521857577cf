//! How many replicas a function needs: a pure decision from what was seen of it, after Knative's autoscaler,
//! <https://knative.dev/docs/serving/autoscaling/kpa-specific/>.
//!
//! [`History`] keeps what gateways reported, [`decide()`] looks at it once a second (and at once when a queue grows),
//! and [`History::follow`] remembers the one thing a decision changes. Time is a parameter throughout.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use wisp_autoscale::{Load, History, Scaling, decide};
//!
//! let scaling = Scaling { min: 0, max: 20, target: 8.0, idle_timeout: Duration::from_secs(30) };
//! let (mut history, now) = (History::default(), Instant::now());
//! history.record(now, Load { in_flight: 16.0, queued: 8.0, requests: 40 });
//! let decision = decide(now, &history, &scaling, 1);
//! assert_eq!(decision.replicas, 3);
//! history.follow(&decision);
//! ```

mod decide;
mod history;

pub use decide::{Decision, Reason, Scaling, decide};
pub use history::{History, Load, PANIC_WINDOW, Panic, STABLE_WINDOW};
