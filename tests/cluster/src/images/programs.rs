//! Where are the programs that go into images? Given by the caller, built by cargo, or in the cache folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::Platform;
use crate::{cargo, files};

/// A program or library that goes into an image, as `image.toml` lists it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Program {
    pub(super) name: String,
    /// Its path in the image.
    pub(super) to: PathBuf,
    /// The package of this workspace that builds it.
    package: Option<String>,
    /// The package's features that it needs.
    #[serde(default)]
    features: Vec<String>,
    /// Where in the cache folder it lies; one `*` stands for one folder, and of several the newest version counts.
    cached: Option<String>,
}

/// Where the programs are that go into images: those that the caller gives, by name, and how the others are built.
#[derive(Clone, Debug)]
pub struct Programs {
    given: BTreeMap<(Platform, String), PathBuf>,
    profile: String,
}

impl Default for Programs {
    /// None is given, and cargo builds the release profile.
    fn default() -> Programs {
        Programs {
            given: BTreeMap::new(),
            profile: "release".to_owned(),
        }
    }
}

impl Programs {
    /// These and the `NAME=PATH` of each of `given`, which are for `platform`.
    ///
    /// # Errors
    /// When one has another form or its file does not exist.
    pub(super) fn parse(mut self, given: &[String], platform: Platform) -> Result<Programs> {
        for entry in given {
            let (name, path) = entry
                .split_once('=')
                .with_context(|| format!("--program {entry:?}: want NAME=PATH"))?;
            ensure!(
                Path::new(path).is_file(),
                "--program {entry:?}: there is no file {path}"
            );
            self = self.with_for(platform, name, path);
        }
        Ok(self)
    }

    /// The same and one more, for this machine.
    #[must_use]
    pub fn with(self, name: impl Into<String>, path: impl Into<PathBuf>) -> Programs {
        self.with_for(Platform::HERE, name, path)
    }

    /// The same and one more, for machines of `platform`.
    #[must_use]
    pub fn with_for(
        mut self,
        platform: Platform,
        name: impl Into<String>,
        path: impl Into<PathBuf>,
    ) -> Programs {
        self.given.insert((platform, name.into()), path.into());
        self
    }

    /// The same, but cargo builds with this profile: `dev` is what tests have built already.
    #[must_use]
    pub fn profile(mut self, profile: impl Into<String>) -> Programs {
        self.profile = profile.into();
        self
    }

    /// The file of a program for a platform, built if need be.
    pub(super) fn find(&self, program: &Program, platform: Platform) -> Result<PathBuf> {
        let name = &program.name;
        if let Some(path) = self.given.get(&(platform, name.clone())) {
            return Ok(path.clone());
        }
        if let Some(package) = &program.package {
            return cargo::build(package, name, &program.features, &self.profile, platform);
        }
        match &program.cached {
            Some(pattern) if platform == Platform::HERE => cached(pattern).with_context(|| {
                format!(
                    "{name} is not given (--program {name}=PATH), and the cache folder has no {pattern}: cargo xtask setup"
                )
            }),
            _ => bail!("{name} is not given for {platform}: --program {name}=PATH"),
        }
    }
}

/// The file of the newest version that `pattern` finds in the cache folder.
fn cached(pattern: &str) -> Result<PathBuf> {
    let (before, after) = pattern.split_once("/*/").context("a pattern has one *")?;
    let folder = files::cache()?.join(before);
    let mut found = Vec::new();
    for entry in
        fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let entry = entry?;
        let path = entry.path().join(after);
        if path.is_file() {
            found.push((version(&entry.file_name().to_string_lossy()), path));
        }
    }
    let newest = found.into_iter().max().context("there is none")?;
    Ok(newest.1)
}

/// The numbers of a version, so that 1.31 comes after 1.9.
fn version(text: &str) -> Vec<u64> {
    text.split(|character: char| !character.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_are_ordered_by_their_numbers() {
        assert!(version("1.31.1") > version("1.9.0"));
        assert!(version("2.0.0-rc1") > version("1.31.1"));
    }
}
