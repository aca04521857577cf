//! From the text of a manifest to checked objects.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use crate::crd::Definition;
use crate::function::Function;
use crate::kinds::Kind;
use crate::mistake::{ManifestError, Mistake, listed, nearest};
use crate::schema;
use crate::validate::Place;
use crate::yaml::{Node, Value, compose};

/// The longest text of a manifest, in bytes: what etcd takes of one object, and room for a few.
const MAX_TEXT: usize = 8 << 20;
/// The group of wisp's own resources.
const GROUP: &str = "wisp.dev";

/// One object of a manifest, valid as such.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// What it says.
    pub object: Object,
    tree: Node,
}

/// The kinds of object that a manifest may hold.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// A Function.
    Function(Box<Function>),
    /// A Secret, for variables to take their values from.
    Secret(Box<Secret>),
    /// A ConfigMap, likewise.
    ConfigMap(Box<ConfigMap>),
    /// An object that is nobody's business here, as it is written: a Deployment, a RuntimePool.
    Other(Other),
}

/// What is known of an object of another kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// Its kind.
    pub kind: String,
    /// Its name, if it has one.
    pub name: String,
}

impl Manifest {
    /// The Function, if it is one.
    #[must_use]
    pub fn function(&self) -> Option<&Function> {
        match &self.object {
            Object::Function(function) => Some(function),
            Object::Secret(_) | Object::ConfigMap(_) | Object::Other(_) => None,
        }
    }

    /// The object as its text has it, for whoever applies it: what isn't written there isn't here, so that nobody comes to
    /// own a default. A null is an absent field.
    #[must_use]
    pub fn as_written(&self) -> Json {
        without_nulls(self.tree.to_json())
    }

    /// Checks a Function for the place where it is to run, as [`Function::validate_for`] does, with lines.
    ///
    /// # Errors
    /// Every mistake.
    pub fn validate_for(&self, place: Place) -> Result<(), ManifestError> {
        self.function().map_or(Ok(()), |function| {
            function
                .validate_for(place)
                .map_err(|error| self.locate(error))
        })
    }

    /// The same mistakes with the lines of the text that this object was read from.
    #[must_use]
    pub fn locate(&self, error: ManifestError) -> ManifestError {
        error.with_lines(|path| schema::locate(&self.tree, path))
    }

    /// What no two objects of a manifest share; nothing is held against objects of other kinds.
    fn identity(&self) -> Option<(Kind, Option<String>, Option<String>)> {
        let (kind, metadata) = match &self.object {
            Object::Function(function) => (Kind::Function, &function.metadata),
            Object::Secret(secret) => (Kind::Secret, &secret.metadata),
            Object::ConfigMap(map) => (Kind::ConfigMap, &map.metadata),
            Object::Other(_) => return None,
        };
        Some((kind, metadata.namespace.clone(), metadata.name.clone()))
    }
}

/// Reads a manifest: YAML, or JSON, of any number of documents, each a Function, a Secret or a ConfigMap. Objects of other
/// kinds may stand among them, as they do in what `kubectl apply` is given; of these no more is read than what they are.
///
/// A Function that comes back passes [`Function::validate`]. Whether it can run here is [`Manifest::validate_for`]'s
/// question.
///
/// # Errors
/// Every mistake of every document: syntax, unknown fields, wrong types, and where the shape is right, what
/// [`Function::validate`] finds. A syntax error is reported alone.
pub fn parse_manifests(text: &str) -> Result<Vec<Manifest>, ManifestError> {
    if text.len() > MAX_TEXT {
        let message = format!(
            "a manifest of {} bytes: at most {MAX_TEXT} are read",
            text.len()
        );
        return Err(ManifestError::one(Mistake::new("", message)));
    }
    let documents = compose(text)
        .map_err(|error| ManifestError::one(Mistake::at(error.line, "", error.message)))?;
    let mut mistakes = Vec::new();
    let mut manifests = Vec::new();
    let mut seen = HashMap::new();
    for tree in documents {
        let line = tree.line;
        match object(tree) {
            Ok(manifest) => {
                if let Some((kind, namespace, name)) = manifest.identity() {
                    let id = (kind.name(), namespace, name.clone());
                    if let Some(first) = seen.insert(id, line) {
                        mistakes.push(Mistake::at(
                            line,
                            "",
                            format!(
                                "the {} `{}` is here twice: first on line {first}",
                                kind.name(),
                                name.unwrap_or_default()
                            ),
                        ));
                    }
                }
                manifests.push(manifest);
            }
            Err(found) => mistakes.extend(found),
        }
    }
    ManifestError::unless_empty(mistakes)?;
    if manifests.is_empty() {
        return Err(ManifestError::one(Mistake::new(
            "",
            "no document: expected at least one Function, Secret or ConfigMap",
        )));
    }
    Ok(manifests)
}

fn object(tree: Node) -> Result<Manifest, Vec<Mistake>> {
    if let Some(other) = other(&tree) {
        let object = Object::Other(other);
        return Ok(Manifest { object, tree });
    }
    let kind = kind(&tree)?;
    let mut mistakes = Vec::new();
    schema::check(&tree, kind.schema(), "", &mut mistakes);
    let json = without_nulls(tree.to_json());
    let object = match kind {
        Kind::Function => typed(json, &tree).map(|function| Object::Function(Box::new(function))),
        Kind::Secret => typed(json, &tree).map(|secret| Object::Secret(Box::new(secret))),
        Kind::ConfigMap => typed(json, &tree).map(|map| Object::ConfigMap(Box::new(map))),
    };
    let object = match object {
        Ok(object) => object,
        // Where the schema found mistakes, this one is among them, told better.
        Err(found) => return Err(if mistakes.is_empty() { found } else { mistakes }),
    };
    let manifest = Manifest { object, tree };
    if let Some(Err(error)) = manifest.function().map(Function::validate) {
        let is_told = |path: &str| mistakes.iter().any(|mistake| mistake.path == path);
        let more: Vec<_> = manifest
            .locate(error)
            .into_mistakes()
            .into_iter()
            .filter(|mistake| !is_told(&mistake.path))
            .collect();
        mistakes.extend(more);
    }
    if mistakes.is_empty() {
        Ok(manifest)
    } else {
        Err(mistakes)
    }
}

/// What an object is that is of another kind, and meant to be: it isn't one of ours with a mistake in its kind.
fn other(tree: &Node) -> Option<Other> {
    let text = |key| tree.get(key).and_then(Node::as_str);
    let (version, kind) = (text("apiVersion")?, text("kind")?);
    let is_kind = kind.starts_with(|first: char| first.is_ascii_uppercase());
    let is_ours = Kind::ALL.iter().any(|ours| ours.name() == kind);
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let is_meant = match group {
        GROUP => Definition::ALL.iter().any(|known| known.kind() == kind),
        // Secrets and ConfigMaps have none, and many others.
        "" => nearest(kind, Kind::ALL.iter().map(|kind| kind.name())).is_none(),
        group => nearest(group, [GROUP]).is_none(),
    };
    (is_kind && !is_ours && is_meant).then(|| {
        let name = tree
            .get("metadata")
            .and_then(|metadata| metadata.get("name"));
        Other {
            kind: kind.to_owned(),
            name: name.and_then(Node::as_str).unwrap_or_default().to_owned(),
        }
    })
}

/// Which kind a document says it is, its apiVersion included.
fn kind(tree: &Node) -> Result<Kind, Vec<Mistake>> {
    let one = |mistake| Err(vec![mistake]);
    if !matches!(tree.value, Value::Mapping(_)) {
        return one(Mistake::at(
            tree.line,
            "",
            format!(
                "expected an object with apiVersion, kind and metadata, found {}",
                tree.describe()
            ),
        ));
    }
    let names = || Kind::ALL.iter().map(|kind| kind.name());
    let Some(name) = tree.get("kind") else {
        return one(Mistake::at(
            tree.line,
            "kind",
            format!("required, but missing: expected {}", listed(names(), "or")),
        ));
    };
    let Some(kind) = Kind::ALL
        .into_iter()
        .find(|kind| Some(kind.name()) == name.as_str())
    else {
        let near = name
            .as_str()
            .and_then(|text| nearest(text, names()))
            .map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        return one(Mistake::at(
            name.line,
            "kind",
            format!(
                "{} is no kind that is read here: expected {}{near}",
                name.describe(),
                listed(names(), "or")
            ),
        ));
    };
    let expected = kind.api_version();
    match tree.get("apiVersion") {
        Some(version) if version.as_str() == Some(expected) => Ok(kind),
        Some(version) => one(Mistake::at(
            version.line,
            "apiVersion",
            format!(
                "{} is no version of {} that is known: expected `{expected}`",
                version.describe(),
                kind.name()
            ),
        )),
        None => one(Mistake::at(
            tree.line,
            "apiVersion",
            format!("required, but missing: expected `{expected}`"),
        )),
    }
}

fn typed<T: DeserializeOwned>(json: Json, tree: &Node) -> Result<T, Vec<Mistake>> {
    serde_path_to_error::deserialize(json).map_err(|error| {
        let path = error.path().to_string();
        let path = if path == "." { String::new() } else { path };
        let message = match path.split('.').next() {
            Some("data" | "binaryData") => format!("no base64 ({}); plain text goes into `stringData` of a Secret, or `data` of a ConfigMap", error.inner()),
            _ => error.inner().to_string(),
        };
        vec![Mistake::at(schema::locate(tree, &path), path, message)]
    })
}

/// Kubernetes treats a null as an absent field, which then gets its default.
fn without_nulls(json: Json) -> Json {
    match json {
        Json::Object(map) => map
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key, without_nulls(value)))
            .collect(),
        Json::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests;
