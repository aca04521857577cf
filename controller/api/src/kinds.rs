//! The kinds of object that a manifest may hold, and their schemas.

use std::sync::LazyLock;

use serde_json::{Value as Json, json};

use crate::crd::Definition;

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Function,
    Secret,
    ConfigMap,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Function, Self::Secret, Self::ConfigMap];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Function => "Function",
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
        }
    }

    pub(crate) fn api_version(self) -> &'static str {
        match self {
            Self::Function => "wisp.dev/v1alpha1",
            Self::Secret | Self::ConfigMap => "v1",
        }
    }

    pub(crate) fn schema(self) -> &'static Json {
        match self {
            Self::Function => &FUNCTION,
            Self::Secret => &SECRET,
            Self::ConfigMap => &CONFIG_MAP,
        }
    }
}

static FUNCTION: LazyLock<Json> = LazyLock::new(|| {
    let crd = Definition::Function
        .crd()
        .ok()
        .and_then(|crd| serde_json::to_value(crd).ok())
        .unwrap_or_default();
    let mut schema = crd
        .pointer("/spec/versions/0/schema/openAPIV3Schema")
        .cloned()
        .unwrap_or_default();
    // What the API server adds to the schema of every resource.
    if let Some(properties) = schema.get_mut("properties").and_then(Json::as_object_mut) {
        properties.insert("apiVersion".to_owned(), json!({"type": "string"}));
        properties.insert("kind".to_owned(), json!({"type": "string"}));
        properties.insert("metadata".to_owned(), metadata());
    }
    if let Some(required) = schema.get_mut("required").and_then(Json::as_array_mut) {
        required.push("metadata".into());
    }
    schema
});

static SECRET: LazyLock<Json> = LazyLock::new(|| {
    json!({"type": "object", "required": ["metadata"], "properties": {
        "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": metadata(),
        "type": {"type": "string"}, "immutable": {"type": "boolean"}, "data": secrets(), "stringData": secrets(),
    }})
});

static CONFIG_MAP: LazyLock<Json> = LazyLock::new(|| {
    json!({"type": "object", "required": ["metadata"], "properties": {
        "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": metadata(),
        "immutable": {"type": "boolean"}, "data": texts(), "binaryData": texts(),
    }})
});

fn texts() -> Json {
    json!({"type": "object", "additionalProperties": {"type": "string"}})
}

/// Texts that are never shown: `password` is OpenAPI's word for that.
fn secrets() -> Json {
    let text = json!({"type": "string", "format": "password"});
    json!({"type": "object", "format": "password", "additionalProperties": text})
}

/// Kubernetes' ObjectMeta; what only servers write is not looked into.
fn metadata() -> Json {
    json!({"type": "object", "required": ["name"], "properties": {
        "name": {"type": "string"}, "generateName": {"type": "string"}, "namespace": {"type": "string"},
        "labels": texts(), "annotations": texts(),
        "finalizers": {"type": "array", "items": {"type": "string"}},
        "creationTimestamp": {}, "deletionGracePeriodSeconds": {}, "deletionTimestamp": {}, "generation": {},
        "managedFields": {}, "ownerReferences": {}, "resourceVersion": {}, "selfLink": {}, "uid": {},
    }})
}
