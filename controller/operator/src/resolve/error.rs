//! Why a Function can't be resolved.

use std::time::Duration;

use wisp_api::{Bytes, ManifestError};

use crate::artifacts::ArtifactError;

/// What of a Function is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The Function as a whole.
    Function,
    /// Its component.
    Component,
    /// Its models.
    Models,
}

/// Why a Function can't be resolved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ResolveError {
    /// Of what.
    pub part: Part,
    /// One word, for conditions and metrics.
    pub reason: &'static str,
    /// A sentence that names what is wrong.
    pub message: String,
    /// Whether it may be otherwise in a moment, without anybody changing anything.
    pub is_transient: bool,
    /// How long the registry or server asks to be left alone, where it does.
    pub retry_after: Option<Duration>,
    /// The one of the models that it is of, where it is of one.
    pub model: Option<String>,
}

impl ResolveError {
    /// The spec breaks a rule.
    pub(super) fn invalid(error: &ManifestError) -> Self {
        Self::function("Invalid", one_line(error))
    }

    /// A variable has no value.
    pub(super) fn env(error: &ManifestError) -> Self {
        Self::function("EnvNotFound", one_line(error))
    }

    /// What variables and certificates come from is more than is read.
    pub(super) fn values_too_large(most: usize) -> Self {
        Self::function(
            "EnvNotFound",
            format!(
                "the keys of Secrets and ConfigMaps that its variables and certificate authorities name have more than {most} bytes together"
            ),
        )
    }

    /// An authority's certificate is none, or missing.
    pub(super) fn certificate_authorities(error: &ManifestError) -> Self {
        Self::function("CertificateAuthorityNotFound", one_line(error))
    }

    /// The API server can't be asked.
    pub(super) fn api(error: &kube::Error) -> Self {
        Self {
            is_transient: true,
            ..Self::function(
                "ApiUnavailable",
                format!("the API server can't be asked: {error}"),
            )
        }
    }

    /// A pull secret is none, or missing.
    pub(super) fn pull_secret(message: String) -> Self {
        Self {
            part: Part::Component,
            reason: "PullSecretNotFound",
            message,
            is_transient: false,
            retry_after: None,
            model: None,
        }
    }

    /// No instance of the component would get the memory that it begins with.
    pub(super) fn memory(allowed: Bytes, needed: Bytes) -> Self {
        Self {
            part: Part::Component,
            ..Self::function(
                "MemoryTooSmall",
                format!(
                    "an instance of the component begins with {needed} of memory, and spec.limits.memory is {allowed}"
                ),
            )
        }
    }

    pub(super) fn component(error: ArtifactError) -> Self {
        Self::from(Part::Component, error)
    }

    pub(super) fn models(error: ArtifactError) -> Self {
        Self::from(Part::Models, error)
    }

    pub(super) fn from(part: Part, error: ArtifactError) -> Self {
        Self {
            part,
            reason: error.reason,
            message: error.message,
            is_transient: error.is_transient,
            retry_after: error.retry_after,
            model: None,
        }
    }

    /// The same, of one model.
    pub(super) fn of_model(mut self, index: usize, name: &str) -> Self {
        if self.part == Part::Models {
            self.message = format!("spec.models[{index}] `{name}`: {}", self.message);
            self.model = Some(name.to_owned());
        }
        self
    }

    fn function(reason: &'static str, message: String) -> Self {
        Self {
            part: Part::Function,
            reason,
            message,
            is_transient: false,
            retry_after: None,
            model: None,
        }
    }
}

fn one_line(error: &ManifestError) -> String {
    error.to_string().replace('\n', "; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolver::pause;

    /// Would fail if the page on what to watch told somebody that it is theirs to mend what passes by itself, or the other way round.
    #[test]
    fn whose_fault_it_is_is_told() {
        let page = include_str!("../../docs/watching.md");
        let mistaken = wisp_api::Function::new("f", wisp_api::FunctionSpec::default());
        let mistake = mistaken.validate_for(wisp_api::Place::Cluster).unwrap_err();
        for error in [
            ResolveError::invalid(&mistake),
            ResolveError::env(&mistake),
            ResolveError::certificate_authorities(&mistake),
            ResolveError::api(&kube::Error::LinesCodecMaxLineLengthExceeded),
            ResolveError::pull_secret(String::new()),
            ResolveError::memory(Bytes(1), Bytes(2)),
        ] {
            let condition = match error.part {
                Part::Function => "| `Ready` | False |",
                Part::Component | Part::Models => "| `ComponentReady`",
            };
            let whose = match error.is_transient {
                true => "| installation |",
                false => "| owner |",
            };
            let word = format!("`{}`", error.reason);
            let mut rows = page.lines().filter(|line| line.starts_with(condition));
            assert!(
                rows.any(|row| row.contains(&word) && row.contains(whose)),
                "{word}"
            );
        }
    }

    /// Would fail if a registry that says when to come again were asked before, or one could say never.
    #[test]
    fn who_asks_to_be_left_alone_is_for_as_long_as_others_are_at_most() {
        let after = |seconds| {
            let error = wisp_artifacts::Error::Unavailable {
                origin: wisp_artifacts::Origin::Registry,
                host: "r".to_owned(),
                what: "r/x:1".to_owned(),
                why: "429".to_owned(),
                retry_after: Some(Duration::from_secs(seconds)),
            };
            ResolveError::component(error.into())
        };
        let pauses = |failures| [2, 90, 86_400].map(|told| pause(failures, &after(told)).as_secs());
        assert_eq!(pauses(0), [2, 90, 300]);
        assert_eq!(pauses(9), [30, 90, 300]);
    }
}
