//! How is a model tried that computes already?
//!
//! A trial computes a hundred items, and the first call would wait for that. So a model whose items take milliseconds computes
//! with one session at first. Once the first call is answered, it is loaded again beside that, and tried, and what comes then
//! is taken by what that gave: batches, or sessions side by side.

use std::mem::discriminant;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::engine::{Around, Current, Engine};
use crate::activity::Activity;
use crate::backend::{Abort, LoadLater};

/// A first call, and a quiet moment after it, are waited for as long.
const FIRST_WITHIN: Duration = Duration::from_secs(1);
/// How often it is tried at most, where calls come meanwhile.
const ATTEMPTS: u32 = 2;
/// Between them.
const APART: Duration = Duration::from_secs(5);
/// A quiet moment is waited for as long before another attempt.
const NEXT_WITHIN: Duration = Duration::from_secs(30);
/// How often it is looked whether there is one.
const PAUSE: Duration = Duration::from_millis(10);
/// So many calls don't disturb a trial: of each of its times the best of several counts.
const FEW: u64 = 8;

/// The thread that tries a model beside its calls, if there is one.
#[derive(Default)]
pub(super) struct Beside(Mutex<Option<Thread>>);

struct Thread {
    handle: JoinHandle<()>,
    stop: Abort,
}

impl Beside {
    /// Loads the model by `load`, on a thread of its own, and has what that gives take its calls.
    pub(super) fn begin(load: LoadLater, around: Around, current: Arc<Current>) -> Self {
        let stop = Abort::new(1);
        let stopped = stop.clone();
        let model = around.name.clone();
        let thread = thread::Builder::new()
            .name(format!("nn-trial-{model}"))
            .spawn(move || attempt(&load, &around, &current, &stopped));
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

/// Tries it until calls hardly disturb that, or for the last time.
fn attempt(load: &LoadLater, around: &Around, current: &Current, stop: &Abort) {
    let activity = &*around.activity;
    // What the attempt before found, which serves.
    let mut found = None;
    for attempt in 0..ATTEMPTS {
        if attempt == 0 {
            wait(FIRST_WITHIN, stop, || {
                activity.begun() > 0 && activity.is_idle()
            });
        } else {
            wait(APART, stop, || false);
            wait(NEXT_WITHIN, stop, || activity.is_idle());
        }
        let Some(turn) = turn(activity, stop) else {
            return;
        };
        let (was_idle, before) = (activity.is_idle(), activity.begun());
        let loaded = load(stop);
        drop(turn);
        if stop.is_aborted() {
            return;
        }
        let mut loaded = match loaded {
            Ok(loaded) => loaded,
            Err(reason) => return tell_untried(&around.name, &reason),
        };
        let is_sure = was_idle && activity.begun() - before <= FEW;
        let trial = loaded
            .tried
            .as_ref()
            .map(|tried| discriminant(&tried.trial));
        match found {
            // The sessions that serve are those that it asks for.
            Some(before) if is_sure && before == trial => current.get().learn(loaded.tried),
            Some(_) if !is_sure => {}
            _ => {
                if !is_sure {
                    // It does for now. Other hosts would be told for a day what was measured beside calls.
                    loaded.tried = None;
                }
                match Engine::start(around, loaded, Vec::new()) {
                    Ok(engine) => {
                        engine.tell(&around.name);
                        current.set(engine);
                    }
                    Err(error) => return tell_untried(&around.name, &error.to_string()),
                }
            }
        }
        if is_sure {
            return;
        }
        found = Some(trial);
    }
}

fn tell_untried(model: &str, reason: &str) {
    tracing::warn!(
        model,
        reason,
        "a model could not be tried while it computes"
    );
}

/// Waits until no other model is tried; `None` where this one needn't be any more.
fn turn<'a>(activity: &'a Activity, stop: &Abort) -> Option<MutexGuard<'a, ()>> {
    while !stop.is_aborted() {
        if let Some(turn) = activity.try_trial() {
            return Some(turn);
        }
        thread::sleep(PAUSE);
    }
    None
}

/// Waits for a moment of which this is true, but no longer than that.
fn wait(longest: Duration, stop: &Abort, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !stop.is_aborted() && began.elapsed() < longest && !is_so() {
        thread::sleep(PAUSE);
    }
}
