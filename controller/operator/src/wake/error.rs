//! Why a function can't be woken.

use std::time::Duration;

use wisp_contract::FunctionId;
use wisp_contract::problem::Fault;

use crate::cluster::pods::Trouble;

/// For how long another attempt is pointless, where a replica failed.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Why a function can't be woken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WakeError {
    /// There is none.
    #[error("there is no function {0}")]
    Unknown(FunctionId),
    /// It can't run as it is, or not now.
    #[error("{}", .0.message)]
    Trouble(Trouble),
    /// It took too long.
    #[error("no replica of {function} served within {} s: {state}", after.as_secs_f64())]
    Deadline {
        /// Which.
        function: FunctionId,
        /// What there was.
        after: Duration,
        /// How far it came.
        state: String,
    },
    /// The API server refused.
    #[error("the replicas of {0} could not be set just now")]
    Scale(FunctionId),
}

impl WakeError {
    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Unknown(_) => Fault::Client,
            Self::Trouble(trouble) => trouble.fault,
            Self::Deadline { .. } | Self::Scale(_) => Fault::Platform,
        }
    }

    /// A word for problems and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "no-such-function",
            Self::Trouble(_) => "start-failed",
            Self::Deadline { .. } => "start-timeout",
            Self::Scale(_) => "scale-failed",
        }
    }

    /// For how long another attempt is pointless.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unknown(_) => None,
            Self::Trouble(_) => Some(RETRY_AFTER),
            Self::Deadline { .. } | Self::Scale(_) => Some(Duration::from_secs(1)),
        }
    }

    pub(super) fn broken_off(function: &FunctionId, after: Duration) -> Self {
        Self::Deadline {
            function: function.clone(),
            after,
            state: "the wake-up was broken off".to_owned(),
        }
    }
}
