//! One instance: how it is made, called, and what its failures mean.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::sync::oneshot;
use wasmtime::component::ResourceTableError;
use wasmtime::{Engine, Store, Trap, UpdateDeadline};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::p2::bindings::http::types as types_p2;
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
use wasmtime_wasi_http::p3::bindings::{Service, ServicePre};
use wasmtime_wasi_http::{Error as HttpError, WasiBody, WasiHttpView as _, p3 as http_p3};
use wisp_wasi_nn::UsageReader;

use crate::failure::Failure;
use crate::guest::{Guest, Seed};
use crate::request::GuestRequest;

/// What a guest answers: a response, or the name of the error it chose instead.
pub(crate) type Head = Result<http::Response<WasiBody>, String>;

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
    pub(crate) store: Store<Guest>,
    exports: Exports,
    pub(crate) served: u32,
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
        store.limiter(|guest| &mut guest.meter);
        // A guest that computes yields at every tick, so that its deadline and its neighbours get their turn.
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|_| {
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
                store,
                exports,
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

impl Instance {
    /// Hands `request` to the guest and resolves when the guest's call is over. The answer's head goes to `head` as
    /// soon as the guest has it; the body may go on for as long as this runs.
    pub(crate) async fn call(
        &mut self,
        request: GuestRequest,
        head: oneshot::Sender<Head>,
    ) -> wasmtime::Result<()> {
        self.served += 1;
        // It may have waited since it was made, or since its last call.
        self.store.set_epoch_deadline(1);
        match &self.exports {
            Exports::P2(proxy) => {
                let mut view = self.store.data_mut().http();
                let request = view.new_incoming_request(types_p2::Scheme::Http, request)?;
                let out = view.new_response_outparam_from_callback(move |answer| {
                    // Nobody waits for it where the client is gone.
                    let _ = head.send(answer.map_err(|code| format!("{code:?}")));
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
                let run = self.store.run_concurrent(async |accessor| {
                    let response = match service.handle(accessor, request).await? {
                        Ok(response) => response,
                        Err(code) => {
                            let _ = head.send(Err(format!("{code:?}")));
                            return Ok(());
                        }
                    };
                    let response = accessor.with(|store| response.into_http(store, sent))?;
                    let (tie, gone) = oneshot::channel::<()>();
                    let response = response.map(|body| Tied { body, _tie: tie }.boxed_unsync());
                    let _ = head.send(Ok(response));
                    // A body that the guest passes on without touching it needs this instance, but no task of the
                    // guest's: the call is over when the body is gone and the guest's own tasks are, too.
                    let _ = gone.await;
                    std::future::poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
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
        failure_of(self.store.data_mut(), error)
    }

    /// The parts of a WASI 0.3 instance.
    pub(crate) fn into_service(self) -> (Store<Guest>, Option<Service>) {
        match self.exports {
            Exports::P2(_) => (self.store, None),
            Exports::P3(service) => (self.store, Some(service)),
        }
    }
}

/// A body whose end, or drop, is noticed.
struct Tied {
    body: WasiBody,
    _tie: oneshot::Sender<()>,
}

impl http_body::Body for Tied {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What the `error` of a call into `guest` means to its client; `None` where it ended itself without complaint.
pub(crate) fn failure_of(guest: &mut Guest, error: &wasmtime::Error) -> Option<Failure> {
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return (exit.0 != 0).then_some(Failure::Exited { status: exit.0 });
    }
    if let Some(refusal) = guest.take_refusal() {
        return Some(refusal.into());
    }
    if matches!(error.downcast_ref(), Some(ResourceTableError::Full)) || is_handle_limit(error) {
        return Some(Failure::Handles {
            allowed: guest.handles(),
        });
    }
    match error.downcast_ref() {
        Some(Trap::StackOverflow) => Some(Failure::StackExhausted),
        _ => Some(Failure::Trapped),
    }
}

/// wasmtime has no type for this error.
fn is_handle_limit(error: &wasmtime::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.to_string().contains("store handle limit exceeded"))
}
