//! From a declared function to what a replica is told: its component built, checked, compiled ahead, and put where no
//! later build changes it.

use std::fs::Metadata;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sha2::{Digest, Sha256};
use wisp_api::ConfigError;
use wisp_contract::{FunctionConfig, FunctionId};
use wisp_engine::cache::Source;
use wisp_engine::preinit;
use wisp_engine::{Engines, LoadError, Loader, PreinitError};

use super::console::Event;
use super::manifests::Declared;
use crate::build::{self, BuildError, Built, Init};
use crate::cargo::{CargoError, Messages};
use crate::failure::{self, Explain as _};
use crate::terminal::harmless_lines;

/// The folder beside a function's manifest that `wisp dev` keeps its own files in.
pub(crate) const OWN: &str = ".wisp";
/// Digits of a component's digest in its copy's name, and what comes after them.
const DIGITS: usize = 16;
const ENDING: &str = ".wasm";

/// What a replica is told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Prepared {
    /// What to run and within which limits.
    pub(crate) config: FunctionConfig,
    /// Differs wherever a replica would do something else: the revision's name.
    pub(crate) digest: String,
}

/// What a build of a Cargo project came to.
#[derive(Debug, Clone)]
pub(crate) struct Project {
    built: Built,
    took: Duration,
}

/// Why a function can't run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Preinit(#[from] PreinitError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the file of the model `{model}`, {}, could not be read", path.display())]
    Model {
        model: String,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{} could not be written", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("the work was interrupted: {0}")]
    Interrupted(String),
}

impl PrepareError {
    /// The whole story, for the terminal: the compiler's messages, and what to do, too. All but the compiler's words, which may
    /// have colours, does nothing to a terminal.
    pub(crate) fn story(&self) -> String {
        let messages = match self {
            Self::Build(BuildError::Cargo(
                CargoError::Compile { messages, .. } | CargoError::NoTarget { messages },
            )) => messages.trim_end(),
            _ => "",
        };
        let is_told = self.is_compilers() && !messages.is_empty();
        let hint = match self {
            Self::Build(error) => error.hint(),
            _ => None,
        };
        let again = "save any file of the project to have it built again";
        let hints = [hint, self.is_elsewhere().then(|| again.to_owned())];
        let hints = hints.into_iter().flatten();
        let words = (!is_told).then(|| harmless_lines(&failure::chain(self)));
        words
            .into_iter()
            .chain((!messages.is_empty()).then(|| messages.to_owned()))
            .chain(hints.map(|hint| format!("hint: {}", harmless_lines(&hint))))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Whether the compiler's messages say it.
    fn is_compilers(&self) -> bool {
        matches!(
            self,
            Self::Build(BuildError::Cargo(CargoError::Compile { .. }))
        )
    }

    /// Whether it may be mended without a change of any file that is watched.
    fn is_elsewhere(&self) -> bool {
        matches!(
            self,
            Self::Build(BuildError::Cargo(
                CargoError::Start(_) | CargoError::NoTarget { .. } | CargoError::Ended(_)
            ))
        )
    }

    /// Whether it is Ctrl-C that ended the build: Cargo, which is in the terminal's group, hears it, too.
    pub(crate) fn is_interrupted(&self) -> bool {
        matches!(
            self,
            Self::Build(BuildError::Cargo(CargoError::Ended(status)))
                if status.signal() == Some(Signal::INT.as_raw())
        )
    }

    /// One sentence, for who sent a request.
    pub(crate) fn sentence(&self) -> String {
        if self.is_compilers() {
            "its project doesn't compile: the terminal of `wisp dev` shows why".to_owned()
        } else {
            failure::chain(self)
        }
    }
}

impl Project {
    /// Builds the project in `dir`. Blocks.
    ///
    /// # Errors
    /// As [`build::build`].
    pub(crate) fn build(dir: &Path, color: bool) -> Result<Self, PrepareError> {
        let began = Instant::now();
        let built = build::build(dir, Messages::Keep { color })?;
        Ok(Self {
            built,
            took: began.elapsed(),
        })
    }

    /// The file that rustc wrote.
    pub(crate) fn compiled(&self) -> &Path {
        &self.built.compiled
    }

    /// What to print of it.
    pub(crate) fn event(&self, function: String) -> Event {
        let built = &self.built;
        event(
            function,
            self.took,
            built.bytes,
            &built.init,
            &built.cautions,
        )
    }
}

/// What to print of a component that is ready, which `took` so long.
fn event(function: String, took: Duration, bytes: u64, init: &Init, cautions: &[String]) -> Event {
    let mut notes = cautions.to_vec();
    let init_millis = match init {
        Init::Snapshot {
            init_millis,
            drew_random,
            ..
        } => {
            if *drew_random {
                notes.push(preinit::RANDOM.to_owned());
            }
            Some(*init_millis)
        }
        Init::Plain { why } => {
            notes.push(format!("its initialisation runs in every instance: {why}"));
            None
        }
        Init::None => None,
    };
    Event::Built {
        function,
        millis: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        bytes,
        init_millis,
        notes,
    }
}

/// Checks the function's files and compiles its component into the cache, so that a replica only maps it. That of a component
/// which somebody else built is told, as its build is of a project's. Blocks.
///
/// # Errors
/// When a file can't be read, or the component is none that a host serves.
pub(crate) fn prepare(
    declared: &Declared,
    dir: &Path,
    project: Option<&Project>,
    loader: &Loader,
    engines: &Engines,
    tell: impl Fn(Event),
) -> Result<Prepared, PrepareError> {
    let own = dir.join(OWN);
    let key_value = own.join(format!(
        "{}.{}",
        declared.id.namespace(),
        declared.id.name()
    ));
    let built = project.map(|project| project.built.file.clone());
    let files = declared.function.local_files(dir, built, key_value)?;
    let mut config = declared
        .function
        .to_config(&files, declared.values.clone())?;
    let read = || Source::read(&config.component.file, config.component.sha256.as_deref());
    // What was built here was initialised by its build.
    let source = if project.is_some() {
        let source = read()?;
        loader.prepare(&source, engines)?;
        source
    } else {
        let (function, began) = (declared.id.to_string(), Instant::now());
        tell(Event::Building {
            function: function.clone(),
        });
        let (source, init) = initialised(read()?)?;
        loader.prepare(&source, engines)?;
        let (took, bytes) = (began.elapsed(), source.bytes().len() as u64);
        let cautions = &source.inspection().cautions;
        tell(event(function, took, bytes, &init, cautions));
        source
    };
    config.component.file = keep(&own, &declared.id, &source)?;
    config.component.sha256 = Some(source.sha256().to_owned());
    let mut digest = Sha256::new();
    digest.update(serde_json::to_vec(&config).unwrap_or_default());
    for model in &config.models {
        let failed = |source| PrepareError::Model {
            model: model.name.clone(),
            path: model.file.clone(),
            source,
        };
        digest.update(identity(&std::fs::metadata(&model.file).map_err(failed)?));
    }
    let digest = digest
        .finalize()
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(Prepared { config, digest })
}

/// The component after its `wisp-init`, where it exports one that didn't run yet, and what became of that.
fn initialised(source: Source) -> Result<(Source, Init), PrepareError> {
    let done = preinit::preinit(source.bytes(), &preinit::Limits::default())?;
    let init = Init::of(done.outcome, done.output);
    let source = match init {
        Init::Snapshot { .. } => Source::from_bytes(done.component).map_err(LoadError::from)?,
        Init::None | Init::Plain { .. } => source,
    };
    Ok((source, init))
}

/// Copies the component to where only its content decides its name: replicas that start while the next one is being
/// built read this one.
fn keep(own: &Path, id: &FunctionId, source: &Source) -> Result<PathBuf, PrepareError> {
    let folder = own.join("components");
    let short: String = source.sha256().chars().take(DIGITS).collect();
    let path = folder.join(format!("{}{short}{ENDING}", prefix(id)));
    let failed = |source| PrepareError::Write {
        path: path.clone(),
        source,
    };
    if std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() == source.bytes().len() as u64)
    {
        return Ok(path);
    }
    std::fs::create_dir_all(&folder).map_err(failed)?;
    sweep(&folder, id);
    let mut file = tempfile::NamedTempFile::new_in(&folder).map_err(failed)?;
    io::Write::write_all(&mut file, source.bytes()).map_err(failed)?;
    file.persist(&path).map_err(|error| failed(error.error))?;
    Ok(path)
}

/// What the names of a function's copies begin with. No function's name has a dot.
fn prefix(id: &FunctionId) -> String {
    format!("{}.{}-", id.namespace(), id.name())
}

/// Whether it is the name of a copy of this function, not of one whose name only begins like its.
fn is_copy(name: &str, id: &FunctionId) -> bool {
    let digits = name
        .strip_prefix(&prefix(id))
        .and_then(|rest| rest.strip_suffix(ENDING));
    digits.is_some_and(|digits| {
        digits.len() == DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    })
}

/// Removes old copies; the last few may still be read.
fn sweep(folder: &Path, id: &FunctionId) {
    let mut copies: Vec<_> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| is_copy(&entry.file_name().to_string_lossy(), id))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    copies.sort();
    for (_, path) in copies.iter().rev().skip(3) {
        // What can't be removed only takes up room.
        let _ = std::fs::remove_file(path);
    }
}

/// What changes when a file does.
fn identity(metadata: &Metadata) -> Vec<u8> {
    use std::os::unix::fs::MetadataExt;
    [
        metadata.len().to_le_bytes(),
        metadata.mtime().to_le_bytes(),
        metadata.mtime_nsec().to_le_bytes(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::manifests::{discover, read};

    /// Would fail if `wisp dev` kept back the way out that `wisp build` shows, or what Cargo said.
    #[test]
    fn a_build_that_fails_is_told_with_its_way_out() {
        let story = |error: CargoError| PrepareError::from(BuildError::from(error)).story();
        let (dir, messages) = ("/f".into(), "\x1b[31merror\x1b[0m: no std\n".to_owned());
        let told = story(CargoError::NoTarget {
            messages: messages.clone(),
        });
        assert_eq!(
            told,
            "this Rust toolchain can't build for wasm32-wasip2\n\x1b[31merror\x1b[0m: no std\n\
             hint: rustup target add wasm32-wasip2\n\
             hint: save any file of the project to have it built again"
        );
        let told = story(CargoError::Compile { dir, messages });
        assert_eq!(told, "\x1b[31merror\x1b[0m: no std");
    }

    /// Would fail if a component that somebody else made could move the terminal's cursor.
    #[test]
    fn what_a_component_says_of_its_end_does_nothing_to_a_terminal() {
        let error = PreinitError::Failed {
            output: "\x1b[2Ja table".to_owned(),
            source: "it trapped".into(),
        };
        let told = PrepareError::from(error).story();
        assert!(told.contains("a table") && !told.contains('\x1b'), "{told}");
    }

    /// Would fail if a component that somebody else built were compiled in silence, however long that takes, or what a person
    /// should know of it were kept back.
    #[test]
    fn a_component_that_is_given_is_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = "apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {name: f}\nspec: {component: {file: f.wasm}}\n";
        std::fs::write(folder.path().join("function.yaml"), manifest).unwrap();
        let folders = discover(&[folder.path().to_owned()], |_| {}).unwrap();
        let declared = read(&folders[0], Path::new("/cache")).unwrap();
        let prepare = |own: &str| {
            let component = wat::parse_str(format!(
                r#"(component {own} (instance $h) (export "wasi:http/incoming-handler@0.2.4" (instance $h)))"#
            ));
            std::fs::write(folder.path().join("f.wasm"), component.unwrap()).unwrap();
            let (loader, engines) = (Loader::without_cache(), Engines::for_compilation());
            let told = std::cell::RefCell::new(Vec::new());
            let tell = |event| told.borrow_mut().push(event);
            super::prepare(&declared[0], &folders[0].dir, None, &loader, &engines, tell).unwrap();
            let [building, built]: [Event; 2] = told.into_inner().try_into().unwrap();
            let function = "default/f".to_owned();
            assert_eq!(building, Event::Building { function });
            let Event::Built {
                init_millis, notes, ..
            } = built
            else {
                panic!("{built:?}")
            };
            (init_millis, notes)
        };
        let (init, notes) = prepare(r#"(import "wasi:sockets/network@0.2.4" (instance))"#);
        assert!(
            init.is_none() && notes[0].contains("wasi:sockets"),
            "{notes:?}"
        );
        let (init, notes) = prepare(
            r#"(core module $m (memory 1) (func (export "init") (i32.store (i32.const 0) (i32.const 1))))
               (core instance $i (instantiate $m))
               (func $init (canon lift (core func $i "init")))
               (export "wisp-init" (func $init))"#,
        );
        assert!(init.is_some() && notes.is_empty(), "{notes:?}");
    }

    /// Would fail if a function's new component removed those that replicas of another one read.
    #[test]
    fn only_a_function_s_own_copies_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let id: FunctionId = "vision/digits".parse().unwrap();
        let hex = |digit: &str| digit.repeat(DIGITS);
        let own = ["0", "1", "2", "3", "4"].map(|n| format!("vision.digits-{}.wasm", hex(n)));
        let others =
            ["0", "1", "2", "3", "4"].map(|n| format!("vision.digits-big-{}.wasm", hex(n)));
        let elsewhere = ["0", "1", "2", "3"].map(|n| format!("other.digits-{}.wasm", hex(n)));
        let kept = "vision.digits-notes.wasm".to_owned();
        for name in own.iter().chain(&others).chain(&elsewhere).chain([&kept]) {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        sweep(folder.path(), &id);
        let is_there = |name: &&String| folder.path().join(name).exists();
        assert_eq!(own.iter().filter(is_there).count(), 3);
        assert_eq!(others.iter().filter(is_there).count(), 5);
        assert_eq!(elsewhere.iter().filter(is_there).count(), 4);
        assert!(is_there(&&kept));
    }
}
