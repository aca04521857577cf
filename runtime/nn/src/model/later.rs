//! How is a model tried that computes already?
//!
//! A trial computes a hundred items, and the first call would wait for that. So a model whose items take milliseconds computes
//! with one session at first. Once the first call is answered, it is loaded again beside that, and tried, and what comes then
//! is taken by what that gave: batches, or sessions side by side.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::engine::{Around, Current, Engine};
use crate::backend::{Abort, LoadLater};

/// A first call, and a quiet moment after it, are waited for as long.
const FIRST_WITHIN: Duration = Duration::from_secs(1);
/// How often it is tried, until no call came meanwhile.
const ATTEMPTS: u32 = 3;
/// Between them.
const APART: Duration = Duration::from_secs(5);
/// A quiet moment is waited for as long before another attempt.
const NEXT_WITHIN: Duration = Duration::from_secs(30);
/// How often it is looked whether there is one.
const PAUSE: Duration = Duration::from_millis(10);

/// A trial beside the calls, if there is one.
#[derive(Default)]
pub(super) struct Trial(Mutex<Option<Thread>>);

struct Thread {
    handle: JoinHandle<()>,
    stop: Abort,
}

impl Trial {
    /// Loads the model by `load`, on a thread of its own, and has what that gives take its calls.
    pub(super) fn begin(load: LoadLater, around: Around, current: Arc<Current>) -> Self {
        let stop = Abort::new(1);
        let stopped = stop.clone();
        let model = around.name.clone();
        let thread = thread::Builder::new()
            .name(format!("nn-trial-{model}"))
            .spawn(move || follow(&load, &around, &current, &stopped));
        match thread {
            Ok(handle) => Self(Mutex::new(Some(Thread { handle, stop }))),
            Err(error) => {
                tell_untried(&model, &error.to_string());
                Self::default()
            }
        }
    }

    /// Whether it goes on.
    pub(super) fn goes_on(&self) -> bool {
        let thread = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        thread.as_ref().is_some_and(|it| !it.handle.is_finished())
    }

    /// Breaks it off, and waits until it has ended.
    pub(super) fn stop(&self) {
        // Whoever asks whether it goes on doesn't wait.
        let thread = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Thread { handle, stop }) = thread {
            stop.leave();
            // What it panicked of, it told.
            let _ = handle.join();
        }
    }
}

/// Tries it until no call disturbs that, a few times at most.
fn follow(load: &LoadLater, around: &Around, current: &Current, stop: &Abort) {
    let computed = || around.metrics.snapshot().items;
    let is_idle = || current.get().queue.is_idle();
    for attempt in 0..ATTEMPTS {
        if attempt == 0 {
            wait(FIRST_WITHIN, stop, || computed() > 0 && is_idle());
        } else {
            wait(APART, stop, || false);
            wait(NEXT_WITHIN, stop, is_idle);
        }
        let before = computed();
        let loaded = load(stop);
        if stop.is_aborted() {
            return;
        }
        let is_quiet = is_idle() && computed() == before;
        if !is_quiet && attempt > 0 {
            continue;
        }
        let started = loaded.and_then(|mut loaded| {
            if !is_quiet {
                // It does for now. Other hosts would be told for a day what was measured beside calls.
                loaded.tried = None;
            }
            Engine::start(around, loaded, Vec::new()).map_err(|error| error.to_string())
        });
        match started {
            Ok(engine) => {
                engine.tell(&around.name);
                current.set(engine);
            }
            Err(reason) => return tell_untried(&around.name, &reason),
        }
        if is_quiet {
            return;
        }
    }
}

fn tell_untried(model: &str, reason: &str) {
    tracing::warn!(
        model,
        reason,
        "a model could not be tried, and computes each call by itself"
    );
}

/// Waits for a moment of which this is true, but no longer than that.
fn wait(longest: Duration, stop: &Abort, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !stop.is_aborted() && began.elapsed() < longest && !is_so() {
        thread::sleep(PAUSE);
    }
}
