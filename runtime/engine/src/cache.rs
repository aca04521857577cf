//! From a component's file to something that can be instantiated, without compiling what was compiled before.

use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::mm::{Advice, madvise};
use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::engines::{EngineError, Engines};
use crate::inspect::{InspectError, Inspection, Wasi, inspect};
use crate::sealed::Sealed;
use crate::shim;

mod store;

use store::{Refused, Store};

/// Bytes of compiled components that a cache folder may hold before the least recently used are removed.
pub const DEFAULT_CAPACITY: u64 = 4 << 30;

/// Compiles components, and keeps what it compiled in a folder that processes share.
///
/// Machine code from that folder runs with the rights of this process. So it is mapped only where the folder and the
/// file belong to this user, nobody else may write them, and the bytes have the digest that was recorded when they
/// were compiled. Everything else is compiled anew; so is what a different engine or version compiled.
#[derive(Debug)]
pub struct Loader {
    store: Option<Store>,
}

/// A component that was read and found servable, and not yet compiled.
#[derive(Debug, Clone)]
pub struct Source {
    bytes: Vec<u8>,
    sha256: String,
    inspection: Inspection,
}

/// A component that can be instantiated.
#[derive(Clone)]
pub struct Loaded {
    /// The machine code.
    pub component: Component,
    /// The version of WASI it serves HTTP by, so which of [`Engines`]' engines it belongs to.
    pub wasi: Wasi,
    /// Whether the machine code came from the cache.
    pub cached: bool,
    /// How long loading took.
    pub took: Duration,
}

/// Why a component can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The bytes are nothing that can be served.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// The bytes are not those that were asked for.
    #[error("{} has the sha256 {found}, but {expected} is asked for", path.display())]
    Digest {
        /// The file.
        path: PathBuf,
        /// What it has.
        found: String,
        /// What it should have.
        expected: String,
    },
    /// No engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// wasmtime's compiler refuses it.
    #[error("the component doesn't compile")]
    Compile(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The machine code that was given is none of this engine's.
    #[error("the machine code doesn't fit this engine")]
    Code(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The thread that compiled is gone.
    #[error("the compiler's thread ended early")]
    Thread,
}

impl Source {
    /// Reads, digests and inspects `path`.
    ///
    /// # Errors
    /// When the file can't be read, has another digest than `expected`, or is nothing a host can serve.
    pub fn read(path: &Path, expected: Option<&str>) -> Result<Self, LoadError> {
        let bytes = std::fs::read(path).map_err(|source| InspectError::Read {
            path: path.to_owned(),
            source,
        })?;
        let sha256 = hex::encode(Sha256::digest(&bytes));
        if let Some(expected) = expected.filter(|expected| !expected.eq_ignore_ascii_case(&sha256))
        {
            return Err(LoadError::Digest {
                path: path.to_owned(),
                found: sha256,
                expected: expected.to_owned(),
            });
        }
        Ok(Self {
            inspection: inspect(&bytes)?,
            sha256,
            bytes,
        })
    }

    /// Digests and inspects `bytes`.
    ///
    /// # Errors
    /// When they are nothing a host can serve.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, InspectError> {
        Ok(Self {
            inspection: inspect(&bytes)?,
            sha256: hex::encode(Sha256::digest(&bytes)),
            bytes,
        })
    }

    /// What is in the component.
    #[must_use]
    pub fn inspection(&self) -> &Inspection {
        &self.inspection
    }

    /// The component's digest, in lower-case hex.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The component.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same, of which nothing else is needed.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

impl Loader {
    /// A loader that keeps compiled components in `cache`'s folder `components`, [`DEFAULT_CAPACITY`] bytes at most.
    /// Where that folder can't be written or isn't this user's alone, it compiles every time, and says so once.
    #[must_use]
    pub fn new(cache: &Path) -> Self {
        Self::with_capacity(cache, DEFAULT_CAPACITY)
    }

    /// As [`Loader::new`], with another bound on the folder's size. What was just compiled is always kept.
    #[must_use]
    pub fn with_capacity(cache: &Path, capacity: u64) -> Self {
        let folder = cache.join("components");
        match Store::open(&folder, capacity) {
            Ok(store) => Self { store: Some(store) },
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "compiled components are not kept");
                Self { store: None }
            }
        }
    }

    /// A loader that keeps nothing.
    #[must_use]
    pub fn without_cache() -> Self {
        Self { store: None }
    }

    /// Maps the compiled component, or compiles it on this thread and its helpers, which takes from a tenth of a second
    /// to several.
    ///
    /// # Errors
    /// When there is no engine for it or it doesn't compile. A cache that fails is no error.
    pub fn load(&self, source: &Source, engines: &Engines) -> Result<Loaded, LoadError> {
        let began = Instant::now();
        let wasi = source.inspection.wasi;
        let engine = engines.get(wasi)?;
        let key = format!("{}-{}", source.sha256, compatibility(engine));
        let done = |component, cached| Loaded {
            component,
            wasi,
            cached,
            took: began.elapsed(),
        };
        let Some(store) = &self.store else {
            return Ok(done(compile(engine, &source.bytes)?, false));
        };
        match map(store, &key, engine) {
            Ok(Some(component)) => return Ok(done(component, true)),
            Ok(None) => {}
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, key, "a compiled component in the cache is not used");
            }
        }
        let code = Self::compile(source, engines)?;
        match store
            .insert(&key, &code)
            .and_then(|()| map(store, &key, engine))
        {
            Ok(Some(component)) => Ok(done(component, false)),
            Ok(None) => Ok(done(compile(engine, &source.bytes)?, false)),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, key, "a compiled component could not be kept");
                Ok(done(compile(engine, &source.bytes)?, false))
            }
        }
    }

    /// Maps `code`, the machine code that someone else compiled a component of `wasi` to.
    ///
    /// # Safety
    /// Machine code runs with the rights of this process. So whoever calls this vouches for it: its digest must come
    /// from someone who may decide what this process does, and must be that of what [`Loader::compile`] returned.
    ///
    /// # Errors
    /// When there is no engine for the component, or the code doesn't fit it.
    #[expect(
        unsafe_code,
        reason = "mapping machine code is as safe as where it comes from, which only the caller knows"
    )]
    pub unsafe fn load_code(
        wasi: Wasi,
        engines: &Engines,
        code: &Sealed,
    ) -> Result<Loaded, LoadError> {
        let began = Instant::now();
        let engine = engines.get(wasi)?;
        // SAFETY: the caller vouches for the code.
        let component = unsafe { Self::map_code(engine, code) }?;
        Ok(Loaded {
            component,
            wasi,
            cached: true,
            took: began.elapsed(),
        })
    }

    /// The same on a certain engine.
    ///
    /// # Safety
    /// As [`Loader::load_code`].
    ///
    /// # Errors
    /// When the code doesn't fit the engine.
    #[expect(
        unsafe_code,
        reason = "mapping machine code is as safe as where it comes from, which only the caller knows"
    )]
    pub unsafe fn map_code(engine: &Engine, code: &Sealed) -> Result<Component, LoadError> {
        // SAFETY: wasmtime asks that an `Engine` of this version serialised the bytes, for which the caller vouches, and
        // that nobody changes them while they are mapped: they are sealed.
        let component = unsafe { Component::deserialize_file(engine, code.path()) };
        component.map_err(|error| LoadError::Code(error.into()))
    }

    /// Has at hand what the component's first instance touches: the pages of its machine code, and the image of its
    /// memory. An instance of a component that isn't at hand waits for each of them. Where it can't be, nothing is lost.
    pub fn prefault(component: &Component) {
        if let Err(error) = component.initialize_copy_on_write_image() {
            tracing::debug!(%error, "a component's memory isn't at hand");
        }
        let pages = component.image_range();
        let length = pages.end.addr() - pages.start.addr();
        #[expect(unsafe_code, reason = "a range of memory is made from its ends")]
        // SAFETY: the range is the component's own and stays mapped for as long as it lives; reading it changes nothing.
        let read = unsafe {
            madvise(
                pages.start.cast_mut().cast(),
                length,
                Advice::LinuxPopulateRead,
            )
        };
        if let Err(error) = read {
            tracing::debug!(%error, "a component's machine code isn't at hand");
        }
    }

    /// The machine code of a component, for [`Loader::load_code`] on an engine of the same [`compatibility`]. Takes
    /// from a tenth of a second to several.
    ///
    /// # Errors
    /// When there is no engine for the component or it doesn't compile.
    pub fn compile(source: &Source, engines: &Engines) -> Result<Vec<u8>, LoadError> {
        let engine = engines.get(source.inspection.wasi)?;
        merged(&source.bytes, |bytes| engine.precompile_component(bytes))
    }

    /// Makes sure that the compiled component is in the cache, so that another process can map it. Returns whether it
    /// already was.
    ///
    /// # Errors
    /// As [`Loader::load`].
    pub fn prepare(&self, source: &Source, engines: &Engines) -> Result<bool, LoadError> {
        self.load(source, engines).map(|loaded| loaded.cached)
    }
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded")
            .field("wasi", &self.wasi)
            .field("cached", &self.cached)
            .field("took", &self.took)
            .finish_non_exhaustive()
    }
}

fn compile(engine: &Engine, bytes: &[u8]) -> Result<Component, LoadError> {
    merged(bytes, |bytes| Component::from_binary(engine, bytes))
}

/// Compiles the component without its shim, where it has one.
fn merged<T>(
    component: &[u8],
    compile: impl Fn(&[u8]) -> wasmtime::Result<T>,
) -> Result<T, LoadError> {
    if let Some(merged) = shim::merge(component) {
        match compile(&merged) {
            Ok(compiled) => return Ok(compiled),
            Err(error) => {
                let error: &dyn std::error::Error = error.as_ref();
                tracing::debug!(error, "a component doesn't compile without its shim");
            }
        }
    }
    compile(component).map_err(|error| LoadError::Compile(error.into()))
}

/// The stored component, `None` where there is none.
fn map(store: &Store, key: &str, engine: &Engine) -> Result<Option<Component>, Refused> {
    let Some(path) = store.find(key)? else {
        return Ok(None);
    };
    // SAFETY: wasmtime asks that the file is what an `Engine` of this version serialised and that nobody changes it
    // while it is mapped. `Store::find` returned it only after it found that the folder and the file are this user's
    // and nobody else may write them, and that the bytes have the digest recorded when this crate compiled them; the
    // key holds the hash of everything that decides whether the code fits the engine, and wasmtime checks it again.
    // This crate never changes a stored file: it renames whole files into place and unlinks them, which leaves the
    // mapping as it is.
    #[expect(
        unsafe_code,
        reason = "mapping machine code that this crate compiled and whose digest was checked"
    )]
    let component = unsafe { Component::deserialize_file(engine, &path) };
    component.map(Some).map_err(|error| Refused::Code {
        path,
        source: error.into(),
    })
}

/// A text that is the same for all engines that can run each other's machine code.
#[must_use]
pub fn compatibility(engine: &Engine) -> String {
    let mut hasher = DigestHasher(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    // What is compiled isn't all that wasmtime is given.
    hasher.write(&shim::VERSION.to_le_bytes());
    hex::encode(hasher.0.finalize()).chars().take(16).collect()
}

/// Feeds what is hashed into SHA-256: unlike the standard library's hasher it gives the same value in every build.
struct DigestHasher(Sha256);

impl Hasher for DigestHasher {
    fn finish(&self) -> u64 {
        0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

/// The digest of all that is left to read in `file`, in lower-case hex.
fn digest(file: &mut File) -> std::io::Result<String> {
    let mut sha256 = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(sha256.finalize())),
            read => sha256.update(buffer.get(..read).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests;
