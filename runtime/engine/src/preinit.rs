//! Initialisation ahead of time: `#[wisp::init]` runs once, where the component is built, and the memory it leaves
//! becomes part of the component. Every fresh instance then starts from there.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use wasmtime::component::Component;
use wasmtime::{Engine, OptLevel, Store};
use wasmtime_wizer::Wizer;

use crate::cpu::Cpu;
use crate::engines::config;
use crate::inspect::{Init, InspectError, Inspection, Wasi, inspect};
use crate::ticker::Ticks;

mod sandbox;

use sandbox::Sandbox;
use wisp_contract::log::chain;

#[cfg(test)]
mod tests;

/// The function that a component with an initialisation exports: `wisp-init: func()`.
pub const EXPORT: &str = "wisp-init";

/// The custom section that marks a component whose initialisation ran. It holds the section format's version, 1.
pub const SECTION: &str = "wisp:preinit";

/// What there is to say of an initialisation that drew random numbers.
pub const RANDOM: &str = "the initialisation drew random numbers, which are the same in every instance and in whoever reads the component, as \
    is all that comes of them: neither keys nor ids may, and a generator that was seeded there goes on from the same place \
    everywhere; draw them in the handler";

/// How much an initialisation may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From its call to its return. It ends a little later than that: [`crate::TICK`] and what a host call takes.
    pub timeout: Duration,
    /// Bytes of each linear memory.
    pub memory: usize,
    /// Bytes of the component with the memory that it leaves.
    pub component: usize,
}

impl Default for Limits {
    /// A minute, a GiB, and 128 MiB: operators take no larger component.
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(60),
            memory: 1 << 30,
            component: 128 << 20,
        }
    }
}

/// A component after [`preinit`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preinit {
    /// The component to deploy.
    pub component: Vec<u8>,
    /// What became of the initialisation.
    pub outcome: Outcome,
    /// What the initialisation printed, at most 64 KiB.
    pub output: String,
}

/// What became of an initialisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The component has none, or it already ran: nothing was done.
    Nothing,
    /// It ran, and its memory is part of the component.
    Snapshot {
        /// How long the initialisation itself took: what every fresh instance saves.
        init: Duration,
        /// How long all of it took.
        took: Duration,
        /// The component's bytes before.
        before: usize,
        /// The component's bytes now.
        after: usize,
        /// Whether it drew random numbers: then [`RANDOM`] is to be said.
        drew_random: bool,
    },
    /// The component is as it was, and runs its initialisation itself in every instance. The sentence says why.
    Plain(String),
}

/// Why there is no component to deploy.
#[derive(Debug, thiserror::Error)]
pub enum PreinitError {
    /// The bytes are nothing that can be served.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// The function's own code failed, so it would fail in every instance.
    #[error(
        "the function's initialisation (#[wisp::init]) failed{}",
        quoted(output)
    )]
    Failed {
        /// What it printed.
        output: String,
        /// The trap.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It didn't come to an end.
    #[error("the function's initialisation (#[wisp::init]) ran for longer than {} s{}", timeout.as_secs_f64(), quoted(output))]
    Timeout {
        /// What it was allowed.
        timeout: Duration,
        /// What it printed.
        output: String,
    },
    /// It called what isn't there when a component is built.
    #[error(
        "the function's initialisation (#[wisp::init]) called `{call}`: it runs once, when the component is built, \
         where there are no models, stores, configuration or network; move the call into the handler"
    )]
    HostCall {
        /// `wasi:nn/graph@0.2.0-rc-2024-10-28#load-by-name`.
        call: String,
    },
    /// It left more memory than a component may hold.
    #[error(
        "the function's initialisation (#[wisp::init]) leaves too much memory: with it the component has {bytes} bytes, \
         and may have {limit}; load what is large in the handler, or as a model"
    )]
    TooLarge {
        /// What the component would have.
        bytes: usize,
        /// What it may have.
        limit: usize,
    },
    /// wasmtime's compiler refuses the component.
    #[error("the component doesn't compile")]
    Compile(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No engine.
    #[error("no WebAssembly engine can be made on this machine")]
    Engine(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Runs the component's initialisation, where it has one that didn't run yet, and puts its memory into the component.
///
/// It sees WASI's clocks, random numbers, standard output and an empty environment; it has no files, no network, and
/// any other import ends it with [`PreinitError::HostCall`]. What can't be snapshotted comes back as it was.
///
/// The random numbers follow from the component's SHA-256, and the wall clock stands still, so that the same component
/// comes to the same bytes; unless it keeps what the monotonic clock, which runs, says.
///
/// Blocks: compiles the component without optimisation, then runs guest code on a thread of its own.
///
/// # Errors
/// When the bytes are nothing that can be served, or the initialisation fails.
pub fn preinit(bytes: &[u8], limits: &Limits) -> Result<Preinit, PreinitError> {
    let inspection = inspect(bytes)?;
    if inspection.init != Init::Pending {
        return Ok(Preinit {
            component: bytes.to_vec(),
            outcome: Outcome::Nothing,
            output: String::new(),
        });
    }
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new()
            .name("wisp-init".to_owned())
            .spawn_scoped(scope, || run(bytes, &inspection, limits))
            .map_err(|error| PreinitError::Engine(error.into()))?;
        match worker.join() {
            Ok(result) => result,
            // The snapshotter asserts what it doesn't support.
            Err(_) => Ok(plain(
                bytes,
                "the snapshotter doesn't support this component".to_owned(),
                String::new(),
            )),
        }
    })
}

fn plain(bytes: &[u8], why: String, output: String) -> Preinit {
    Preinit {
        component: bytes.to_vec(),
        outcome: Outcome::Plain(why),
        output,
    }
}

fn run(bytes: &[u8], inspection: &Inspection, limits: &Limits) -> Result<Preinit, PreinitError> {
    let began = Instant::now();
    let wizer = {
        let mut wizer = Wizer::new();
        wizer.init_func(EXPORT).keep_init_func(true);
        wizer
    };
    let (context, instrumented) = match wizer.instrument_component(bytes) {
        Ok(instrumented) => instrumented,
        Err(error) => return Ok(plain(bytes, chain(&*error), String::new())),
    };
    let ticks = Ticks::default();
    let _ticking = ticks.tick();
    let engine = engine(inspection.wasi, &ticks)?;
    let component = Component::from_binary(&engine, &instrumented)
        .map_err(|error| PreinitError::Compile(error.into()))?;
    let sandbox = Sandbox::new(bytes, limits);
    let output = sandbox.output();
    let mut store = Store::new(&engine, sandbox);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| PreinitError::Engine(error.into()))?;
    let called = Instant::now();
    let instance = match runtime.block_on(sandbox::call(&mut store, &component, limits)) {
        Ok(instance) => instance,
        Err(error) => return Err(failure(error, limits, output.text())),
    };
    let init = called.elapsed();
    let held = store.data_mut().held();
    if held > 0 {
        let printed = if output.text().is_empty() {
            ""
        } else {
            " (printing opens the standard streams for good: log instead)"
        };
        let why = format!(
            "it still holds {held} of the host's resources, which no snapshot can keep{printed}"
        );
        return Ok(plain(bytes, why, output.text()));
    }
    let snapshot = runtime.block_on(wizer.snapshot_component(
        &context,
        &mut wasmtime_wizer::WasmtimeWizerComponent {
            store: &mut store,
            instance,
        },
    ));
    let component = match snapshot {
        Ok(component) if component.len() > limits.component => {
            return Err(PreinitError::TooLarge {
                bytes: component.len(),
                limit: limits.component,
            });
        }
        Ok(component) => marked(component),
        Err(error) => return Ok(plain(bytes, chain(&*error), output.text())),
    };
    let outcome = Outcome::Snapshot {
        init,
        took: began.elapsed(),
        before: bytes.len(),
        after: component.len(),
        drew_random: store.data().drew_random(),
    };
    Ok(Preinit {
        component,
        outcome,
        output: output.text(),
    })
}

fn engine(wasi: Wasi, ticks: &Ticks) -> Result<Engine, PreinitError> {
    // The code runs once: what an optimiser costs it never earns back.
    let engine = config(wasi, Cpu::here())
        .and_then(|mut config| Engine::new(config.cranelift_opt_level(OptLevel::None)))
        .map_err(|error| PreinitError::Engine(error.into()))?;
    ticks
        .watch(&engine)
        .map_err(|error| PreinitError::Engine(error.into()))?;
    Ok(engine)
}

fn failure(error: wasmtime::Error, limits: &Limits, output: String) -> PreinitError {
    if let Some(sandbox::HostCall(call)) = error.downcast_ref() {
        return PreinitError::HostCall { call: call.clone() };
    }
    if matches!(error.downcast_ref(), Some(wasmtime::Trap::Interrupt))
        || error.is::<sandbox::TimedOut>()
    {
        return PreinitError::Timeout {
            timeout: limits.timeout,
            output,
        };
    }
    PreinitError::Failed {
        output,
        source: error.into(),
    }
}

/// The component with the custom section that says its initialisation ran.
fn marked(mut component: Vec<u8>) -> Vec<u8> {
    let name = SECTION.as_bytes();
    // Section 0; its size and the name's fit one LEB128 byte each.
    let length = |bytes: usize| u8::try_from(bytes).unwrap_or(0x7f) & 0x7f;
    component.extend([0, length(name.len() + 2), length(name.len())]);
    component.extend(name);
    component.push(1);
    component
}

fn quoted(output: &str) -> Cow<'static, str> {
    let output = output.trim();
    if output.is_empty() {
        Cow::Borrowed("")
    } else {
        Cow::Owned(format!("; it printed:\n{output}"))
    }
}
