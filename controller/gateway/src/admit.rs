//! A place for a request: at once where one is free, else in the queue, where it waits for a place, or for the first
//! replica to be started.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::request::Parts;
use tokio::sync::watch;
use wisp_admit::{Permit, Refused};

use crate::activate::{ActivateError, Outcome};
use crate::connection::STREAM_WINDOW;
use crate::function::{Function, RequestLimits};
use crate::gateway::Gateway;
use crate::memory;
use crate::respond::Failure;
use crate::visit::Visit;

/// How long to pause where a wake-up succeeded and yet there is no replica.
const PAUSE: Duration = Duration::from_millis(20);
/// The longest pause after a wake-up that only took too long: what starts replicas may need to be asked again.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// For how long, once a request may wait no longer, what starts replicas may still say why there is none: its clock began a
/// little later.
const LAST_WORD: Duration = Duration::from_secs(1);

/// A request with a place.
pub(crate) struct Admitted {
    pub(crate) permit: Permit,
    /// How long it waited for it, with a replica there.
    pub(crate) queue: Duration,
    /// How long it waited for a replica.
    pub(crate) activate: Duration,
}

impl Admitted {
    /// Whether it waited for nothing.
    pub(crate) fn is_at_once(&self) -> bool {
        self.queue.is_zero() && self.activate.is_zero()
    }
}

/// Gets a place for the request with this `head`, whose body has this `length` if it says so.
pub(crate) async fn admit(
    gateway: &Gateway,
    function: &Arc<Function>,
    limits: &RequestLimits,
    length: Option<u64>,
    head: &Parts,
    visit: &mut Visit,
) -> Result<Admitted, Failure> {
    match function.limiter.try_acquire() {
        Some(permit) => Ok(Admitted {
            permit,
            queue: Duration::ZERO,
            activate: Duration::ZERO,
        }),
        // Rare, and large: it would make the future of every request as large.
        None => Box::pin(wait(gateway, function, limits, length, head, visit)).await,
    }
}

async fn wait(
    gateway: &Gateway,
    function: &Arc<Function>,
    limits: &RequestLimits,
    length: Option<u64>,
    head: &Parts,
    visit: &mut Visit,
) -> Result<Admitted, Failure> {
    let memory = gateway.memory();
    let _held = memory
        .hold(&function.held, memory::of_request(head, length))
        .ok_or_else(|| Failure::QueuesFull {
            function: function.id.clone(),
            allowed: memory.allowed(),
        })?;
    let waiting = Waiting::begin(gateway, function);
    let since = waiting.since;
    let (queue_time, wake_time) = (limits.timeout, gateway.options().wake_time(limits));
    // Whoever found a place in vain goes on waiting.
    let queued_since = visit.began() + visit.activate;
    let mut cold: Option<Instant> = None;
    let mut activate = Duration::ZERO;
    // The deadline below ends the wait; it knows why.
    let forever = tokio::time::Instant::from_std(since) + wake_time + Duration::from_secs(3600);
    // Of a body whose length nobody knows as much is here as its stream may send unread.
    let bytes = length.unwrap_or_else(|| u64::from(STREAM_WINDOW).min(limits.request_body));
    let mut place = std::pin::pin!(function.limiter.acquire(bytes, forever));
    let mut is_telling = false;
    let mut pause: Option<Duration> = None;
    let mut told: Option<ActivateError> = None;
    loop {
        let mut changed = std::pin::pin!(function.replicas.changed());
        changed.as_mut().enable();
        let is_cold = function.replicas.is_empty();
        match (is_cold, cold) {
            (true, None) => cold = Some(Instant::now()),
            (false, Some(began)) => {
                activate += began.elapsed();
                cold = None;
                is_telling = true;
            }
            _ => {}
        }
        let deadline = match (is_cold, &told) {
            (true, Some(_)) => since + wake_time,
            (true, None) => since + wake_time + LAST_WORD,
            (false, _) => queued_since + queue_time + activate,
        };
        let wake = async {
            if !is_cold {
                return std::future::pending().await;
            }
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
            let trace = visit.wait(&gateway.options().traces, &head.headers);
            ended(gateway.wake(function, trace)?).await
        };
        tokio::select! {
            biased;
            place = &mut place => {
                let permit = place.map_err(|refused| refusal(function, refused))?;
                activate += cold.map_or(Duration::ZERO, |began| began.elapsed());
                let queue = since.elapsed().saturating_sub(activate);
                return Ok(Admitted { permit, queue, activate });
            }
            ended = wake => {
                pause = Some(PAUSE);
                match ended {
                    // Others began it, or may wait no longer than it takes: this one has it made anew until its own deadline.
                    Err(error) if error.is_unfinished() => {
                        pause = error.retry_after().map(|after| after.min(LONGEST_PAUSE)).or(pause);
                        told = Some(error);
                    }
                    ended => ended.map_err(|error| failed(function, error))?,
                }
            }
            // Awake, and yet there is no place for this one.
            () = std::future::ready(()), if is_telling => {
                is_telling = false;
                gateway.queue_grew();
            }
            () = changed => {}
            () = tokio::time::sleep_until(deadline.into()) => {
                return Err(match told {
                    _ if !is_cold => refusal(function, Refused::DeadlinePassed),
                    Some(error) => failed(function, error),
                    None => Failure::NotReady { function: function.id.clone(), waited: wake_time },
                });
            }
        }
    }
}

/// Waits until a wake-up has ended.
async fn ended(mut wake: watch::Receiver<Outcome>) -> Result<(), ActivateError> {
    match wake.wait_for(Option::is_some).await {
        Ok(outcome) => outcome.clone().unwrap_or(Ok(())),
        // It ended without a word: the next attempt tells.
        Err(_) => Ok(()),
    }
}

fn failed(function: &Function, error: ActivateError) -> Failure {
    Failure::Activation {
        function: function.id.clone(),
        error,
    }
}

fn refusal(function: &Function, refused: Refused) -> Failure {
    match refused {
        Refused::Closed => Failure::Removed {
            function: function.id.clone(),
        },
        refused => Failure::Refused {
            function: function.id.clone(),
            refused,
        },
    }
}

/// A request that waits, counted.
struct Waiting<'a> {
    function: &'a Function,
    since: Instant,
}

impl<'a> Waiting<'a> {
    fn begin(gateway: &Gateway, function: &'a Arc<Function>) -> Self {
        let since = Instant::now();
        function.stats.begin_wait(since);
        // Who wakes a function is known by that; a report beside it would be in its way.
        if !function.replicas.is_empty() {
            gateway.queue_grew();
        }
        Self { function, since }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.function.stats.end_wait(Instant::now());
    }
}
