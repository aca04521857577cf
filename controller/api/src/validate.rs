//! Everything that the schema's patterns and rules demand of a Function, in sentences.

mod names;
mod pod;
mod rules;
mod sources;

use crate::function::{Function, MAX_NAME};
use crate::mistake::{ManifestError, Mistake};
use wisp_contract::{FunctionId, FunctionIdError};

/// Where a Function is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// By `wisp dev`, on this machine.
    Local {
        /// Whether the component is built from a Cargo project, which takes the place of `spec.component`.
        project: bool,
    },
    /// In a Kubernetes cluster.
    Cluster,
}

impl Function {
    /// The Function's id; its namespace is `default` where it names none.
    ///
    /// # Errors
    /// When its name or namespace is none.
    pub fn id(&self) -> Result<FunctionId, FunctionIdError> {
        FunctionId::new(
            self.metadata.namespace.as_deref().unwrap_or("default"),
            self.metadata.name.as_deref().unwrap_or_default(),
        )
    }

    /// When the object was made, in seconds since 1970; 0 where it wasn't yet.
    #[must_use]
    pub fn created(&self) -> i64 {
        let created = self.metadata.creation_timestamp.as_ref();
        created.map_or(0, |time| time.0.as_second())
    }

    /// The hosts of its spec that lead to it, as its status tells, each with since when, in microseconds since 1970.
    ///
    /// No object had a host before it was made, whatever its status says.
    pub fn held(&self) -> impl Iterator<Item = (&str, i64)> {
        let created = self.created().saturating_mul(1_000_000);
        let hosts = self.status.iter().flat_map(|status| &status.hosts);
        hosts
            .filter(|host| self.spec.hosts.contains(&host.name))
            .map(move |host| {
                (
                    host.name.as_str(),
                    host.since.0.as_microsecond().max(created),
                )
            })
    }

    /// Checks what holds wherever the Function runs.
    ///
    /// # Errors
    /// Every mistake, without lines.
    pub fn validate(&self) -> Result<(), ManifestError> {
        let mut mistakes = Mistakes::default();
        self.metadata_rules(&mut mistakes);
        rules::spec(&self.spec, &mut mistakes);
        ManifestError::unless_empty(mistakes.0)
    }

    /// Checks what holds wherever the Function runs, and what `place` demands.
    ///
    /// # Errors
    /// Every mistake, without lines.
    pub fn validate_for(&self, place: Place) -> Result<(), ManifestError> {
        let mut mistakes = Mistakes::default();
        self.metadata_rules(&mut mistakes);
        rules::spec(&self.spec, &mut mistakes);
        sources::place(&self.spec, place, &mut mistakes);
        ManifestError::unless_empty(mistakes.0)
    }

    fn metadata_rules(&self, mistakes: &mut Mistakes) {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        if name.is_empty() {
            mistakes.add("metadata.name", "required, but missing");
        } else if name.len() > MAX_NAME {
            mistakes.add(
                "metadata.name",
                format!(
                    "`{name}` has {} characters: at most {MAX_NAME} are allowed",
                    name.len()
                ),
            );
        } else if !wisp_contract::assignment::is_dns_label(name)
            || !name.starts_with(|c: char| c.is_ascii_lowercase())
        {
            mistakes.add("metadata.name", format!("`{name}` is no name: it must start with a letter, hold only a-z, 0-9 and -, and not end with -"));
        }
        if let Some(namespace) = &self.metadata.namespace
            && !wisp_contract::assignment::is_dns_label(namespace)
        {
            mistakes.add("metadata.namespace", format!("`{namespace}` is no namespace: at most 63 of a-z, 0-9 and -, not starting or ending with -"));
        }
    }
}

/// The mistakes found so far.
#[derive(Debug, Default)]
struct Mistakes(Vec<Mistake>);

impl Mistakes {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Mistake::new(path, message));
    }
}

#[cfg(test)]
mod tests;
