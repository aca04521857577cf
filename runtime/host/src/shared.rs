//! WASI 0.3 instances that serve several requests at once, where the function asks for it.
//!
//! wasmtime's `ProxyHandler` gives each instance a task, hands it requests while it has room for more, and starts
//! another instance when all are busy. Which will be busy it can't know: what a request computes after it has waited for
//! something holds up those that came to its instance meanwhile. What is missing there is added here: limits, deadlines and
//! failures, and whose output is whose. Its requests can't be cancelled one by one, which wasmtime has no way to do yet (its
//! issue 11833): a guest whose client left goes on, within its deadline and its place.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout_at;
use wasmtime::component::GuestTaskId;
use wasmtime::{CallHook, Store, StoreContextMut};
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::handler::{
    ExpirationError, HandlerState, Instance as Worker, InstantiationError, Proxy, ProxyHandler,
    Request, Response, ShouldAccept, WorkerExpiration, WorkerState, WorkerStatus,
};
use wasmtime_wasi_http::p3::bindings::http::types::ErrorCode;
use wisp_admit::Permit;
use wisp_deadline::Deadline;
use wisp_engine::{Ticking, Ticks};
use wisp_notices::Notices;

use crate::failure::Failure;
use crate::guest::Guest;
use crate::instance::{Blueprint, failure_of};
use crate::metrics::Metrics;
use crate::outcome::{Outcome, Unread};
use crate::said::said;

/// How long an instance that ended may take to say why.
const END_PATIENCE: Duration = Duration::from_secs(1);
/// After this a request that waits for an instance looks again: one may have room without having gone.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Instances of one function that serve several requests at once.
pub(crate) struct Shared {
    handler: ProxyHandler<Maker>,
    timeout: Duration,
    working: Working,
    /// Told when an instance is gone.
    freed: Arc<Notify>,
    ticks: Ticks,
}

/// How many instances have something left to do after all of their answers.
#[derive(Debug, Clone, Default)]
struct Working(Arc<AtomicUsize>);

/// One of them.
#[derive(Debug)]
struct Work(Working);

impl Working {
    fn begin(&self) -> Work {
        self.0.fetch_add(1, Ordering::Relaxed);
        Work(self.clone())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many requests an instance serves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sharing {
    pub(crate) max_requests: u32,
    pub(crate) max_concurrent: u32,
    pub(crate) idle_timeout: Duration,
}

/// Why a request got no response, and what wasmtime says.
pub(crate) struct Refused {
    pub(crate) failure: Failure,
    pub(crate) cause: Option<String>,
}

/// Why there is no instance for a request.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{failure}: {cause}")]
struct NotMade {
    failure: Failure,
    cause: String,
}

struct Maker {
    blueprint: Arc<Blueprint>,
    sharing: Sharing,
    metrics: Arc<Metrics>,
    working: Working,
    freed: Arc<Notify>,
}

/// What travels with a request: its place is taken until the guest has answered, whether or not the client waits.
pub(crate) struct Ticket {
    pub(crate) id: Arc<str>,
    pub(crate) deadline: tokio::time::Instant,
    pub(crate) permit: Arc<Permit>,
    /// Where to learn of the instance that serves it.
    pub(crate) instance: Arc<OnceLock<Served>>,
}

/// A request that came to an instance.
pub(crate) struct Served {
    /// How the instance ends.
    pub(crate) outcome: Outcome,
    unread: Mutex<Option<Unread>>,
}

impl Served {
    /// To be dropped when the response was read.
    pub(crate) fn unread(&self) -> Option<Unread> {
        let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
        unread.take()
    }
}

struct State {
    sharing: Sharing,
    outcome: Outcome,
    failures: Arc<Notices>,
    /// Told when the instance is gone.
    freed: Arc<Notify>,
}

struct Expiration {
    timeout: Duration,
    idle_timeout: Duration,
    outcome: Outcome,
    deadline: Option<Deadline>,
    working: Working,
    work: Option<Work>,
    ticks: Ticks,
    /// Unless the instance is idle.
    ticking: Option<Ticking>,
}

impl Shared {
    pub(crate) fn new(blueprint: Arc<Blueprint>, sharing: Sharing, metrics: Arc<Metrics>) -> Self {
        let timeout = blueprint.seed.limits.timeout;
        let working = Working::default();
        let freed = Arc::<Notify>::default();
        let ticks = blueprint.seed.ticks.clone();
        Self {
            handler: ProxyHandler::new(Maker {
                blueprint,
                sharing,
                metrics,
                working: working.clone(),
                freed: Arc::clone(&freed),
            }),
            timeout,
            working,
            freed,
            ticks,
        }
    }

    /// Whether guests do what they have left to do after their answers, which takes no place.
    pub(crate) fn is_working(&self) -> bool {
        self.working.0.load(Ordering::Relaxed) > 0
    }

    /// Hands `request` to an instance that has room for it and returns the guest's answer. Instances that do what they have left to
    /// do after their answers have no place, but may be as many as there can be: one of them is waited for then.
    pub(crate) async fn handle(
        &self,
        mut request: Request,
        mut ticket: Ticket,
    ) -> Result<Response, Refused> {
        // Its instance may have been idle, which is told that it isn't only once the guest waits for something.
        let _ticking = self.ticks.tick();
        let instance = Arc::clone(&ticket.instance);
        let deadline = ticket.deadline;
        let error = loop {
            let freed = self.freed.notified();
            let error = match self.handler.handle(ticket, request).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            let refused = match error.downcast::<InstantiationError<Ticket>>() {
                Ok(refused) => refused,
                Err(error) => break error,
            };
            let NotMade { failure, cause } = NotMade::of(&refused.error);
            if failure == Failure::NoInstance {
                let now = tokio::time::Instant::now();
                let _ = timeout_at(deadline.min(now + LOOK_AGAIN), freed).await;
            }
            if failure != Failure::NoInstance || tokio::time::Instant::now() >= deadline {
                return Err(Refused {
                    failure,
                    cause: Some(cause),
                });
            }
            ticket = refused.request_data;
            let given_back = refused.request.into_inner();
            request = given_back.unwrap_or_else(PoisonError::into_inner);
        };
        if error.is::<ExpirationError>() {
            return Err(Refused {
                failure: Failure::Timeout {
                    allowed: self.timeout,
                },
                cause: None,
            });
        }
        if let Some(code) = error.downcast_ref::<ErrorCode>() {
            return Err(Refused {
                failure: Failure::ErrorCode,
                cause: Some(said(code)),
            });
        }
        // The instance ended, which tells and logs its cause a moment later.
        let failure = match instance.get() {
            Some(served) => tokio::time::timeout(END_PATIENCE, served.outcome.failed())
                .await
                .ok()
                .cloned(),
            None => None,
        };
        let cause = failure.is_none().then(|| said(&error));
        Err(Refused {
            failure: failure.unwrap_or(Failure::Trapped),
            cause,
        })
    }
}

impl NotMade {
    fn of(error: &wasmtime::Error) -> Self {
        let why = error.downcast_ref::<Self>().cloned();
        why.unwrap_or_else(|| Self {
            failure: Failure::Internal,
            cause: said(error),
        })
    }
}

impl HandlerState for Maker {
    type StoreData = Guest;
    type WorkerExpiration = Expiration;
    type WorkerState = State;

    async fn instantiate(&self) -> wasmtime::Result<Worker<Guest, Expiration, State>> {
        let began = Instant::now();
        let instance = self.blueprint.instantiate_in_time().await;
        let instance = instance.map_err(|(failure, error)| {
            if failure != Failure::NoInstance {
                // It had one of those that there can be.
                self.freed.notify_waiters();
            }
            NotMade {
                failure,
                cause: said(&error),
            }
        })?;
        self.metrics.instance_started(began.elapsed());
        let (mut store, Some(service)) = instance.into_service() else {
            wasmtime::bail!("only WASI 0.3 instances can serve several requests at once");
        };
        store.call_hook(attribute);
        let ticking = store.data_mut().ticking.take();
        let timeout = self.blueprint.seed.limits.timeout;
        let idle_timeout = self.sharing.idle_timeout;
        let outcome = Outcome::default();
        Ok(Worker {
            store,
            proxy: Proxy::P3(service),
            view: Guest::http,
            expiration: Expiration {
                timeout,
                idle_timeout,
                outcome: outcome.clone(),
                deadline: None,
                working: self.working.clone(),
                work: None,
                ticks: self.blueprint.seed.ticks.clone(),
                ticking,
            },
            state: State {
                sharing: self.sharing,
                outcome,
                failures: Arc::clone(&self.blueprint.seed.failures),
                freed: Arc::clone(&self.freed),
            },
        })
    }
}

impl State {
    /// Before the store is dropped, which ends the bodies that its guest still writes.
    fn tell(&self, store: &mut Store<Guest>, error: &wasmtime::Error) {
        store.data().uploads().cut_off();
        // Whoever shared it was not done, though it ended without complaint.
        let failure = failure_of(store.data_mut(), error).unwrap_or(Failure::Exited { status: 0 });
        // For the answers among them.
        self.outcome.fail(failure);
        if let Some(failure) = self.outcome.failure()
            && self.failures.take(Instant::now())
        {
            let cause = said(error);
            tracing::warn!(
                reason = failure.reason(),
                cause,
                "an instance ended with the requests that it had: {failure}"
            );
        }
    }
}

impl WorkerState for State {
    type StoreData = Guest;
    type RequestData = Ticket;

    fn should_accept_request(&self, concurrent: usize, total: usize) -> ShouldAccept {
        let sharing = self.sharing;
        if total >= sharing.max_requests as usize {
            // A body that its guest keeps, beyond the request that it is of, would end with the instance, and pass for whole.
            if self.outcome.is_awaited() {
                ShouldAccept::No
            } else {
                ShouldAccept::Never
            }
        } else if concurrent >= sharing.max_concurrent as usize {
            ShouldAccept::No
        } else {
            ShouldAccept::Yes
        }
    }

    fn on_request_start(
        &self,
        mut store: StoreContextMut<'_, Guest>,
        ticket: Ticket,
        task: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + 'static + Send + Sync>> {
        // A request is served once, so nobody else has set this.
        let _ = ticket.instance.set(Served {
            outcome: self.outcome.clone(),
            unread: Mutex::new(Some(self.outcome.unread())),
        });
        store.data_mut().admit(task, Arc::clone(&ticket.id));
        Box::pin(async move {
            tokio::time::sleep_until(ticket.deadline).await;
            // Held until the guest answered or its time is up.
            drop(ticket.permit);
        })
    }

    fn drop(&self, mut store: Store<Guest>, result: Result<(), wasmtime::Error>) {
        if let Err(error) = result {
            self.tell(&mut store, &error);
        }
        store.data().uploads().give_up();
        drop(store);
        self.freed.notify_waiters();
    }
}

/// Before the guest calls the host: what it logs and sends is its current request's.
fn attribute(mut store: StoreContextMut<'_, Guest>, hook: CallHook) -> wasmtime::Result<()> {
    if matches!(hook, CallHook::CallingHost) {
        // The oldest of the calls that led here is the host's.
        let task = store.async_call_stack()?.last();
        store.data_mut().attribute(task);
    }
    Ok(())
}

impl WorkerExpiration for Expiration {
    /// Requests expire by their own deadlines; this one ends instances that compute without a pause, so that nothing
    /// inside them can look at a clock, and those that nobody needs.
    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        status: WorkerStatus,
        start: Instant,
    ) -> Poll<()> {
        if status == WorkerStatus::PostReturn {
            if self.work.is_none() {
                self.work = Some(self.working.begin());
            }
        } else {
            self.work = None;
        }
        if status == WorkerStatus::Idle {
            self.ticking = None;
        } else if self.ticking.is_none() {
            self.ticking = Some(self.ticks.tick());
        }
        let is_awaited = self.outcome.has_unread(cx);
        let allowed = match status {
            // Likewise.
            WorkerStatus::Idle if is_awaited => self.timeout.max(self.idle_timeout),
            WorkerStatus::Idle => self.idle_timeout,
            WorkerStatus::Requests | WorkerStatus::PostReturn => self.timeout,
        };
        let until = tokio::time::Instant::from_std(start) + allowed;
        // Each request moves it on.
        let deadline = self.deadline.get_or_insert_with(|| Deadline::new(until));
        deadline.set(until);
        ready!(deadline.poll(cx));
        if status != WorkerStatus::Idle || is_awaited {
            self.outcome.fail(Failure::Timeout { allowed });
        }
        Poll::Ready(())
    }
}
