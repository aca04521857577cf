//! Whose signatures does the installation demand? Rules, as sigstore's ClusterImagePolicy has them, and what they say of
//! one image, or of another source, in one namespace.

mod glob;
mod read;

use wisp_artifacts::{Demand, PublicKey, Reference};

pub use read::PolicyError;

use glob::Glob;

/// What the installation demands. Without rules: nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rule>,
    default: Answer,
}

/// One rule. What several rules match has to satisfy each.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// How it is called in errors.
    title: String,
    images: Vec<Glob>,
    /// All, where there are none.
    namespaces: Vec<Glob>,
    authority: Authority,
    /// What becomes of sources in its namespaces that can't be signed.
    other_sources: Option<Answer>,
}

/// Who lets an image pass.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Authority {
    /// Everybody.
    Pass,
    /// Nobody but who has one of these keys.
    Keys(Vec<PublicKey>),
}

/// Yes or no.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
enum Answer {
    #[default]
    Allow,
    Deny,
}

/// What the policy says of a source.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It may be used as it is.
    Allowed,
    /// It may be used where it is signed as each of these wants it.
    Signed(Vec<(&'a str, &'a [PublicKey])>),
    /// It may not be used, with why.
    Refused(String),
}

impl Policy {
    /// Whether it demands nothing of anybody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.default == Answer::Allow
    }

    /// What it says of an image that is named in a namespace.
    #[must_use]
    pub fn image(&self, namespace: &str, image: &Reference) -> Verdict<'_> {
        // A host's name is the same in either case.
        let registry = image.registry().to_ascii_lowercase();
        let name = format!("{registry}/{}", image.repository());
        let rules = self.rules.iter().filter(|rule| rule.is_for(namespace));
        let rules: Vec<&Rule> = rules
            .filter(|rule| rule.images.iter().any(|glob| glob.matches(&name)))
            .collect();
        if rules.is_empty() && self.default == Answer::Deny {
            return Verdict::Refused(format!(
                "no rule of the signature policy is for {name} in the namespace `{namespace}`, and what none is for is refused"
            ));
        }
        let mut demands = Vec::new();
        for rule in rules {
            match &rule.authority {
                Authority::Pass => {}
                Authority::Keys(keys) if keys.is_empty() => {
                    return Verdict::Refused(format!("{} refuses {name}", rule.title));
                }
                Authority::Keys(keys) => demands.push((rule.title.as_str(), keys.as_slice())),
            }
        }
        if demands.is_empty() {
            Verdict::Allowed
        } else {
            Verdict::Signed(demands)
        }
    }

    /// What it says of `what`, a source that can't be signed.
    #[must_use]
    pub fn other(&self, namespace: &str, what: &str) -> Verdict<'_> {
        let rules = self.rules.iter().filter(|rule| rule.is_for(namespace));
        let answers: Vec<(&str, Answer)> = rules
            .filter_map(|rule| Some((rule.title.as_str(), rule.other_sources?)))
            .collect();
        let refused = |by: &str| {
            Verdict::Refused(format!(
                "{by} refuses {what} in the namespace `{namespace}`: only images can be signed"
            ))
        };
        match answers.iter().find(|(_, answer)| *answer == Answer::Deny) {
            Some((title, _)) => refused(title),
            None if answers.is_empty() && self.default == Answer::Deny => {
                refused("the signature policy")
            }
            None => Verdict::Allowed,
        }
    }
}

impl Rule {
    fn is_for(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.iter().any(|glob| glob.matches(namespace))
    }
}

impl Verdict<'_> {
    /// The demands, as they are checked.
    #[must_use]
    pub fn demands(&self) -> Vec<Demand<'_>> {
        match self {
            Self::Signed(demands) => demands
                .iter()
                .map(|(by, keys)| Demand { by, keys })
                .collect(),
            Self::Allowed | Self::Refused(_) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
