//! The executor: one thread, one main future, and the tasks it spawned.

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use crate::platform::reactor;
use crate::report;

/// Runs `future` beside the handler. It goes on after the response was sent, until it is done or the request's time is
/// over, whichever is first: work that must not be lost belongs ahead of the response. Where it waits for what never comes,
/// the log says so.
///
/// ```
/// # use wisp::{Request, Response, Result};
/// async fn handle(_request: Request) -> Result<Response> {
///     wisp::spawn(async {
///         wisp::log::info!("the response is on its way");
///     });
///     Ok(wisp::response::text("ok"))
/// }
/// # wisp::test::block_on(handle(wisp::test::request("GET", "/").build())).unwrap();
/// # assert_eq!(wisp::test::logs()[0].message, "the response is on its way");
/// ```
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    let task = Task {
        future: Box::pin(future),
        signal: Signal::raised(),
        is_told: false,
    };
    TASKS.with_borrow_mut(|tasks| tasks.push(task));
}

thread_local! {
    static TASKS: RefCell<Vec<Task>> = const { RefCell::new(Vec::new()) };
}

struct Task {
    future: Pin<Box<dyn Future<Output = ()>>>,
    signal: Arc<Signal>,
    /// Whether the log says that it can't go on.
    is_told: bool,
}

/// Whether a future asked to be polled.
struct Signal {
    raised: AtomicBool,
    #[cfg(not(target_family = "wasm"))]
    thread: std::thread::Thread,
}

impl Signal {
    fn raised() -> Arc<Self> {
        Arc::new(Self {
            raised: AtomicBool::new(true),
            #[cfg(not(target_family = "wasm"))]
            thread: std::thread::current(),
        })
    }

    fn take(&self) -> bool {
        self.raised.swap(false, Ordering::AcqRel)
    }

    fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Acquire)
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.raised.store(true, Ordering::Release);
        #[cfg(not(target_family = "wasm"))]
        self.thread.unpark();
    }
}

/// A future waits, and nothing that could wake it is under way.
#[derive(Debug, thiserror::Error)]
#[error(
    "the function waits for something that never comes: no timer, no stream and no request is under way"
)]
pub(crate) struct Stalled;

/// Polls `main`, and the tasks beside it, until `main` is done.
pub(crate) fn block_on<F: Future>(main: F) -> Result<F::Output, Stalled> {
    let mut main = pin!(main);
    let signal = Signal::raised();
    let waker = Waker::from(Arc::clone(&signal));
    let mut turns = 0;
    loop {
        if signal.take()
            && let Poll::Ready(output) = main.as_mut().poll(&mut Context::from_waker(&waker))
        {
            return Ok(output);
        }
        poll_tasks();
        if signal.is_raised() || any_task_raised() {
            look(&mut turns);
        } else {
            reactor::park()?;
            turns = 0;
        }
    }
}

/// Somebody goes on at once, as one that yields to others does: what those wait for may have come.
fn look(turns: &mut u32) {
    *turns += 1;
    if *turns >= reactor::TURNS {
        reactor::look();
        *turns = 0;
    }
}

/// Polls the tasks that are left until they are done, or stalled.
pub(crate) fn drain() {
    let mut turns = 0;
    while TASKS.with_borrow(|tasks| !tasks.is_empty()) {
        poll_tasks();
        if any_task_raised() {
            look(&mut turns);
        } else if TASKS.with_borrow(|tasks| !tasks.is_empty()) {
            if let Err(stalled) = reactor::park_if_waiting() {
                return tell(&stalled);
            }
            turns = 0;
        }
    }
}

/// Once for each task: an instance that serves again has them still.
fn tell(stalled: &Stalled) {
    let untold = TASKS.with_borrow_mut(|tasks| {
        tasks
            .iter_mut()
            .filter_map(|task| (!std::mem::replace(&mut task.is_told, true)).then_some(()))
            .count()
    });
    if untold > 0 {
        report::error(&format!(
            "{untold} of the tasks beside the handler, as `wisp::spawn` begins, didn't end: {stalled}"
        ));
    }
}

fn any_task_raised() -> bool {
    TASKS.with_borrow(|tasks| tasks.iter().any(|task| task.signal.is_raised()))
}

fn poll_tasks() {
    if !any_task_raised() {
        return;
    }
    // A task may spawn others, so the list isn't borrowed while one is polled.
    let mut tasks = TASKS.take();
    tasks.retain_mut(|task| {
        if !task.signal.take() {
            return true;
        }
        let waker = Waker::from(Arc::clone(&task.signal));
        task.future
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    });
    TASKS.with_borrow_mut(|spawned| {
        tasks.append(spawned);
        *spawned = tasks;
    });
}

#[cfg(test)]
mod tests;
