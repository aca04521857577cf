//! The clock that interrupts guests: one thread that moves the epoch of every engine it was given.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use wasmtime::{Engine, EngineWeak};

/// How often an engine's epoch moves. A guest that computes is looked at this often.
pub const TICK: Duration = Duration::from_millis(10);

/// Engines whose epoch moves for as long as this lives.
#[derive(Default)]
pub(crate) struct Ticker {
    engines: Arc<Mutex<Vec<EngineWeak>>>,
}

impl Ticker {
    /// Moves `engine`'s epoch every [`TICK`] until the engine, or this ticker, is dropped.
    ///
    /// # Errors
    /// When the operating system refuses the thread.
    pub(crate) fn watch(&self, engine: &Engine) -> std::io::Result<()> {
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        if engines.is_empty() {
            let list = Arc::downgrade(&self.engines);
            std::thread::Builder::new()
                .name("wisp-epoch".to_owned())
                .spawn(move || tick(&list))?;
        }
        engines.push(engine.weak());
        Ok(())
    }
}

impl fmt::Debug for Ticker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticker").finish_non_exhaustive()
    }
}

fn tick(list: &Weak<Mutex<Vec<EngineWeak>>>) {
    loop {
        std::thread::sleep(TICK);
        let Some(engines) = list.upgrade() else {
            return;
        };
        let mut engines = engines.lock().unwrap_or_else(PoisonError::into_inner);
        engines.retain(|engine| {
            engine
                .upgrade()
                .map(|engine| engine.increment_epoch())
                .is_some()
        });
        if engines.is_empty() {
            return;
        }
    }
}
