//! `wisp build`: from a Cargo project to a component that a host serves.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use wisp_engine::preinit::{self, Outcome};
use wisp_engine::{InspectError, Inspection, PreinitError};

use crate::args::Build;
use crate::cargo::{self, Artifact, CargoError, Messages};
use crate::failure::{Explain, Failure};
use crate::paths;
use crate::terminal::{self, OutputError, Terminal};

/// A component that is ready to be served.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Built {
    /// The package's name.
    pub(crate) name: String,
    /// The component.
    pub(crate) file: PathBuf,
    /// The file as rustc left it.
    #[serde(skip)]
    pub(crate) compiled: PathBuf,
    /// Its length.
    pub(crate) bytes: u64,
    /// Its digest, in lower-case hex.
    pub(crate) sha256: String,
    /// The handler it exports.
    pub(crate) handler: String,
    /// What it imports.
    pub(crate) imports: Vec<String>,
    /// What became of its initialisation.
    pub(crate) init: Init,
    /// What a person should know of its imports.
    pub(crate) cautions: Vec<String>,
}

/// What became of `#[wisp::init]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    tag = "outcome"
)]
pub(crate) enum Init {
    /// There is none.
    None,
    /// It ran; the component holds the memory it left.
    Snapshot {
        /// What every fresh instance saves.
        init_millis: f64,
        /// The component's bytes without the snapshot.
        bytes_before: u64,
        /// What it printed.
        output: String,
        /// Whether it drew random numbers.
        #[serde(default)]
        drew_random: bool,
    },
    /// It runs in every instance.
    Plain {
        /// Why it couldn't be snapshotted.
        why: String,
    },
}

impl Init {
    /// What became of one that printed `output`.
    pub(crate) fn of(outcome: Outcome, output: String) -> Self {
        match outcome {
            Outcome::Nothing => Self::None,
            Outcome::Snapshot {
                init,
                before,
                drew_random,
                ..
            } => Self::Snapshot {
                init_millis: init.as_secs_f64() * 1e3,
                bytes_before: before as u64,
                output,
                drew_random,
            },
            Outcome::Plain(why) => Self::Plain { why },
        }
    }
}

/// Why there is nothing to serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    #[error(transparent)]
    Cargo(#[from] CargoError),
    #[error("what {} builds can't be served", dir.display())]
    Inspect { dir: PathBuf, source: InspectError },
    #[error("{} builds, but can't be initialised", dir.display())]
    Preinit { dir: PathBuf, source: PreinitError },
    #[error("{} could not be read or written", path.display())]
    File { path: PathBuf, source: io::Error },
}

impl Explain for BuildError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Cargo(error) => error.hint(),
            Self::Inspect {
                source: InspectError::NoHandler { .. },
                ..
            } => Some("put #[wisp::handler] above the function that answers requests".to_owned()),
            _ => None,
        }
    }
}

/// Builds, checks, and says what came of it.
pub(crate) fn run(args: &Build, terminal: &Terminal) -> Result<ExitCode, Failure> {
    let began = Instant::now();
    let dir = folder(&args.dir).map_err(BuildError::from)?;
    let built = build(
        &dir,
        Messages::Show {
            color: terminal.err.is_on(),
        },
    )?;
    let took = began.elapsed();
    if terminal.is_json() {
        let mut value = serde_json::to_value(&built).unwrap_or_default();
        if let Some(object) = value.as_object_mut() {
            object.insert("seconds".to_owned(), took.as_secs_f64().into());
        }
        terminal.json(&value)?;
    } else {
        report(&built, took, terminal)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The project's folder, where it or its Cargo.toml was named.
fn folder(named: &Path) -> Result<PathBuf, CargoError> {
    let found = named
        .canonicalize()
        .map_err(|_| CargoError::Missing(named.to_owned()))?;
    Ok(match found.parent() {
        Some(dir) if found.ends_with("Cargo.toml") && found.is_file() => dir.to_owned(),
        _ => found,
    })
}

/// Builds the project in `dir`, an absolute path, and writes the component to `wisp/NAME.wasm` in Cargo's target
/// folder. Blocks.
///
/// # Errors
/// When it doesn't compile, or no host would serve it.
pub(crate) fn build(dir: &Path, messages: Messages) -> Result<Built, BuildError> {
    let mut artifact = cargo::build(dir, messages)?;
    let moved = Record::of(&artifact).moved(&artifact);
    if !moved.is_empty() {
        cargo::forget(dir, &artifact, &moved)?;
        artifact = cargo::build(dir, messages)?;
    }
    finish(dir, &artifact)
}

fn finish(dir: &Path, artifact: &Artifact) -> Result<Built, BuildError> {
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| BuildError::File { path, source }
    };
    let inspected = |source| BuildError::Inspect {
        dir: dir.to_owned(),
        source,
    };
    let plain = std::fs::read(&artifact.wasm).map_err(file(&artifact.wasm))?;
    let folder = artifact.target.join("wisp");
    let output = folder.join(format!("{}.wasm", artifact.package));
    let record = Record::of(artifact);
    std::fs::create_dir_all(&folder).map_err(file(&folder))?;
    record.follow(artifact);
    if let Some((init, component)) = record.reuse(&plain, &output) {
        let inspection = wisp_engine::inspect(&component).map_err(inspected)?;
        return Ok(built(artifact, &output, &component, &inspection, init));
    }
    let done =
        preinit::preinit(&plain, &preinit::Limits::default()).map_err(|error| match error {
            PreinitError::Inspect(error) => inspected(error),
            source => BuildError::Preinit {
                dir: dir.to_owned(),
                source,
            },
        })?;
    let init = Init::of(done.outcome, done.output);
    let inspection = wisp_engine::inspect(&done.component).map_err(inspected)?;
    replace(&output, &done.component).map_err(file(&output))?;
    record.keep(&plain, &done.component, &init, artifact);
    Ok(built(artifact, &output, &done.component, &inspection, init))
}

fn built(
    artifact: &Artifact,
    output: &Path,
    component: &[u8],
    inspection: &Inspection,
    init: Init,
) -> Built {
    Built {
        name: artifact.package.clone(),
        file: output.to_owned(),
        compiled: artifact.wasm.clone(),
        bytes: component.len() as u64,
        sha256: hex(component),
        handler: inspection.handler.clone(),
        imports: inspection.imports.iter().map(ToString::to_string).collect(),
        init,
        cautions: inspection.cautions.clone(),
    }
}

/// Beside a component, what it was made from: the initialisation doesn't run again for a build that changed nothing.
struct Record(PathBuf);

#[derive(Serialize, Deserialize)]
struct Made {
    wisp: String,
    source: String,
    component: String,
    init: Init,
    /// The sources that links lead to, and where they are.
    #[serde(default)]
    linked: BTreeMap<PathBuf, PathBuf>,
}

impl Made {
    fn of(
        source: String,
        component: String,
        init: Init,
        linked: BTreeMap<PathBuf, PathBuf>,
    ) -> Self {
        Self {
            wisp: env!("CARGO_PKG_VERSION").to_owned(),
            source,
            component,
            init,
            linked,
        }
    }
}

impl Record {
    fn of(artifact: &Artifact) -> Self {
        let name = format!("{}.json", artifact.package);
        Self(artifact.target.join("wisp").join(name))
    }

    fn read(&self) -> Option<Made> {
        let made: Made = serde_json::from_slice(&std::fs::read(&self.0).ok()?).ok()?;
        (made.wisp == env!("CARGO_PKG_VERSION")).then_some(made)
    }

    /// The sources that links lead to elsewhere than when the component was made.
    fn moved(&self, artifact: &Artifact) -> Vec<PathBuf> {
        let Some(made) = self.read() else {
            return Vec::new();
        };
        let now = linked(artifact);
        let is_moved = |source: &&PathBuf| now.get(*source) != made.linked.get(*source);
        let sources: BTreeSet<&PathBuf> = now.keys().chain(made.linked.keys()).collect();
        sources.into_iter().filter(is_moved).cloned().collect()
    }

    fn reuse(&self, plain: &[u8], output: &Path) -> Option<(Init, Vec<u8>)> {
        let made = self.read()?;
        let component = std::fs::read(output).ok()?;
        let same = made.source == hex(plain) && made.component == hex(&component);
        same.then_some((made.init, component))
    }

    /// Remembers where links lead, whatever comes of what was compiled from there.
    fn follow(&self, artifact: &Artifact) {
        let made = self.read();
        let linked = linked(artifact);
        let known = made.as_ref().map(|made| made.linked.clone());
        if known.unwrap_or_default() == linked {
            return;
        }
        let nothing = Made::of(String::new(), String::new(), Init::None, BTreeMap::new());
        self.write(&Made {
            linked,
            ..made.unwrap_or(nothing)
        });
    }

    fn keep(&self, plain: &[u8], component: &[u8], init: &Init, artifact: &Artifact) {
        let (source, component) = (hex(plain), hex(component));
        self.write(&Made::of(source, component, init.clone(), linked(artifact)));
    }

    fn write(&self, made: &Made) {
        // Where it can't be kept, the next build does the work again.
        let _ = replace(&self.0, &serde_json::to_vec(made).unwrap_or_default());
    }
}

/// The sources of a component that links lead to, and where they are.
fn linked(artifact: &Artifact) -> BTreeMap<PathBuf, PathBuf> {
    let sources = cargo::compiled_from(&artifact.wasm).into_iter();
    let sources = sources.filter_map(|source| Some((source.canonicalize().ok()?, source)));
    let linked = sources.filter(|(file, source)| file != source);
    linked.map(|(file, source)| (source, file)).collect()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            use std::fmt::Write;
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Writes a file so that whoever reads it sees the old or the new content, whole. The umask says who may: it is no secret.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut file = tempfile::Builder::new()
        .permissions(std::fs::Permissions::from_mode(0o666))
        .tempfile_in(path.parent().unwrap_or(Path::new(".")))?;
    file.write_all(content)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn report(built: &Built, took: Duration, terminal: &Terminal) -> Result<(), OutputError> {
    let paint = terminal.out;
    let line = |label: &str, value: &str| {
        terminal.say(&format!("  {} {value}", paint.dim(&format!("{label:<8}"))))
    };
    terminal.say(&format!(
        "{} {} in {}",
        paint.green("built"),
        paint.bold(&built.name),
        terminal::duration(took)
    ))?;
    line("file", &paths::display(&built.file))?;
    line("serves", &built.handler)?;
    for (index, package) in by_package(&built.imports).iter().enumerate() {
        line(if index == 0 { "imports" } else { "" }, package)?;
    }
    line("size", &terminal::bytes(built.bytes))?;
    match &built.init {
        Init::None => {}
        Init::Snapshot {
            init_millis,
            bytes_before,
            output,
            drew_random,
        } => {
            let saved = terminal::duration(Duration::from_secs_f64(init_millis.max(0.0) / 1e3));
            let size = format!("{} without it", terminal::bytes(*bytes_before));
            line(
                "init",
                &format!("ran ahead of time: every instance saves {saved} ({size})"),
            )?;
            for text in output.lines() {
                line("", &paint.dim(&terminal::harmless(text)))?;
            }
            if *drew_random {
                line("note", &paint.yellow(preinit::RANDOM))?;
            }
        }
        Init::Plain { why } => line(
            "init",
            &paint.yellow(&format!("runs in every instance: {why}")),
        )?,
    }
    for caution in &built.cautions {
        line("note", &paint.yellow(caution))?;
    }
    Ok(())
}

/// `wasi:io@0.2.6 error, poll, streams`, one line per package.
fn by_package(imports: &[String]) -> Vec<String> {
    let mut lines: Vec<(String, Vec<&str>)> = Vec::new();
    for import in imports {
        let (path, version) = import
            .split_once('@')
            .map_or((import.as_str(), None), |(path, version)| {
                (path, Some(version))
            });
        let (package, interface) = path.split_once('/').unwrap_or((path, ""));
        let package = version.map_or_else(
            || package.to_owned(),
            |version| format!("{package}@{version}"),
        );
        match lines.iter_mut().find(|(known, _)| *known == package) {
            Some((_, interfaces)) => interfaces.push(interface),
            None => lines.push((package, vec![interface])),
        }
    }
    lines
        .into_iter()
        .map(|(package, interfaces)| format!("{package} {}", interfaces.join(", ")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_listed_by_package() {
        let imports = [
            "wasi:io/error@0.2.6",
            "wasi:io/streams@0.2.6",
            "wasi:io/poll@0.2.4",
            "local:x/y",
        ]
        .map(str::to_owned);
        assert_eq!(
            by_package(&imports),
            [
                "wasi:io@0.2.6 error, streams",
                "wasi:io@0.2.4 poll",
                "local:x y"
            ]
        );
    }

    /// A component whose initialisation puts `value` into its memory.
    fn component(value: u32) -> Vec<u8> {
        wat::parse_str(format!(
            r#"(component
                (core module $m (memory 1) (func (export "init") (i32.store (i32.const 0) (i32.const {value}))))
                (core instance $i (instantiate $m))
                (func $init (canon lift (core func $i "init")))
                (export "wisp-init" (func $init))
                (instance $h)
                (export "wasi:http/incoming-handler@0.2.4" (instance $h)))"#
        ))
        .unwrap()
    }

    #[test]
    fn a_component_is_initialised_again_only_when_its_source_changed() {
        use std::os::unix::fs::MetadataExt;
        let target = tempfile::tempdir().unwrap();
        let wasm = target.path().join("f.wasm");
        let artifact = Artifact {
            package: "f".to_owned(),
            wasm: wasm.clone(),
            target: target.path().to_owned(),
            crates: Vec::new(),
        };
        let make = |value| {
            std::fs::write(&wasm, component(value)).unwrap();
            let built = finish(target.path(), &artifact).unwrap();
            assert!(matches!(built.init, Init::Snapshot { .. }), "{built:?}");
            // Whoever writes the file makes a new one.
            (std::fs::metadata(&built.file).unwrap().ino(), built.sha256)
        };
        let first = make(1);
        assert_eq!(make(1), first);
        let second = make(2);
        assert_ne!(second.1, first.1);
        // As any file that is made here: a component that only its maker may read can't go into an image.
        std::fs::write(target.path().join("any"), "").unwrap();
        let mode = |file: &str| {
            let metadata = std::fs::metadata(target.path().join(file)).unwrap();
            metadata.mode() & 0o777
        };
        assert_eq!(mode("wisp/f.wasm"), mode("any"));
        // A damaged output is made anew.
        std::fs::write(target.path().join("wisp/f.wasm"), "damaged").unwrap();
        assert_eq!(make(2).1, second.1);
    }

    /// Would fail if what a link leads to now were passed over, or built again and again.
    #[test]
    fn a_source_that_a_link_leads_to_elsewhere_is_found_once() {
        use std::os::unix::fs::symlink;
        let target = tempfile::tempdir().unwrap();
        let dir = target.path().canonicalize().unwrap();
        for version in ["v1", "v2"] {
            std::fs::create_dir(dir.join(version)).unwrap();
            std::fs::write(dir.join(version).join("lib.rs"), "").unwrap();
        }
        let (src, wasm) = (dir.join("src"), dir.join("f.wasm"));
        let sources = format!(
            "f.wasm: {} {}\n",
            src.join("lib.rs").display(),
            dir.join("v1/lib.rs").display()
        );
        std::fs::write(wasm.with_extension("d"), sources).unwrap();
        std::fs::write(&wasm, component(1)).unwrap();
        let artifact = Artifact {
            package: "f".to_owned(),
            wasm,
            target: dir.clone(),
            crates: Vec::new(),
        };
        let moved = || Record::of(&artifact).moved(&artifact);
        symlink("v1", &src).unwrap();
        assert!(moved().is_empty(), "nothing was built yet");
        finish(&dir, &artifact).unwrap();
        assert!(moved().is_empty());
        std::fs::remove_file(&src).unwrap();
        symlink("v2", &src).unwrap();
        assert_eq!(moved(), [src.join("lib.rs")]);
        // Which came to the same.
        finish(&dir, &artifact).unwrap();
        assert!(moved().is_empty());
        // Whether it can be served or not.
        std::fs::remove_file(dir.join("wisp/f.json")).unwrap();
        std::fs::write(&artifact.wasm, "no component").unwrap();
        finish(&dir, &artifact).unwrap_err();
        std::fs::remove_file(&src).unwrap();
        symlink("v1", &src).unwrap();
        assert_eq!(moved(), [src.join("lib.rs")]);
    }

    /// Would fail if a folder that isn't there were said to lack something.
    #[test]
    fn a_project_is_named_by_its_folder_or_its_manifest() {
        let project = tempfile::tempdir().unwrap();
        let dir = project.path().canonicalize().unwrap();
        let manifest = dir.join("Cargo.toml");
        std::fs::write(&manifest, "").unwrap();
        assert_eq!(folder(&dir).unwrap(), dir);
        assert_eq!(folder(&manifest).unwrap(), dir);
        let error = folder(Path::new("/nowhere")).unwrap_err();
        assert_eq!(error.to_string(), "there is no /nowhere");
    }

    #[test]
    fn what_no_host_serves_is_not_written() {
        let target = tempfile::tempdir().unwrap();
        let wasm = target.path().join("f.wasm");
        std::fs::write(&wasm, "no component").unwrap();
        let artifact = Artifact {
            package: "f".to_owned(),
            wasm,
            target: target.path().to_owned(),
            crates: Vec::new(),
        };
        let error = finish(target.path(), &artifact).unwrap_err();
        assert!(matches!(error, BuildError::Inspect { .. }), "{error:?}");
        assert!(!target.path().join("wisp/f.wasm").exists());
    }
}
