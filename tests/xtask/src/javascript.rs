//! A component in JavaScript, with its engine in it: what a bench needs that is large.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::cache;
use crate::command::{cargo, command, execute, output, succeeds, workspace};

/// The packages of npm that build it are kept below the cache folder.
const FOLDER: &str = "javascript";

/// What it is built of.
const SOURCES: [&str; 4] = [
    "package.json",
    "package-lock.json",
    "handler.js",
    "build.mjs",
];

/// What is to be built, and whether it is.
pub(crate) struct Component {
    out: PathBuf,
    from: PathBuf,
    wit: PathBuf,
    key: String,
}

impl Component {
    /// `tests/fixtures/javascript`, as `out`.
    ///
    /// # Errors
    /// Where it isn't built, and what builds it is missing: before anything else takes its time.
    pub(crate) fn at(out: &Path) -> Result<Self> {
        let from = workspace().join("tests/fixtures/javascript");
        let wit = wit()?;
        let component = Self {
            out: out.to_owned(),
            key: key(&from, &wit)?,
            from,
            wit,
        };
        let lacks = |program: &&str| !succeeds(command(program).arg("--version"));
        if !component.is_built() && ["node", "npm"].iter().any(lacks) {
            bail!(
                "the component in JavaScript is built with Node.js 20 or newer and npm: install them"
            );
        }
        Ok(component)
    }

    fn is_built(&self) -> bool {
        let known = std::fs::read_to_string(self.known());
        self.out.is_file() && known.is_ok_and(|known| known == self.key)
    }

    /// The file that says of what it was built.
    fn known(&self) -> PathBuf {
        self.out.with_extension("key")
    }
}

/// Builds it, unless what is there was built of the same.
pub(crate) fn build(component: &Component) -> Result<()> {
    if component.is_built() {
        return Ok(());
    }
    let folder = cache::dir()?.join(FOLDER);
    std::fs::create_dir_all(&folder)?;
    for name in SOURCES {
        std::fs::copy(component.from.join(name), folder.join(name))?;
    }
    execute(
        command("npm")
            // Of the lock file, and nothing newer.
            .args(["ci", "--no-audit", "--no-fund"])
            .arg("--cache")
            .arg(folder.join("npm"))
            .current_dir(&folder),
    )?;
    execute(
        command("node")
            .args(["build.mjs", "handler.js"])
            .arg(&component.wit)
            .arg(&component.out)
            .current_dir(&folder),
    )?;
    // Last, so that what wasn't built to its end isn't taken for it.
    let known = component.known();
    std::fs::write(&known, &component.key)
        .with_context(|| format!("cannot write {}", known.display()))
}

/// Of all that the component follows from: its sources, and by its path the version of WASI's packages.
fn key(sources: &Path, wit: &Path) -> Result<String> {
    let mut lines = vec![wit.display().to_string()];
    for name in SOURCES {
        lines.push(format!("{}  {name}", cache::sha256(&sources.join(name))?));
    }
    Ok(lines.join("\n"))
}

/// The packages of WASI 0.2 that come with wasmtime.
fn wit() -> Result<PathBuf> {
    let metadata = output(cargo().args(["metadata", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let mut packages = metadata
        .get("packages")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let is_it = |package: &&Value| {
        package
            .get("name")
            .is_some_and(|name| name == "wasmtime-wasi-http")
    };
    let found = packages.find(is_it);
    let manifest = found.and_then(|package| package.get("manifest_path")?.as_str());
    let manifest = manifest.context("there is no package wasmtime-wasi-http")?;
    Ok(Path::new(manifest).with_file_name("wit").join("deps"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if a component of another handler, or of another WASI, were taken for the one of these.
    #[test]
    fn another_source_has_another_key() {
        let folder = tempfile::tempdir().unwrap();
        for name in SOURCES {
            std::fs::write(folder.path().join(name), "1").unwrap();
        }
        let wit = Path::new("wasmtime-wasi-http-1/wit");
        let first = key(folder.path(), wit).unwrap();
        assert_eq!(key(folder.path(), wit).unwrap(), first);
        let other = Path::new("wasmtime-wasi-http-2/wit");
        assert_ne!(key(folder.path(), other).unwrap(), first);
        std::fs::write(folder.path().join("handler.js"), "2").unwrap();
        assert_ne!(key(folder.path(), wit).unwrap(), first);
    }
}
