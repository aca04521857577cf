//! `#[wisp::init]`: work that is done once, ahead of all requests.
//!
//! A component that was pre-initialised carries [`DONE`] in the snapshot of its memory. In one that was not, the first
//! request finds it empty and does the work.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::Error;

type Init = fn() -> Result<(), String>;

static REGISTERED: OnceLock<Init> = OnceLock::new();
static DONE: OnceLock<Result<(), String>> = OnceLock::new();
static AT_BUILD: AtomicBool = AtomicBool::new(false);

/// Says what the work is. Called ahead of everything, as a constructor.
pub fn register(init: Init) {
    // A component that is instantiated from its snapshot comes by here again.
    let _ = REGISTERED.set(init);
}

/// Does the work where it wasn't done before.
///
/// # Errors
/// When the work failed, now or before.
pub(crate) fn ensure() -> Result<(), Error> {
    let Some(init) = REGISTERED.get() else {
        return Ok(());
    };
    let done = DONE.get_or_init(init);
    done.clone()
        .map_err(|text| Error::internal(format!("`#[wisp::init]` failed: {text}")))
}

/// Whether the component is being built, where there is no host that takes log lines.
pub(crate) fn is_at_build() -> bool {
    AT_BUILD.load(Ordering::Relaxed)
}

/// The component's export `wisp-init`.
#[expect(
    clippy::panic,
    reason = "the export returns nothing: a trap is how it tells the build that it failed"
)]
pub fn run_exported() {
    crate::report::hook_panics();
    AT_BUILD.store(true, Ordering::Relaxed);
    if let Err(error) = ensure() {
        panic!("{}", error.chain());
    }
    AT_BUILD.store(false, Ordering::Relaxed);
}

/// What the function below `#[wisp::init]` may return.
#[diagnostic::on_unimplemented(
    message = "`#[wisp::init]` returns nothing, or a `Result<(), E>` whose error can be shown",
    label = "this function returns `{Self}`"
)]
pub trait Outcome {
    /// The error's text, causes included.
    #[expect(clippy::missing_errors_doc, reason = "it passes on the function's own")]
    fn outcome(self) -> Result<(), String>;
}

impl Outcome for () {
    fn outcome(self) -> Result<(), String> {
        Ok(())
    }
}

impl<E: Into<Error>> Outcome for Result<(), E> {
    fn outcome(self) -> Result<(), String> {
        self.map_err(|error| error.into().chain())
    }
}

/// Registers a function and exports it. The constructor's section is the platform's list of those. A crate that expands this
/// may forbid `unsafe_code`, so it isn't allowed here: lints don't look into macros of other crates.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_init {
    ($function:ident, { $($first:tt)* }) => {
        #[doc(hidden)]
        #[allow(
            dead_code,
            clippy::all,
            reason = "a constructor is found by its section, an export by its name"
        )]
        const _: () = {
            extern "C" fn __wisp_register() {
                $crate::__private::register_init(|| {
                    $($first)*
                    $crate::__private::Outcome::outcome($function())
                });
            }

            #[used]
            #[cfg_attr(
                not(any(target_vendor = "apple", target_os = "windows")),
                unsafe(link_section = ".init_array")
            )]
            #[cfg_attr(
                target_vendor = "apple",
                unsafe(link_section = "__DATA,__mod_init_func")
            )]
            #[cfg_attr(target_os = "windows", unsafe(link_section = ".CRT$XCU"))]
            static __WISP_REGISTER: extern "C" fn() = __wisp_register;

            #[cfg(target_family = "wasm")]
            struct __WispInit;

            #[cfg(target_family = "wasm")]
            impl $crate::__private::init_bindings::Guest for __WispInit {
                fn wisp_init() {
                    $crate::__private::run_init();
                }
            }

            #[cfg(target_family = "wasm")]
            $crate::__private::init_bindings::__export_wisp_init!(__WispInit);
        };
    };
}
