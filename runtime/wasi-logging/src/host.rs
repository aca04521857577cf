//! `wasi:logging/logging@0.1.0-draft` for guests.

use serde_json::Value;
use wasmtime::component::{HasData, Linker};
use wisp_contract::log::Level;

use crate::clock::Now;
use crate::instance::InstanceLog;

mod bindings {
    wasmtime::component::bindgen!({
        path: "../../sdk/wit/deps/logging",
        world: "wasi:logging/imports",
    });
}

use bindings::wasi::logging::logging as wit;

/// The interface's name in components that were built from a copy of the WIT without its version.
const UNVERSIONED: &str = "wasi:logging/logging";

/// A view of the store's [`InstanceLog`], for [`add_to_linker`].
pub struct WasiLogging<'a>(&'a InstanceLog);

impl<'a> WasiLogging<'a> {
    /// A view of `log`.
    #[must_use]
    pub fn new(log: &'a InstanceLog) -> Self {
        Self(log)
    }
}

struct HasLogging;

impl HasData for HasLogging {
    type Data<'a> = WasiLogging<'a>;
}

impl wit::Host for WasiLogging<'_> {
    fn log(&mut self, level: wit::Level, context: String, message: String) {
        let (level, critical) = match level {
            wit::Level::Trace => (Level::Trace, false),
            wit::Level::Debug => (Level::Debug, false),
            wit::Level::Info => (Level::Info, false),
            wit::Level::Warn => (Level::Warn, false),
            wit::Level::Error => (Level::Error, false),
            wit::Level::Critical => (Level::Error, true),
        };
        let extra = critical.then_some(("critical", Value::Bool(true)));
        self.0.log(level, &context, &message, extra, Now::read());
    }
}

/// Offers `wasi:logging/logging@0.1.0-draft`, and the same without a version, to guests. Messages become lines with the
/// target `guest.log`; a context becomes the field `context`, level critical becomes error with the field `critical`.
///
/// # Errors
/// When the linker has one of the two already.
pub fn add_to_linker<T: 'static>(
    linker: &mut Linker<T>,
    view: fn(&mut T) -> WasiLogging<'_>,
) -> wasmtime::Result<()> {
    wit::add_to_linker::<T, HasLogging>(linker, view)?;
    linker.instance(UNVERSIONED)?.func_wrap(
        "log",
        move |mut store, (level, context, message): (wit::Level, String, String)| {
            wit::Host::log(&mut view(store.data_mut()), level, context, message);
            Ok(())
        },
    )
}
