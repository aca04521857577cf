//! The request path: accept → admit → instance → component → respond.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::header::CONNECTION;
use http::{HeaderValue, Method, Request, Response, Version};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use wisp_admit::Permit;
use wisp_burst::Peer;

use crate::answer::{Answer, Timing};
use crate::body::{Body, Hold, Rest, Sent};
use crate::failure::Failure;
use crate::function::{Function, Mode};
use crate::instance::{Instance, Left};
use crate::outcome::Outcome;
use crate::pool::Instances;
use crate::process::Host;
use crate::record::{Access, Record};
use crate::request::{self, GuestRequest, Limited, Upload};
use crate::respond;
use crate::running::{Begun, Elapsed, Running, until_head, within};
use crate::said::said;
use crate::shared::{Refused, Served, Shared, Ticket};
use crate::written::{Desk, Tie, Written};

/// A request's body of so many bytes is read with its head, whether or not the guest wants it.
const LITTLE: u64 = 4096;
/// How often it is looked whether a client is there still whose request nobody reads.
const LOOKED_AFTER: Duration = Duration::from_secs(1);

/// A client left whose request nobody had read yet.
#[derive(Debug, thiserror::Error)]
#[error("the client left before it was answered")]
pub(crate) struct Gone;

/// Answers one request, of a client that knows the key or doesn't. Dropping the future cancels the guest: hyper does that when the
/// client is gone, as far as it can know.
///
/// # Errors
/// When it doesn't know that the client is gone.
pub(crate) async fn serve(
    host: Arc<Host>,
    function: Arc<Function>,
    mut request: Request<Incoming>,
    is_known: bool,
    client: Peer,
) -> Result<Response<Body>, Gone> {
    let began = Instant::now();
    let id = request::id(request.headers_mut());
    let access = host.access_log().map(|log| Access {
        log,
        function: function.name.clone(),
        method: request.method().clone(),
        uri: request.uri().clone(),
    });
    let mut record = Record::begin(began, Arc::clone(&id), host.metrics(), access);
    let (parts, body) = request.into_parts();
    let version = parts.version;
    let sent = Sent::to(&parts.method, version);
    let is_little = body.size_hint().upper().is_some_and(|most| most <= LITTLE);
    let (body, upload) = Limited::new(body, version, function.limits.request_body);
    record.reads(&upload);
    let request = Request::from_parts(parts, body);
    let is_large = version < Version::HTTP_2 && !is_little;
    let answered = if is_known {
        let mut answered = pin!(answer(&function, request, &upload, &id, began));
        if is_large {
            tokio::select! {
                biased;
                answered = &mut answered => answered,
                () = left(&client, &upload) => return Err(Gone),
            }
        } else {
            answered.await
        }
    } else {
        Err(Failure::WrongKey)
    };
    // Whoever goes on beside its answer may read on.
    let is_left = match &answered {
        Ok(answer) if !answer.is_whole() => upload.is_left(),
        _ => !upload.has_ended(),
    };
    let mut response = match answered {
        Ok(answer) => answer.into_response(record),
        Err(failure) => respond::problem(&failure, sent, record),
    };
    if is_large && is_left {
        // The next request would wait until what is left of this one's body is read, or given up with the connection.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    Ok(response)
}

/// Waits until the client is gone. Over HTTP/1.1 hyper finds that at the end of what it reads, and reads no further than somebody
/// asks it to.
async fn left(client: &Peer, upload: &Upload) {
    while !upload.has_ended() {
        tokio::time::sleep(LOOKED_AFTER).await;
        if client.is_gone() {
            return;
        }
    }
    std::future::pending().await
}

async fn answer(
    function: &Arc<Function>,
    request: GuestRequest,
    upload: &Upload,
    id: &Arc<str>,
    began: Instant,
) -> Result<Answer, Failure> {
    let deadline = tokio::time::Instant::from_std(began) + function.limits.timeout;

    // What is refused here costs neither a place nor an instance.
    let allowed = function.limits.request_body;
    let length = request::declared_length(request.headers(), allowed)?;
    let request = request::with_authority(request)?;
    let (method, version) = (request.method().clone(), request.version());

    // A place to run, or one in the queue.
    let permit = function.limiter.acquire(length, deadline).await?;

    // The guest, in an instance of its own or in one that it shares.
    let call = Call {
        id: Arc::clone(id),
        deadline,
        permit,
        request,
    };
    let answered = match &function.instances {
        Mode::Single(instances) => alone(function, instances, call).await,
        Mode::Shared(shared) => together(function, shared, call).await,
    };

    // Whatever the guest made of a body that was cut off: the client is told the cause.
    if upload.is_too_large() {
        return Err(Failure::BodyTooLarge { allowed });
    }
    if upload.is_broken() {
        return Err(Failure::BodyBroken);
    }
    match answered {
        // It is the client who was waited for.
        Err(Failure::Timeout { allowed }) if upload.is_awaited() => {
            Err(Failure::BodyTooSlow { allowed })
        }
        answered => answered?.checked(&method, version),
    }
}

/// A request that has its place.
struct Call {
    id: Arc<str>,
    deadline: tokio::time::Instant,
    permit: Permit,
    request: GuestRequest,
}

/// One request in one instance. The guest runs in this task until it has an answer: most are done by then.
async fn alone(
    function: &Arc<Function>,
    instances: &Instances,
    call: Call,
) -> Result<Answer, Failure> {
    let queued = call.permit.waited();
    let since = Instant::now();
    let instance = match within(call.deadline, pin!(instances.take(&call.id))).await {
        Ok(Ok(instance)) => instance,
        Ok(Err((failure, error))) => {
            log_cause(function, &call.id, &failure, &said(&error));
            return Err(failure);
        }
        Err(_) => {
            return Err(Failure::Timeout {
                allowed: function.limits.timeout,
            });
        }
    };
    let instantiated = since.elapsed();
    let nn = instance.nn_usage();
    let id = Arc::clone(&call.id);
    let outcome = Outcome::default();
    let desk = Desk::default();
    let mut running = run(
        Arc::clone(function),
        instance,
        call,
        desk.clone(),
        outcome.clone(),
    );
    let (head, rest) = match until_head(&mut running, &desk).await? {
        Begun::Done(head) => (head, None),
        // What is left to do doesn't wait for the client to read, nor for hyper to ask.
        Begun::Running(head) => (head, Some(Rest::new(tokio::spawn(running).abort_handle()))),
    };
    let timing = Timing {
        queued,
        instantiated,
        nn: nn.usage().time,
        startup: function.startup_once(),
    };
    match head {
        Ok(mut response) => {
            gather(&mut response).await;
            Ok(Answer::new(response, rest, outcome, None, timing))
        }
        Err(code) => {
            log_cause(function, &id, &Failure::ErrorCode, &code);
            Err(Failure::ErrorCode)
        }
    }
}

/// One request among others in an instance.
async fn together(function: &Function, shared: &Shared, call: Call) -> Result<Answer, Failure> {
    let timing = Timing {
        queued: call.permit.waited(),
        startup: function.startup_once(),
        ..Timing::default()
    };
    let permit = Arc::new(call.permit);
    let instance = Arc::default();
    let ticket = Ticket {
        id: Arc::clone(&call.id),
        deadline: call.deadline,
        permit: Arc::clone(&permit),
        instance: Arc::clone(&instance),
    };
    let version = call.request.version();
    let request = call.request.map(|body| body.boxed_unsync());
    // Making an instance may take as long as a request may: together that would be twice as long.
    let handled = within(call.deadline, pin!(shared.handle(request, ticket))).await;
    let handled = handled.unwrap_or_else(|Elapsed| {
        let allowed = function.limits.timeout;
        Err(Refused {
            failure: Failure::Timeout { allowed },
            cause: None,
        })
    });
    match handled {
        Ok(response) => {
            let served = instance.get();
            let unread = served.and_then(Served::unread).map(Tie::Instance);
            let mut response = response.map(|body| Written::new(body, unread));
            gather(&mut response).await;
            let hold = (!response.body().is_whole())
                .then(|| Hold::new(permit, call.deadline, version < Version::HTTP_2));
            let outcome = served
                .map(|served| served.outcome.clone())
                .unwrap_or_default();
            Ok(Answer::new(response, None, outcome, hold, timing))
        }
        Err(Refused { failure, cause }) => {
            if let Some(cause) = cause {
                log_cause(function, &call.id, &failure, &cause);
            }
            Err(failure)
        }
    }
}

/// Takes what is there of its body. Of most it is all, though the guest may go on.
async fn gather(response: &mut Response<Written>) {
    poll_fn(|cx| {
        response.body_mut().gather(cx);
        Poll::Ready(())
    })
    .await;
}

/// The guest's call with everything it holds: its place, its instance, its deadline.
fn run(
    function: Arc<Function>,
    mut instance: Instance,
    call: Call,
    desk: Desk,
    outcome: Outcome,
) -> Running {
    let Call {
        id,
        deadline,
        permit,
        request,
    } = call;
    let is_head = request.method() == Method::HEAD;
    Box::pin(async move {
        let has_company = wisp_burst::answers_wait();
        let called = {
            let called = pin!(instance.call(request, &desk));
            within(deadline, called).await
        };
        let failure = match called {
            Ok(Ok(left)) => {
                if left == Left::Unfinished {
                    let cause = "it returned, and its response's body was not finished";
                    log_cause(&function, &id, &Failure::NoResponse, cause);
                    outcome.fail(Failure::NoResponse);
                }
                if let Mode::Single(instances) = &function.instances {
                    let has_company = has_company || function.limiter.load().in_flight > 1;
                    instances.give_back(instance, left, has_company);
                }
                drop(permit);
                // Where the head is out, nobody looks at this.
                return if left == Left::Unfinished && !desk.suffices(is_head) {
                    Err(Failure::NoResponse)
                } else {
                    Ok(())
                };
            }
            Ok(Err(error)) => {
                let failure = instance.failure(&error);
                if let Some(failure) = &failure {
                    log_cause(&function, &id, failure, &said(&error));
                }
                failure
            }
            Err(_) => Some(Failure::Timeout {
                allowed: function.limits.timeout,
            }),
        };
        if let Some(failure) = &failure {
            // Before the instance is dropped, which ends the response's body.
            outcome.fail(failure.clone());
        }
        // The place is free only when the instance is gone.
        drop(instance);
        drop(permit);
        failure.map_or(Ok(()), Err)
    })
}

/// The guest's backtrace is for whoever wrote the function, so it goes to the log and not to the client.
fn log_cause(function: &Function, id: &str, failure: &Failure, cause: &str) {
    if !function.may_tell_of_failure() {
        return;
    }
    tracing::warn!(function = %function.name, request_id = %id, reason = failure.reason(), cause, "{failure}");
}
