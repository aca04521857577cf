//! Waking a function that has no replica: one call, shared by all who wait.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::watch;
use wisp_contract::FunctionId;
use wisp_contract::problem::Fault;
use wisp_traces::Context;

use crate::function::Function;

/// Starts replicas.
pub trait Activator: Send + Sync + 'static {
    /// Sees to it that the function has a replica: starts one, waits until it serves, and calls
    /// [`crate::Gateway::insert_endpoint`] before it returns `Ok`. It is called once for all requests that wait, on the
    /// runtime that [`crate::Gateway::new`] was given, and runs to its end even if they all leave. It is part of the trace
    /// of the first of them, where there is one.
    fn ensure<'a>(
        &'a self,
        function: &'a FunctionId,
        trace: Option<Context>,
    ) -> BoxFuture<'a, Result<(), ActivateError>>;
}

/// Why a function could not be woken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActivateError {
    fault: Fault,
    reason: &'static str,
    message: Arc<str>,
    retry_after: Option<Duration>,
    is_unfinished: bool,
}

impl ActivateError {
    /// `message` is a sentence for the client, in plain words. `fault` is the function's where it cannot run as it is,
    /// and the platform's where it could on a better day.
    #[must_use]
    pub fn new(fault: Fault, message: impl Into<Arc<str>>) -> Self {
        Self {
            fault,
            reason: "activation-failed",
            message: message.into(),
            retry_after: None,
            is_unfinished: false,
        }
    }

    /// The attempt only took too long: a replica may still come. Requests that can wait for longer do, and have another
    /// attempt made once it isn't pointless, within a second.
    #[must_use]
    pub fn unfinished(self) -> Self {
        Self {
            is_unfinished: true,
            ..self
        }
    }

    /// A stable word for metrics and problem bodies, in place of `activation-failed`.
    #[must_use]
    pub fn with_reason(self, reason: &'static str) -> Self {
        Self { reason, ..self }
    }

    /// For how long another attempt is pointless: until then requests fail with this error at once, unless an endpoint
    /// is inserted, the route changes, or it is [`unfinished`](Self::unfinished): then clients are told that alone.
    #[must_use]
    pub fn with_retry_after(self, after: Duration) -> Self {
        Self {
            retry_after: Some(after),
            ..self
        }
    }

    /// A stable word for metrics and problem bodies.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.reason
    }

    /// Who must change something.
    #[must_use]
    pub fn fault(&self) -> Fault {
        self.fault
    }

    /// Whether the attempt only took too long.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        self.is_unfinished
    }

    /// For how long another attempt is pointless.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for ActivateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ActivateError {}

/// How a wake-up ended; `None` while it goes on.
pub(crate) type Outcome = Option<Result<(), ActivateError>>;

/// The wake-up of one function.
#[derive(Debug, Default)]
pub(crate) struct Activation {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    running: Option<watch::Receiver<Outcome>>,
    failed: Option<(Instant, ActivateError)>,
}

impl Activation {
    /// Joins the wake-up that goes on, or begins one.
    ///
    /// # Errors
    /// The last failure, as long as another attempt is pointless.
    pub(crate) fn join(
        self: &Arc<Self>,
        now: Instant,
        activator: &Arc<dyn Activator>,
        function: &Arc<Function>,
        runtime: &Handle,
        trace: Option<Context>,
    ) -> Result<watch::Receiver<Outcome>, ActivateError> {
        let mut state = self.state();
        if let Some(running) = &state.running {
            // A sender that is gone without an outcome panicked: that wake-up is over.
            if running.has_changed().is_ok() {
                return Ok(running.clone());
            }
        }
        if let Some((until, error)) = &state.failed
            && now < *until
        {
            return Err(error.clone());
        }
        let (sender, receiver) = watch::channel(None);
        state.running = Some(receiver.clone());
        drop(state);
        let (this, activator, function) = (
            Arc::clone(self),
            Arc::clone(activator),
            Arc::clone(function),
        );
        runtime.spawn(async move {
            let result = activator.ensure(&function.id, trace).await;
            function.stats.activated(result.is_ok());
            let mut state = this.state();
            state.running = None;
            state.failed = match &result {
                Err(error) if !error.is_unfinished => error.retry_after.and_then(|after| Instant::now().checked_add(after)).map(|until| (until, error.clone())),
                _ => None,
            };
            drop(state);
            if let Err(error) = &result {
                tracing::warn!(function = %function.id, %error, "the function could not be started");
            }
            sender.send_replace(Some(result));
        });
        Ok(receiver)
    }

    /// Forgets the last failure: something changed.
    pub(crate) fn forget_failure(&self) {
        self.state().failed = None;
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
