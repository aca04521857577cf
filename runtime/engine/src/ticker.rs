//! The clock that interrupts guests: one thread that moves the epoch of every engine it was given, while guests may compute.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, Thread};
use std::time::Duration;

use wasmtime::{Engine, EngineWeak};

/// How often an engine's epoch moves. A guest that computes is looked at this often.
pub const TICK: Duration = Duration::from_millis(10);
/// Ticks without a guest after which the thread sleeps. To wake it costs whoever does so some microseconds, and a tick costs
/// half as much as that in a virtual machine.
const QUIET: u32 = 10;

/// Moves epochs, every [`TICK`], for as long as there is a [`Ticking`] of it.
///
/// A host whose guests all wait for their next request would take half a hundredth of a processor to move epochs for nobody.
#[derive(Clone, Default)]
pub struct Ticks(Arc<Clock>);

/// While this lives the epochs move. Whoever has a guest compute holds one, or nothing interrupts it.
pub struct Ticking(Arc<Clock>);

#[derive(Default)]
struct Clock {
    ticking: AtomicUsize,
    sleeps: AtomicBool,
    watched: Mutex<Watched>,
}

#[derive(Default)]
struct Watched {
    engines: Vec<EngineWeak>,
    /// There is one while there are engines.
    thread: Option<Thread>,
}

impl Ticks {
    /// Has the epochs move until what this returns is dropped.
    #[must_use]
    pub fn tick(&self) -> Ticking {
        // Either this sees that the thread sleeps, or the thread sees this before it does.
        if self.0.ticking.fetch_add(1, SeqCst) == 0 && self.0.sleeps.load(SeqCst) {
            self.0.wake();
        }
        Ticking(Arc::clone(&self.0))
    }

    /// Moves `engine`'s epoch, too, until the engine, or all of this, is dropped.
    ///
    /// # Errors
    /// When the operating system refuses the thread.
    pub(crate) fn watch(&self, engine: &Engine) -> std::io::Result<()> {
        let mut watched = self.0.watched();
        if watched.engines.is_empty() {
            let clock = Arc::downgrade(&self.0);
            let thread = thread::Builder::new()
                .name("wisp-epoch".to_owned())
                .spawn(move || run(&clock))?;
            watched.thread = Some(thread.thread().clone());
        }
        watched.engines.push(engine.weak());
        Ok(())
    }
}

impl Clock {
    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        if let Some(thread) = &self.watched().thread {
            thread.unpark();
        }
    }

    /// Moves all epochs once, and tells whether there are any.
    fn tick(&self) -> bool {
        let engines = &mut self.watched().engines;
        engines.retain(|engine| {
            engine
                .upgrade()
                .map(|engine| engine.increment_epoch())
                .is_some()
        });
        !engines.is_empty()
    }

    fn is_quiet(&self) -> bool {
        self.ticking.load(SeqCst) == 0
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        // The thread sees that it is gone.
        self.wake();
    }
}

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.ticking.fetch_sub(1, SeqCst);
    }
}

impl fmt::Debug for Ticks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticks").finish_non_exhaustive()
    }
}

impl fmt::Debug for Ticking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticking").finish_non_exhaustive()
    }
}

/// Moves the epochs until `clock`, or the last of its engines, is gone.
fn run(clock: &Weak<Clock>) {
    let mut quiet = 0;
    loop {
        thread::sleep(TICK);
        let Some(here) = clock.upgrade() else { return };
        here.sleeps.store(false, SeqCst);
        quiet = if here.is_quiet() { quiet + 1 } else { 0 };
        if !here.tick() {
            return;
        }
        if quiet >= QUIET {
            here.sleeps.store(true, SeqCst);
            let sleeps = here.is_quiet();
            // Held while it sleeps, it would never be gone.
            drop(here);
            if sleeps {
                thread::park();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use wasmtime::{Config, Module, Store, Trap};

    use super::*;

    /// Patience for the slowest machine.
    const LONG: Duration = Duration::from_secs(30);

    fn engine() -> Engine {
        Engine::new(Config::new().epoch_interruption(true)).unwrap()
    }

    /// Interrupts a guest that would compute for ever, by its next tick.
    fn interrupt(engine: &Engine) {
        let spins = r#"(module (func (export "spin") (loop br 0)))"#;
        let module = Module::new(engine, wat::parse_str(spins).unwrap()).unwrap();
        let mut store = Store::new(engine, ());
        store.set_epoch_deadline(1);
        let instance = wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
        let spin = instance.get_typed_func::<(), ()>(&mut store, "spin");
        let error = spin.unwrap().call(&mut store, ()).unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&Trap::Interrupt));
    }

    fn until(what: &str, is_so: impl Fn() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < LONG, "{what}");
            thread::sleep(TICK / 10);
        }
    }

    /// Would fail if the thread ticked on for nobody; hang if it slept beside a guest, or weren't woken for the next.
    #[test]
    fn epochs_move_while_somebody_needs_them() {
        let ticks = Ticks::default();
        let engine = engine();
        ticks.watch(&engine).unwrap();
        for _ in 0..3 {
            until("it never sleeps", || ticks.0.sleeps.load(SeqCst));
            let ticking = ticks.tick();
            interrupt(&engine);
            until("it is said to sleep", || !ticks.0.sleeps.load(SeqCst));
            thread::sleep(2 * QUIET * TICK);
            assert!(!ticks.0.sleeps.load(SeqCst), "it sleeps beside a guest");
            interrupt(&engine);
            drop(ticking);
        }
    }

    /// Would hang if a guest that begins as the thread falls asleep were overlooked.
    #[test]
    fn none_is_overlooked_that_begins_as_the_clock_falls_asleep() {
        let ticks = Ticks::default();
        let engine = engine();
        ticks.watch(&engine).unwrap();
        for turn in 0..20 {
            // About when it does.
            thread::sleep(QUIET * TICK + Duration::from_micros(500) * turn);
            let _ticking = ticks.tick();
            interrupt(&engine);
        }
    }

    /// Would fail if a thread that sleeps outlived its clock.
    #[test]
    fn the_thread_ends_with_its_clock() {
        let ticks = Ticks::default();
        let watched = engine();
        ticks.watch(&watched).unwrap();
        until("it never sleeps", || ticks.0.sleeps.load(SeqCst));
        let name = |id: &str| std::fs::read_to_string(format!("/proc/self/task/{id}/comm"));
        let threads = || {
            let all = std::fs::read_dir("/proc/self/task").unwrap();
            let all = all.map(|task| task.unwrap().file_name().into_string().unwrap());
            all.filter(|id| name(id).is_ok_and(|name| name == "wisp-epoch\n"))
                .collect::<Vec<_>>()
        };
        let ours = threads();
        drop(ticks);
        // Those of other tests may end, too.
        until("it outlives its clock", || threads().len() < ours.len());
    }
}
