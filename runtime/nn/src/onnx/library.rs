//! Where is ONNX Runtime's shared library?

use std::error::Error as _;
use std::ffi::{CStr, OsStr};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ort::environment::Environment;
use ort::logging::LogLevel;
use wisp_notices::Notices;

use crate::sentence;

/// The oldest version that will do, as in `ort`'s feature `api-24`.
const OLDEST: &str = "1.24";
/// The version that the tests run with.
const TESTED: &str = "1.31.1";
/// What the library is called, in the cache and by the dynamic linker.
const FILE: &str = "libonnxruntime.so";

/// The loaded library. There is one in a process.
#[derive(Clone)]
pub(crate) struct Library {
    pub(crate) environment: Environment,
    /// Such as `onnxruntime 1.31.1`.
    pub(crate) name: String,
    path: PathBuf,
}

/// ONNX Runtime can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// None of the places has a library that will do.
    #[error(
        "ONNX Runtime {OLDEST} or newer is needed for ONNX models, and was not found.{tried}\n{hint}"
    )]
    NotFound {
        /// A line for each place: what is there.
        tried: String,
        /// How to install it.
        hint: String,
    },
    /// A process can't load two.
    #[error(
        "this process has loaded ONNX Runtime from {loaded} already, and can't load {asked} too"
    )]
    Another {
        /// The loaded library.
        loaded: PathBuf,
        /// The other.
        asked: PathBuf,
    },
    /// The library is there, and doesn't start.
    #[error("ONNX Runtime from {path} doesn't start: {message}")]
    Start {
        /// The library.
        path: PathBuf,
        /// In its own words.
        message: String,
    },
}

/// Loads the library named by `explicit`, and no other; else the newest in `cache`, else the dynamic linker's.
pub(crate) fn library(
    explicit: Option<&Path>,
    cache: Option<&Path>,
) -> Result<Arc<Library>, LibraryError> {
    static LOADED: Mutex<Option<Arc<Library>>> = Mutex::new(None);
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(library) = loaded.as_ref() {
        return match explicit.map(absolute) {
            Some(asked) if asked != library.path => Err(LibraryError::Another {
                loaded: library.path.clone(),
                asked,
            }),
            _ => Ok(Arc::clone(library)),
        };
    }
    let mut tried = String::new();
    let began = Instant::now();
    for path in candidates(explicit, cache) {
        match ort::init_from(&path) {
            Ok(builder) => {
                let library = Arc::new(start(builder, path)?);
                tracing::debug!(
                    millis = began.elapsed().as_secs_f64() * 1e3,
                    "ONNX Runtime is loaded"
                );
                *loaded = Some(Arc::clone(&library));
                return Ok(library);
            }
            Err(error) => {
                // Writing to a String doesn't fail.
                let _ = write!(tried, "\n  {}: {}", path.display(), told(&error));
            }
        }
    }
    Err(LibraryError::NotFound {
        tried,
        hint: hint(cache),
    })
}

fn start(
    builder: ort::environment::EnvironmentBuilder,
    path: PathBuf,
) -> Result<Library, LibraryError> {
    let environment = builder
        .with_name("wisp")
        .with_telemetry(false)
        .with_logger(Arc::new(log))
        .build()
        .map_err(|error| LibraryError::Start {
            path: path.clone(),
            message: error.to_string(),
        })?;
    environment.set_log_level(LogLevel::Warning);
    let version = version(&path).unwrap_or_else(|| "(unknown version)".to_owned());
    Ok(Library {
        environment,
        name: format!("onnxruntime {version}"),
        path,
    })
}

/// It has something to say of each call that a guest gets wrong.
static NOTICES: Notices = Notices::new();

/// How many lines of ONNX Runtime's were not logged since this was last asked: 16 are at once, and one more each second.
#[must_use]
pub fn left_out() -> u64 {
    NOTICES.take_left_out()
}

/// What it writes becomes log lines like everybody's.
fn log(level: LogLevel, _category: &str, _id: &str, location: &str, message: &str) {
    // It repeats names that a guest's model gives its parts.
    match level {
        LogLevel::Verbose | LogLevel::Info => {
            tracing::debug!(target: "onnxruntime", location, "{}", sentence(message));
        }
        // An error comes back to the caller too, who decides how grave it is.
        LogLevel::Warning | LogLevel::Error | LogLevel::Fatal => {
            if NOTICES.take(Instant::now()) {
                tracing::warn!(target: "onnxruntime", location, "{}", sentence(message));
            }
        }
    }
}

/// The version that it tells, which `ort` keeps to itself.
#[expect(unsafe_code, reason = "a function of a shared library is called")]
fn version(path: &Path) -> Option<String> {
    // SAFETY: `ort` has loaded this very library, so its initialisers have run; this takes another reference to it.
    let library = unsafe { libloading::Library::new(path) }.ok()?;
    // SAFETY: `ort` has found the symbol, and ONNX Runtime has never changed its type.
    let base = unsafe {
        library.get::<unsafe extern "C" fn() -> *const ort::sys::OrtApiBase>(b"OrtGetApiBase")
    }
    .ok()?;
    // SAFETY: it takes nothing and gives a pointer to a static, or null.
    let base = unsafe { base().as_ref() }?;
    // SAFETY: it takes nothing and gives a static string that ends with a zero byte.
    let version = unsafe { CStr::from_ptr((base.GetVersionString)()) };
    Some(version.to_string_lossy().into_owned())
}

fn told(error: &ort::LoadDynamicError) -> String {
    match error {
        ort::LoadDynamicError::Dlopen { error, path } => {
            let text = error
                .source()
                .map_or_else(|| error.to_string(), ToString::to_string);
            // The dynamic linker begins with the path, which the line has already.
            let path = path.display().to_string();
            text.strip_prefix(&path).map_or(text.clone(), |rest| {
                rest.trim_start_matches(": ").to_owned()
            })
        }
        ort::LoadDynamicError::MissingApi { .. } => "is a library, but not ONNX Runtime".to_owned(),
        ort::LoadDynamicError::InvalidVersionString => "tells no version".to_owned(),
        ort::LoadDynamicError::BadVersion { version_str, .. } => {
            format!("is version {version_str}, which is too old")
        }
    }
}

fn hint(cache: Option<&Path>) -> String {
    let place = cache.map_or_else(
        || "some folder".to_owned(),
        |cache| {
            cache
                .join("onnxruntime")
                .join(TESTED)
                .join(FILE)
                .display()
                .to_string()
        },
    );
    format!(
        "To install it: `pip download --no-deps onnxruntime=={TESTED}`, unzip the wheel, copy \
         `onnxruntime/capi/libonnxruntime.so.{TESTED}` to {place}; or name a library with --onnxruntime or \
         WISP_ONNXRUNTIME."
    )
}

fn candidates(explicit: Option<&Path>, cache: Option<&Path>) -> Vec<PathBuf> {
    if let Some(path) = explicit {
        return vec![absolute(path)];
    }
    let mut found: Vec<(Vec<u64>, PathBuf)> = cache
        .and_then(|cache| cache.join("onnxruntime").read_dir().ok())
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let library = entry.path().join(FILE);
            library
                .is_file()
                .then(|| (number(&entry.file_name()), library))
        })
        .collect();
    found.sort();
    found
        .into_iter()
        .rev()
        .map(|(_, path)| path)
        .chain([PathBuf::from(FILE)])
        .collect()
}

/// `1.31.1` as numbers, so that 1.31 is newer than 1.9.
fn number(version: &OsStr) -> Vec<u64> {
    version
        .to_string_lossy()
        .split('.')
        .map(|part| part.parse().unwrap_or(0))
        .collect()
}

/// The dynamic linker looks elsewhere for a bare name.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_in_the_cache_is_tried_first_and_the_linkers_last() {
        let cache = tempfile::tempdir().unwrap();
        for version in ["1.9.0", "1.31.1", "1.24.0", "empty"] {
            let folder = cache.path().join("onnxruntime").join(version);
            std::fs::create_dir_all(&folder).unwrap();
            if version != "empty" {
                std::fs::write(folder.join(FILE), "").unwrap();
            }
        }
        let found = candidates(None, Some(cache.path()));
        let in_cache = |version: &str| cache.path().join("onnxruntime").join(version).join(FILE);
        assert_eq!(
            found,
            [
                in_cache("1.31.1"),
                in_cache("1.24.0"),
                in_cache("1.9.0"),
                PathBuf::from(FILE)
            ]
        );
    }

    #[test]
    fn a_named_library_is_the_only_one_tried() {
        assert_eq!(
            candidates(Some(Path::new("/x/lib.so")), Some(Path::new("/cache"))),
            [PathBuf::from("/x/lib.so")]
        );
    }
}
