//! The decision.

use std::time::{Duration, Instant};

use crate::history::{History, PANIC_WINDOW, Panic, STABLE_WINDOW};

/// So many times more than there are is sudden growth.
const PANIC_FACTOR: u32 = 2;
/// One decision makes at most so many of one.
const MOST_UP: u32 = 1000;
/// One decision leaves at least one of so many.
const MOST_DOWN: u32 = 2;
/// By so much of a replica must the load be below fewer replicas' target before one goes: a load that sways about a
/// multiple of the target doesn't make replicas come and go.
const SLACK: f64 = 0.1;
/// What adding up floats may be off by.
const ROUNDING: f64 = 1e-9;

/// What a function wants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scaling {
    /// The fewest replicas.
    pub min: u32,
    /// The most replicas; where it is below `min` it counts as `min`.
    pub max: u32,
    /// Requests at once that one replica is meant to carry; what isn't above zero counts as 1.
    pub target: f64,
    /// Without a request for so long, the function needs no replica beyond `min`.
    pub idle_timeout: Duration,
}

/// How many replicas there should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// So many.
    pub replicas: u32,
    /// For this reason.
    pub reason: Reason,
    /// Whether it is a time of sudden growth; [`History::follow`] remembers it.
    pub panic: Option<Panic>,
}

/// Why there should be so many replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Nobody asked for the idle timeout, or ever.
    Idle,
    /// The load of the last minute.
    Stable,
    /// Sudden growth in the last seconds.
    Panic,
    /// Requests wait now.
    Queue,
    /// `min` or `max`.
    Bounds,
}

impl Reason {
    /// A stable word for metrics and events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Stable => "stable",
            Self::Panic => "panic",
            Self::Queue => "queue",
            Self::Bounds => "bounds",
        }
    }
}

/// How many replicas a function should have at `now`, where it has `current`. Always within `min..=max`; zero only
/// where `min` is, and exactly when nobody asked for the idle timeout.
#[must_use]
pub fn decide(now: Instant, history: &History, scaling: &Scaling, current: u32) -> Decision {
    let max = scaling.max.max(scaling.min);
    if history
        .quiet(now)
        .is_none_or(|quiet| quiet >= scaling.idle_timeout)
    {
        return Decision {
            replicas: scaling.min,
            reason: if scaling.min > 0 {
                Reason::Bounds
            } else {
                Reason::Idle
            },
            panic: None,
        };
    }
    let target = if scaling.target.is_finite() && scaling.target > 0.0 {
        scaling.target
    } else {
        1.0
    };
    let stable = replicas_for(history.average(now, STABLE_WINDOW), target, 0.0);
    let relaxed = replicas_for(history.average(now, STABLE_WINDOW), target, SLACK);
    let sudden = replicas_for(history.average(now, PANIC_WINDOW), target, 0.0);
    let waiting = history
        .waiting(now)
        .map_or(0, |load| replicas_for(load, target, 0.0));

    let growth = sudden.max(waiting);
    let is_sudden = growth >= current.max(1).saturating_mul(PANIC_FACTOR);
    let panic = match history.panic() {
        _ if is_sudden => Some(Panic {
            since: now,
            most: history
                .panic()
                .map_or(0, |panic| panic.most)
                .max(growth)
                .min(max),
        }),
        Some(panic) if now.saturating_duration_since(panic.since) < STABLE_WINDOW => Some(Panic {
            most: panic.most.max(growth).min(max),
            ..panic
        }),
        _ => None,
    };

    let (wanted, reason) = match panic {
        // In a time of sudden growth nothing goes. What the last minute wants may be more: load that came in waves.
        Some(panic) => (panic.most.max(stable).max(current), Reason::Panic),
        None if waiting > stable && waiting > current => (waiting, Reason::Queue),
        None if stable >= current => (stable, Reason::Stable),
        // Fewer than there are: by a margin, and not while somebody waits.
        None => (
            relaxed.min(current).max(waiting.min(current)),
            Reason::Stable,
        ),
    };
    let reason = if reason == Reason::Panic && waiting >= sudden.max(1) && waiting > current {
        Reason::Queue
    } else {
        reason
    };
    let most = current.max(1).saturating_mul(MOST_UP);
    let least = (current / MOST_DOWN).max(1);
    let paced = wanted.clamp(least, most.max(least));
    let replicas = paced.clamp(scaling.min, max);
    Decision {
        replicas,
        reason: if replicas == paced {
            reason
        } else {
            Reason::Bounds
        },
        panic,
    }
}

/// How many replicas carry `load`, with `slack` replicas to spare.
fn replicas_for(load: f64, target: f64, slack: f64) -> u32 {
    let replicas = (load / target + slack - ROUNDING).ceil();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to what fits before"
    )]
    let replicas = replicas.clamp(0.0, f64::from(u32::MAX)) as u32;
    replicas
}

#[cfg(test)]
mod tests;
