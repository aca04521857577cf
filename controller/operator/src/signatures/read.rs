//! From what the chart's values say to a policy, or to all mistakes in it.

use std::fmt;
use std::fmt::Write as _;

use serde::Deserialize;
use wisp_artifacts::PublicKey;

use super::glob::Glob;
use super::{Answer, Authority, Policy, Rule};

/// Everything that is wrong with a policy, a line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyError(Vec<String>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    #[serde(default)]
    default: Answer,
    #[serde(default)]
    rules: Vec<WrittenRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenRule {
    name: String,
    #[serde(default)]
    images: Vec<Image>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default)]
    authorities: Vec<WrittenAuthority>,
    #[serde(default)]
    other_sources: Option<Answer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    glob: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum WrittenAuthority {
    Key(Key),
    Static(Static),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Key {
    Data(String),
    SecretRef(KeyRef),
    ConfigMapRef(KeyRef),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyRef {
    name: String,
    /// The chart looks it up.
    #[serde(default, rename = "key")]
    _key: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Static {
    action: Action,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Action {
    Pass,
    Fail,
}

/// The variable with the key that the authority at this place has from a Secret or ConfigMap.
fn variable(rule: usize, authority: usize) -> String {
    format!("WISP_SIGNATURE_KEY_{rule}_{authority}")
}

impl Policy {
    /// Reads the value `signatures` of the chart, as JSON. Keys in Secrets and ConfigMaps are in variables of the
    /// environment, `WISP_SIGNATURE_KEY_<rule>_<authority>`, which `environment` gives.
    ///
    /// # Errors
    /// All mistakes, each with its place.
    pub fn read(
        json: &str,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, PolicyError> {
        let written: Written =
            serde_json::from_str(json).map_err(|error| PolicyError(vec![error.to_string()]))?;
        let mut mistakes = Vec::new();
        let mut rules = Vec::new();
        for (index, rule) in written.rules.into_iter().enumerate() {
            rules.push(rule.read(index, &environment, &mut mistakes));
        }
        if !mistakes.is_empty() {
            return Err(PolicyError(mistakes));
        }
        Ok(Self {
            rules,
            default: written.default,
        })
    }
}

impl WrittenRule {
    fn read(
        self,
        index: usize,
        environment: &impl Fn(&str) -> Option<String>,
        mistakes: &mut Vec<String>,
    ) -> Rule {
        let at = format!("rules[{index}] `{}`", self.name);
        if self.images.is_empty() && self.other_sources.is_none() {
            mistakes.push(format!(
                "{at}: it is for nothing: expected images or otherSources"
            ));
        }
        if self.images.is_empty() != self.authorities.is_empty() {
            mistakes.push(format!("{at}: images and authorities belong together"));
        }
        let images = self.images.iter().map(|image| Glob::of_images(&image.glob));
        let namespaces = self.namespaces.iter().map(|name| Glob::of_namespaces(name));
        let (images, namespaces) = (
            gather(
                images,
                |place| format!("{at}: images[{place}].glob"),
                mistakes,
            ),
            gather(
                namespaces,
                |place| format!("{at}: namespaces[{place}]"),
                mistakes,
            ),
        );
        let mut passes = false;
        let mut keys = Vec::new();
        for (place, authority) in self.authorities.into_iter().enumerate() {
            let text = match authority {
                WrittenAuthority::Static(Static { action }) => {
                    passes |= matches!(action, Action::Pass);
                    continue;
                }
                WrittenAuthority::Key(Key::Data(text)) => Ok(text),
                WrittenAuthority::Key(Key::SecretRef(of) | Key::ConfigMapRef(of)) => {
                    let name = variable(index, place);
                    environment(&name)
                        .ok_or_else(|| format!("`{}`: the variable {name} isn't set", of.name))
                }
            };
            let read =
                text.and_then(|text| PublicKey::all(&text).map_err(|error| error.to_string()));
            match read {
                Ok(read) => keys.extend(read),
                Err(why) => mistakes.push(format!("{at}: authorities[{place}].key: {why}")),
            }
        }
        Rule {
            title: format!("the rule `{}` of the signature policy", self.name),
            images,
            namespaces,
            authority: if passes {
                Authority::Pass
            } else {
                Authority::Keys(keys)
            },
            other_sources: self.other_sources,
        }
    }
}

fn gather(
    read: impl Iterator<Item = Result<Glob, String>>,
    at: impl Fn(usize) -> String,
    mistakes: &mut Vec<String>,
) -> Vec<Glob> {
    let mut globs = Vec::new();
    for (place, glob) in read.enumerate() {
        match glob {
            Ok(glob) => globs.push(glob),
            Err(why) => mistakes.push(format!("{}: {why}", at(place))),
        }
    }
    globs
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_char('\n')?;
            }
            f.write_str(mistake)?;
        }
        Ok(())
    }
}

impl std::error::Error for PolicyError {}
