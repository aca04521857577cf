//! One instance: how it is made, called, and what its failures mean.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Waker};

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use wasmtime::component::ResourceTableError;
use wasmtime::{Engine, Store, Trap, UpdateDeadline};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::p2::bindings::http::types as types_p2;
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
use wasmtime_wasi_http::p3::bindings::{Service, ServicePre};
use wasmtime_wasi_http::{WasiHttpView as _, p3 as http_p3};
use wisp_egress::Uploads;
use wisp_wasi_nn::UsageReader;

use crate::failure::Failure;
use crate::guest::{Guest, Seed};
use crate::request::GuestRequest;
use crate::running::{Elapsed, within};
use crate::said::said;
use crate::written::{Desk, Tie, Written};

/// Everything instances are made from.
pub(crate) struct Blueprint {
    pub(crate) engine: Engine,
    pub(crate) pre: Pre,
    pub(crate) seed: Seed,
}

/// A component with its imports resolved.
pub(crate) enum Pre {
    P2(ProxyPre<Guest>),
    P3(ServicePre<Guest>),
}

enum Exports {
    P2(Proxy),
    P3(Service),
}

/// A component's instance in a store of its own.
pub(crate) struct Instance {
    /// Dropped before the store.
    writing: Writing,
    pub(crate) store: Store<Guest>,
    exports: Exports,
    /// Closed once its current response's body needs it no more.
    body: Option<oneshot::Receiver<()>>,
    pub(crate) served: u32,
}

/// Whether the guest may have more to write to what it sends: then that is cut off with it.
struct Writing {
    /// `None` where somebody else drops the store.
    uploads: Option<Uploads>,
    /// By what WASI 0.2 lets it hold: bodies of WASI 0.3 know it themselves.
    may_be: bool,
}

impl Drop for Writing {
    fn drop(&mut self) {
        match &self.uploads {
            Some(uploads) if self.may_be => uploads.cut_off(),
            Some(uploads) => uploads.give_up(),
            None => {}
        }
    }
}

/// What of a response is left when the guest's call is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    Nothing,
    /// A body that the instance may still write to.
    Body,
    /// A body that the guest had to end, and didn't: dropped with the instance, it would seem whole.
    Unfinished,
}

impl Blueprint {
    /// A fresh instance for the request `id`.
    ///
    /// # Errors
    /// When the pool is exhausted, a limit doesn't suffice for the component's own memory, or its start function traps.
    pub(crate) async fn instantiate(
        &self,
        id: Option<Arc<str>>,
    ) -> Result<Instance, (Failure, wasmtime::Error)> {
        let mut store = Store::new(&self.engine, Guest::new(&self.seed, id));
        // Made after the store, it is dropped before it.
        let writing = Writing {
            uploads: Some(store.data().uploads()),
            may_be: true,
        };
        store.limiter(|guest| &mut guest.meter);
        // A guest that computes yields at every tick, so that its deadline and its neighbours get their turn.
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|_| {
            wisp_burst::write_now();
            Ok(UpdateDeadline::YieldCustom(
                1,
                Box::pin(tokio::task::yield_now()),
            ))
        });
        // No list or string that a guest hands over can be larger than its memory.
        store.set_hostcall_fuel(
            usize::try_from(self.seed.limits.memory.get()).unwrap_or(usize::MAX),
        );
        store.set_max_component_handles(self.seed.limits.handles.get());
        let exports = match &self.pre {
            Pre::P2(pre) => pre.instantiate_async(&mut store).await.map(Exports::P2),
            Pre::P3(pre) => pre.instantiate_async(&mut store).await.map(Exports::P3),
        };
        match exports {
            Ok(exports) => Ok(Instance {
                writing,
                store,
                exports,
                body: None,
                served: 0,
            }),
            Err(error) => {
                let failure = match store.data_mut().take_refusal() {
                    Some(refusal) => refusal.into(),
                    None if error.is::<wasmtime::PoolConcurrencyLimitError>() => {
                        Failure::NoInstance
                    }
                    None if error.is::<Trap>() => Failure::Trapped,
                    None => Failure::Internal,
                };
                Err((failure, error))
            }
        }
    }
}

impl Blueprint {
    /// A fresh instance for nobody yet, made within the time that a request has.
    ///
    /// # Errors
    /// As [`Self::instantiate`], and where it takes longer.
    pub(crate) async fn instantiate_in_time(&self) -> Result<Instance, (Failure, wasmtime::Error)> {
        let allowed = self.seed.limits.timeout;
        let made = pin!(self.instantiate(None));
        match within(tokio::time::Instant::now() + allowed, made).await {
            Ok(made) => made,
            Err(Elapsed) => Err((
                Failure::Timeout { allowed },
                wasmtime::format_err!("what the component does when it starts takes longer"),
            )),
        }
    }
}

impl Instance {
    /// Hands `request` to the guest and resolves, with what the guest left open, when the guest's call is over. What it answers is on the `desk` as soon as
    /// it has the head; the body may go on for as long as this runs.
    pub(crate) async fn call(
        &mut self,
        request: GuestRequest,
        desk: &Desk,
    ) -> wasmtime::Result<Left> {
        self.served += 1;
        self.writing.may_be = true;
        let handled = self.handle(request, desk).await;
        // What was written in time counts, however the call ended.
        desk.gather(&mut Context::from_waker(Waker::noop()));
        handled?;
        // What was finished is on its way, and the rest of it needs no instance.
        self.writing.may_be = self.store.data_mut().has_unfinished_bodies();
        Ok(self.left())
    }

    /// Whether there is a body whose end isn't on its way.
    fn has_body(&mut self) -> bool {
        let body = self.body.as_mut();
        body.is_some_and(|body| matches!(body.try_recv(), Err(TryRecvError::Empty)))
    }

    /// What is left of the response, now that the guest's call is over.
    fn left(&mut self) -> Left {
        if !self.has_body() {
            return Left::Nothing;
        }
        if matches!(self.exports, Exports::P3(_)) {
            // A call that ends well comes after the body's end.
            return Left::Unfinished;
        }
        let guest = self.store.data_mut();
        if !guest.has_unfinished_bodies() {
            return Left::Body;
        }
        if guest.may_hold_uploads() {
            // Whichever is unfinished is told by its own end. An instance that has a body left isn't used again.
            guest.break_off_bodies();
            return Left::Body;
        }
        Left::Unfinished
    }

    async fn handle(&mut self, request: GuestRequest, desk: &Desk) -> wasmtime::Result<()> {
        // It may have waited since it was made, or since its last call.
        self.store.set_epoch_deadline(1);
        match &self.exports {
            Exports::P2(proxy) => {
                let (tie, body) = oneshot::channel();
                self.body = Some(body);
                let there = desk.clone();
                let mut view = self.store.data_mut().http();
                let request = view.new_incoming_request(types_p2::Scheme::Http, request)?;
                let out = view.new_response_outparam_from_callback(move |answer| {
                    there.put(match answer {
                        Ok(response) => {
                            Ok(response.map(|body| Written::new(body, Some(Tie::Call(tie)))))
                        }
                        Err(code) => Err(said(&code)),
                    });
                })?;
                proxy
                    .wasi_http_incoming_handler()
                    .call_handle(&mut self.store, request, out)
                    .await
            }
            Exports::P3(service) => {
                let (request, sent) =
                    http_p3::Request::from_http(self.store.data_mut().http().hooks, request);
                // Boxed, it no longer borrows the store.
                let sent: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(sent);
                let (tie, body) = oneshot::channel();
                let gone = self.body.insert(body);
                let run = self.store.run_concurrent(async |accessor| {
                    let response = match service.handle(accessor, request).await? {
                        Ok(response) => response,
                        Err(code) => {
                            desk.put(Err(said(&code)));
                            // What it does still is this request's, and no later one's.
                            poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
                            return Ok(());
                        }
                    };
                    let response = accessor.with(|store| response.into_http(store, sent))?;
                    desk.put(Ok(
                        response.map(|body| Written::new(body, Some(Tie::Call(tie))))
                    ));
                    // Most bodies are there before the task that runs this comes to look. One that isn't needs this instance
                    // until it is gone, though no task of the guest's may: the guest passed on what it got.
                    let _ = poll_fn(|cx| {
                        desk.gather(cx);
                        Pin::new(&mut *gone).poll(cx)
                    })
                    .await;
                    poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
                    Ok(())
                });
                pin!(run).await?
            }
        }
    }

    /// Reads how long its current request waits for models.
    pub(crate) fn nn_usage(&self) -> UsageReader {
        self.store.data().nn_usage()
    }

    /// What a call's `error` means to its client; `None` where the guest ended itself without complaint.
    pub(crate) fn failure(&mut self, error: &wasmtime::Error) -> Option<Failure> {
        let failure = failure_of(self.store.data_mut(), error);
        // Not in the midst of its response.
        failure.or_else(|| {
            let is_unfinished = self.left() == Left::Unfinished;
            is_unfinished.then_some(Failure::Exited { status: 0 })
        })
    }

    /// The parts of a WASI 0.3 instance.
    pub(crate) fn into_service(mut self) -> (Store<Guest>, Option<Service>) {
        // Whoever has the store cuts off what it sends.
        self.writing.uploads = None;
        match self.exports {
            Exports::P2(_) => (self.store, None),
            Exports::P3(service) => (self.store, Some(service)),
        }
    }
}

/// What the `error` of a call into `guest` means to its client; `None` where it ended itself without complaint.
pub(crate) fn failure_of(guest: &mut Guest, error: &wasmtime::Error) -> Option<Failure> {
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return (exit.0 != 0).then_some(Failure::Exited { status: exit.0 });
    }
    // What has a cause of its own comes first: a guest may have dealt with what it was refused.
    if let Some(Trap::StackOverflow) = error.downcast_ref() {
        return Some(Failure::StackExhausted);
    }
    if matches!(error.downcast_ref(), Some(ResourceTableError::Full)) || is_handle_limit(error) {
        return Some(Failure::Handles {
            allowed: guest.handles(),
        });
    }
    let refusal = guest.take_refusal();
    Some(refusal.map_or(Failure::Trapped, Failure::from))
}

/// wasmtime has no type for this error.
fn is_handle_limit(error: &wasmtime::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.to_string().contains("store handle limit exceeded"))
}
