//! A project's Cargo build.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use serde::Deserialize;

use crate::failure::Explain;
use crate::orphans;

/// The one on PATH. What the variable CARGO names, where Cargo runs this program, is a toolchain's own and reads no
/// rust-toolchain.toml; nor does this one where RUSTUP_TOOLCHAIN is set, which `cargo run` does.
const CARGO: &str = "cargo";
/// The target that components are built for.
pub(crate) const TARGET: &str = "wasm32-wasip2";

/// What a build made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Artifact {
    /// The package's name.
    pub(crate) package: String,
    /// The component as rustc left it.
    pub(crate) wasm: PathBuf,
    /// Cargo's target folder.
    pub(crate) target: PathBuf,
    /// The crates of this machine that it is made of, its own too.
    pub(crate) crates: Vec<Crate>,
}

/// A crate that lies on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Crate {
    /// What Cargo knows it by.
    id: String,
    /// Its folder, as Cargo calls it.
    dir: PathBuf,
}

/// Why there is no component.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CargoError {
    #[error("there is no {}", .0.display())]
    Missing(PathBuf),
    #[error("{} is no Cargo project: it has no Cargo.toml", dir.display())]
    NoProject { dir: PathBuf },
    #[error("cargo could not be started")]
    Start(#[source] std::io::Error),
    #[error("the project in {} doesn't compile", dir.display())]
    Compile { dir: PathBuf, messages: String },
    #[error("cargo was ended by {0}")]
    Ended(ExitStatus),
    #[error("this Rust toolchain can't build for {TARGET}")]
    NoTarget {
        /// What Cargo said, where that is kept.
        messages: String,
    },
    #[error("the project in {} builds no component: Cargo.toml has no library of the type `cdylib`", dir.display())]
    NoComponent { dir: PathBuf },
    #[error("a link in {} leads elsewhere now, and cargo can't remove what it compiled: {why}", dir.display())]
    Clean { dir: PathBuf, why: String },
    #[error("cargo said what couldn't be understood")]
    Messages(#[source] std::io::Error),
}

impl Explain for CargoError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Missing(_) | Self::NoProject { .. } => {
                Some("name the project's folder, or start one with `wisp new NAME`".to_owned())
            }
            Self::Start(_) => Some("install Rust with rustup (https://rustup.rs)".to_owned()),
            Self::NoTarget { .. } => Some(format!("rustup target add {TARGET}")),
            Self::NoComponent { .. } => {
                Some("add these lines to Cargo.toml: [lib] crate-type = [\"cdylib\"]".to_owned())
            }
            Self::Clean { dir, .. } => Some(format!(
                "`cargo clean` in {} has all compiled anew",
                dir.display()
            )),
            Self::Compile { .. } | Self::Ended(_) | Self::Messages(_) => None,
        }
    }
}

/// Where the compiler's messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Messages {
    /// To standard error, as they come.
    Show {
        /// With colours.
        color: bool,
    },
    /// Into [`CargoError::Compile`] or [`CargoError::NoTarget`].
    Keep {
        /// With colours.
        color: bool,
    },
}

/// SIMD is part of WebAssembly 2.0, and every wisp host has it. Without it numbers and pixels are handled one by one.
const SIMD: [&str; 2] = ["-C", "target-feature=+simd128"];

/// The variables that Cargo takes a component's flags from, each with what is between two of them. The first that is set
/// stands for those after it. The last two are joined with what the project's configuration says of the same, as a list or
/// as a text; where it has flags for this target alone, they stand for those of all builds, and so for the last.
const FLAGS: [(&str, &str); 4] = [
    ("CARGO_ENCODED_RUSTFLAGS", "\x1f"),
    ("RUSTFLAGS", " "),
    (TARGET_FLAGS, " "),
    (BUILD_FLAGS, " "),
];
const TARGET_FLAGS: &str = "CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS";
const BUILD_FLAGS: &str = "CARGO_BUILD_RUSTFLAGS";

/// Builds the project in `dir` in release mode. Blocks.
///
/// # Errors
/// When there is no project, it doesn't compile, or it has no library of the type `cdylib`.
pub(crate) fn build(dir: &Path, messages: Messages) -> Result<Artifact, CargoError> {
    let manifest = dir.join("Cargo.toml");
    if !manifest.is_file() {
        return Err(CargoError::NoProject {
            dir: dir.to_owned(),
        });
    }
    let package = read_manifest(dir);
    // Cargo tells of a manifest that can't be read.
    if package
        .as_ref()
        .is_some_and(|package| !has_library(package, dir))
    {
        return Err(CargoError::NoComponent {
            dir: dir.to_owned(),
        });
    }
    let (Messages::Show { color } | Messages::Keep { color }) = messages;
    let mut command = Command::new(CARGO);
    command
        .args([
            "build",
            // Binaries beside it may be none that compile for this target.
            "--lib",
            "--release",
            "--target",
            TARGET,
            "--message-format",
            "json-render-diagnostics",
        ])
        .args(package.iter().flat_map(selection))
        .envs(with_simd(std::env::var_os))
        .args(["--color", if color { "always" } else { "never" }])
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(if matches!(messages, Messages::Keep { .. }) {
            Stdio::piped()
        } else {
            Stdio::inherit()
        });
    // What Cargo tells the programs it runs is about wisp's own build, where this is one.
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.starts_with("CARGO_PKG_")
            || name_text == "CARGO_MANIFEST_DIR"
            || name_text == "CARGO_MANIFEST_PATH"
        {
            command.env_remove(&name);
        }
    }
    let (mut child, _group) = orphans::spawn_group(command).map_err(CargoError::Start)?;
    let said = child.stderr.take().map(|mut stderr| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        })
    });
    let (mut found, mut crates) = (None, Vec::new());
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.map_err(CargoError::Messages)?;
            let Ok(message) = serde_json::from_str::<Message>(&line) else {
                continue;
            };
            crates.extend(local(&message));
            found = artifact(message, &manifest).or(found);
        }
    }
    let status = child.wait().map_err(CargoError::Start)?;
    let said = said
        .and_then(|thread| thread.join().ok())
        .unwrap_or_default();
    if status.signal().is_some() {
        return Err(CargoError::Ended(status));
    }
    if !status.success() {
        if !has_target(dir) {
            return Err(CargoError::NoTarget { messages: said });
        }
        return Err(CargoError::Compile {
            dir: dir.to_owned(),
            messages: said,
        });
    }
    let found = found.ok_or_else(|| CargoError::NoComponent {
        dir: dir.to_owned(),
    })?;
    Ok(Artifact { crates, ..found })
}

/// Whether the package has a library, of whichever type.
fn has_library(package: &toml::Table, dir: &Path) -> bool {
    package.contains_key("lib") || dir.join("src/lib.rs").is_file()
}

/// What tells Cargo to build the package whose manifest this is: that of the current folder, unless it is a workspace's, too,
/// which names others.
fn selection(package: &toml::Table) -> Vec<String> {
    let field = |table: &str, key: &str| package.get(table)?.get(key);
    let name = field("package", "name").and_then(toml::Value::as_str);
    match (field("workspace", "default-members"), name) {
        (Some(_), Some(name)) => vec!["--package".to_owned(), name.to_owned()],
        _ => Vec::new(),
    }
}

/// Those of [`FLAGS`] that are `set`, and the last in any case, with [`SIMD`].
fn with_simd(set: impl Fn(&'static str) -> Option<OsString>) -> Vec<(&'static str, OsString)> {
    let mut flags = Vec::new();
    for (name, between) in FLAGS {
        // Without flags for the target Cargo takes those for all builds.
        let value = set(name).filter(|value| name != TARGET_FLAGS || !value.is_empty());
        let value = value.or_else(|| (name == BUILD_FLAGS).then(OsString::new));
        let Some(mut value) = value else { continue };
        for flag in SIMD {
            if !value.is_empty() {
                value.push(between);
            }
            value.push(flag);
        }
        flags.push((name, value));
    }
    flags
}

/// Has the next build compile the crates anew whose sources are among `files`, and the project's own. Cargo looks at when
/// files were written, and so passes over a link that leads to older ones. Blocks.
///
/// # Errors
/// When Cargo can't be started, or can't remove what it compiled.
pub(crate) fn forget(dir: &Path, artifact: &Artifact, files: &[PathBuf]) -> Result<(), CargoError> {
    let has = |of: &&Crate| files.iter().any(|file| file.starts_with(&of.dir)) || of.dir == dir;
    let stale: Vec<&Crate> = artifact.crates.iter().filter(has).collect();
    // Without a name it would be all crates.
    if stale.is_empty() {
        return Ok(());
    }
    let mut command = Command::new(CARGO);
    command
        .args(["clean", "--quiet", "--release", "--target", TARGET])
        .args(stale.iter().flat_map(|of| ["--package", &of.id]))
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let done = command.output().map_err(CargoError::Start)?;
    if done.status.success() {
        return Ok(());
    }
    Err(CargoError::Clean {
        dir: dir.to_owned(),
        why: String::from_utf8_lossy(&done.stderr).trim().to_owned(),
    })
}

/// Whether the toolchain that `dir` uses has the standard library for components.
fn has_target(dir: &Path) -> bool {
    let output = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", TARGET])
        .current_dir(dir)
        .stderr(Stdio::null())
        .output();
    output.is_ok_and(|output| {
        output.status.success()
            && Path::new(String::from_utf8_lossy(&output.stdout).trim_end()).is_dir()
    })
}

/// What of Cargo's messages is read, <https://doc.rust-lang.org/cargo/reference/external-tools.html>.
#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    manifest_path: PathBuf,
    #[serde(default)]
    package_id: String,
    #[serde(default)]
    target: Option<Target>,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    crate_types: Vec<String>,
}

/// The crate that this message is about, where it lies on this machine.
fn local(message: &Message) -> Option<Crate> {
    let is_local = message.reason == "compiler-artifact" && message.package_id.starts_with("path+");
    is_local.then(|| Crate {
        id: message.package_id.clone(),
        dir: message
            .manifest_path
            .parent()
            .map(Path::to_owned)
            .unwrap_or_default(),
    })
}

/// The component that this message of Cargo's is about, where it is the project's own.
fn artifact(message: Message, manifest: &Path) -> Option<Artifact> {
    let same = |path: &Path| {
        path == manifest
            || matches!((path.canonicalize(), manifest.canonicalize()), (Ok(a), Ok(b)) if a == b)
    };
    if message.reason != "compiler-artifact"
        || !message
            .target
            .is_some_and(|target| target.crate_types.iter().any(|kind| kind == "cdylib"))
        || !same(&message.manifest_path)
    {
        return None;
    }
    let wasm = message.filenames.into_iter().find(|file| {
        file.extension()
            .is_some_and(|extension| extension == "wasm")
    })?;
    // TARGET_DIR/wasm32-wasip2/release/NAME.wasm
    let target = wasm.ancestors().nth(3)?.to_owned();
    Some(Artifact {
        package: package_name(&message.package_id)?,
        wasm,
        target,
        crates: Vec::new(),
    })
}

/// The sources that Cargo compiled into `wasm`, from the list beside it that rustc wrote for make.
pub(crate) fn compiled_from(wasm: &Path) -> Vec<PathBuf> {
    let list = std::fs::read_to_string(wasm.with_extension("d")).unwrap_or_default();
    let Some((_, sources)) = list.split_once(": ") else {
        return Vec::new();
    };
    let line = sources.lines().next().unwrap_or_default();
    // Spaces in names are written `\ `.
    line.replace("\\ ", "\0")
        .split(' ')
        .filter(|path| !path.is_empty())
        .map(|path| path.replace('\0', " ").into())
        .collect()
}

/// The folders of the crates that the project in `dir` depends on by path, however far away, and the manifest of its
/// workspace. Read from the manifests themselves: Cargo tells nothing of a project one of whose manifests is wrong.
pub(crate) fn dependencies(dir: &Path) -> Vec<PathBuf> {
    let mut found = BTreeSet::new();
    let workspace = dir.ancestors().skip(1).find(|above| {
        read_manifest(above).is_some_and(|manifest| manifest.contains_key("workspace"))
    });
    let mut unread = vec![dir.to_owned()];
    if let Some(workspace) = workspace {
        for path in paths(&read_manifest(workspace).unwrap_or_default()) {
            unread.extend(workspace.join(path).canonicalize());
        }
    }
    let mut seen = BTreeSet::new();
    while let Some(dir) = unread.pop() {
        if !seen.insert(dir.clone()) {
            continue;
        }
        for path in paths(&read_manifest(&dir).unwrap_or_default()) {
            // One that isn't there may be about to come.
            let dependency = dir.join(path);
            unread.push(dependency.canonicalize().unwrap_or(dependency));
        }
    }
    seen.remove(dir);
    found.extend(seen);
    found.extend(workspace.map(|workspace| workspace.join("Cargo.toml")));
    found.into_iter().collect()
}

fn read_manifest(dir: &Path) -> Option<toml::Table> {
    let text = std::fs::read_to_string(dir.join("Cargo.toml")).ok()?;
    text.parse().ok()
}

/// All `path`s of dependencies, for whichever target, and of patches.
fn paths(manifest: &toml::Table) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (key, value) in manifest {
        let Some(table) = value.as_table() else {
            continue;
        };
        if key.ends_with("dependencies") {
            let paths = table.values().filter_map(|of| of.get("path")?.as_str());
            found.extend(paths.map(PathBuf::from));
        } else if ["patch", "target", "workspace"].contains(&key.as_str()) {
            found.extend(paths(table));
            for below in table.values().filter_map(toml::Value::as_table) {
                found.extend(paths(below));
                let patched = below.values().filter_map(|of| of.get("path")?.as_str());
                found.extend(patched.filter(|_| key == "patch").map(PathBuf::from));
            }
        }
    }
    found
}

/// The name in `path+file:///home/me/hello#0.1.0` or `path+file:///home/me/x#hello@0.1.0`.
fn package_name(id: &str) -> Option<String> {
    let (url, fragment) = id.split_once('#')?;
    match fragment.split_once('@') {
        Some((name, _)) => Some(name.to_owned()),
        None => url.rsplit('/').next().map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_projects_own_component_is_found_among_cargos_messages() {
        let line = |manifest: &str, kind: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"path+file:///w/hello#0.1.0","manifest_path":"{manifest}",
                "target":{{"kind":["{kind}"],"crate_types":["{kind}"],"name":"hello"}},
                "filenames":["/w/hello/target/wasm32-wasip2/release/hello.wasm"],"fresh":true}}"#
            )
        };
        let manifest = Path::new("/w/hello/Cargo.toml");
        let expected = Artifact {
            package: "hello".to_owned(),
            wasm: "/w/hello/target/wasm32-wasip2/release/hello.wasm".into(),
            target: "/w/hello/target".into(),
            crates: Vec::new(),
        };
        let artifact = |line: &str, manifest| artifact(serde_json::from_str(line).ok()?, manifest);
        assert_eq!(
            artifact(&line("/w/hello/Cargo.toml", "cdylib"), manifest),
            Some(expected)
        );
        assert_eq!(
            artifact(&line("/w/other/Cargo.toml", "cdylib"), manifest),
            None
        );
        assert_eq!(
            artifact(&line("/w/hello/Cargo.toml", "lib"), manifest),
            None
        );
        assert_eq!(
            artifact(r#"{"reason":"build-finished","success":true}"#, manifest),
            None
        );
        assert_eq!(artifact("not json", manifest), None);
    }

    /// Would fail if a component were built without SIMD, or without the flags that somebody set, wherever they set them.
    #[test]
    fn simd_is_joined_with_the_flags_that_are_set() {
        let simd = |set: &[(&str, &str)]| -> Vec<(&'static str, String)> {
            let value = |name: &str| set.iter().find(|(known, _)| *known == name);
            let flags = with_simd(|name| value(name).map(|(_, value)| value.into()));
            flags
                .into_iter()
                .map(|(name, value)| (name, value.into_string().unwrap()))
                .collect()
        };
        let all = ("CARGO_BUILD_RUSTFLAGS", "-C target-feature=+simd128");
        let all = (all.0, all.1.to_owned());
        assert_eq!(simd(&[]), std::slice::from_ref(&all));
        assert_eq!(
            simd(&[("CARGO_BUILD_RUSTFLAGS", "-D warnings")]),
            [(all.0, format!("-D warnings {}", all.1))]
        );
        let encoded = ("CARGO_ENCODED_RUSTFLAGS", "-C\x1ftarget-feature=+simd128");
        let plain = ("RUSTFLAGS", format!("--cfg a {}", all.1));
        assert_eq!(
            simd(&[("CARGO_ENCODED_RUSTFLAGS", ""), ("RUSTFLAGS", "--cfg a")]),
            [(encoded.0, encoded.1.to_owned()), plain, all.clone()]
        );
        assert_eq!(simd(&[("CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS", "")]), [all]);
    }

    #[test]
    fn sources_of_other_crates_are_read_from_cargos_list() {
        let folder = tempfile::tempdir().unwrap();
        let wasm = folder.path().join("hello.wasm");
        std::fs::write(
            wasm.with_extension("d"),
            "/t/hello.wasm: /w/hello/src/lib.rs /sdk/my\\ folder/lib.rs\n",
        )
        .unwrap();
        assert_eq!(
            compiled_from(&wasm),
            [
                Path::new("/w/hello/src/lib.rs"),
                Path::new("/sdk/my folder/lib.rs")
            ]
        );
        assert!(compiled_from(&folder.path().join("none.wasm")).is_empty());
    }

    /// Would fail if a first build that fails in a crate beside the project were not tried again when that is mended.
    #[test]
    fn crates_that_a_project_depends_on_by_path_are_found() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let write = |dir: &str, text: &str| {
            std::fs::create_dir_all(root.join(dir)).unwrap();
            std::fs::write(root.join(dir).join("Cargo.toml"), text).unwrap();
        };
        write(
            "",
            "[workspace]\nmembers = ['a']\n[workspace.dependencies]\ninherited = {path = 'inherited'}\n[patch.crates-io]\nserde = {path = 'patched'}\n",
        );
        write(
            "a",
            "[dependencies]\nserde = '1'\nb = {path = '../b'}\ninherited.workspace = true\n[target.'cfg(unix)'.dependencies]\nd = {path = '../d'}\n",
        );
        write(
            "b",
            "[dependencies.c]\npath = '../c'\n[build-dependencies]\na = {path = '../a'}\n",
        );
        write("c", "no TOML");
        write("inherited", "");
        write("patched", "");
        let expected = ["Cargo.toml", "b", "c", "d", "inherited", "patched"];
        let mut found = dependencies(&root.join("a"));
        found.sort();
        // `d` isn't there yet.
        for path in &mut found {
            *path = path.components().collect();
            if path.ends_with("a/../d") {
                *path = root.join("d");
            }
        }
        found.sort();
        assert_eq!(found, expected.map(|name| root.join(name)));
    }

    /// Would fail if an old component were served as the new one where what it is made of can't be removed.
    #[test]
    fn what_cannot_be_removed_is_told() {
        let project = tempfile::tempdir().unwrap();
        let artifact = Artifact {
            package: "f".to_owned(),
            wasm: PathBuf::new(),
            target: PathBuf::new(),
            crates: vec![Crate {
                id: "f".to_owned(),
                dir: project.path().to_owned(),
            }],
        };
        // Nothing that Cargo could clean is there.
        let error = forget(project.path(), &artifact, &[]).unwrap_err();
        assert!(matches!(error, CargoError::Clean { .. }), "{error:?}");
        assert!(error.to_string().contains("Cargo.toml"), "{error}");
    }

    #[test]
    fn package_names_are_read_from_both_forms_of_ids() {
        assert_eq!(
            package_name("path+file:///w/hello#0.1.0").as_deref(),
            Some("hello")
        );
        assert_eq!(
            package_name("path+file:///w/folder#hello@0.1.0").as_deref(),
            Some("hello")
        );
    }
}
