//! What a function's component is to its host: bytes that are still to be compiled, or machine code to be mapped.

use wisp_contract::FunctionId;
use wisp_contract::assignment::Wasi as Version;
use wisp_contract::config;
use wisp_engine::cache::Source;
use wisp_engine::{Engines, Footprint, LoadError, Loaded, Loader, Wasi};

use crate::artifacts::Code;

/// A component that is here and not yet loaded.
#[derive(Debug)]
pub(crate) enum Component {
    /// Itself.
    Source(Source),
    /// Its machine code.
    Code(Code),
}

impl Component {
    /// Reads and inspects the file, and logs what there is to say about it.
    ///
    /// # Errors
    /// When it can't be read, or is nothing that can be served.
    pub(crate) fn read(
        config: &config::Component,
        function: &FunctionId,
    ) -> Result<Self, LoadError> {
        let source = Source::read(&config.file, config.sha256.as_deref())?;
        for caution in &source.inspection().cautions {
            tracing::warn!(%function, "{caution}");
        }
        Ok(Self::Source(source))
    }

    /// What one instance of it takes from the pool.
    pub(crate) fn footprint(&self) -> Footprint {
        match self {
            Self::Source(source) => source.inspection().footprint,
            Self::Code(code) => code.footprint(),
        }
    }

    /// The version of WASI that it serves HTTP by.
    pub(crate) fn wasi(&self) -> Wasi {
        match self {
            Self::Source(source) => source.inspection().wasi,
            Self::Code(code) => match code.facts.wasi {
                Version::P2 => Wasi::P2,
                Version::P3 => Wasi::P3,
            },
        }
    }

    /// Whether it imports `wasi:nn`.
    pub(crate) fn asks_models(&self) -> bool {
        match self {
            Self::Source(source) => source.inspection().asks_models(),
            Self::Code(code) => code.facts.asks_models,
        }
    }

    /// The component's digest, in lower-case hex.
    pub(crate) fn sha256(&self) -> &str {
        match self {
            Self::Source(source) => source.sha256(),
            Self::Code(code) => &code.component_sha256,
        }
    }

    /// Maps the machine code, or else compiles the component unless `loader` has done that before.
    ///
    /// # Errors
    /// As [`Loader::load`] and [`Loader::load_code`].
    pub(crate) fn load(&self, loader: &Loader, engines: &Engines) -> Result<Loaded, LoadError> {
        match self {
            Self::Source(source) => loader.load(source, engines),
            Self::Code(code) => {
                let wasi = self.wasi();
                // SAFETY: the digest is the Assignment's, which is of this process' environment or from who has the key of
                // its control port, and decides what it does: the operator, which compiled the code.
                #[expect(
                    unsafe_code,
                    reason = "mapping machine code that the operator compiled"
                )]
                let loaded = unsafe { Loader::load_code(wasi, engines, &code.file) };
                loaded
            }
        }
    }
}
