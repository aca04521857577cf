//! The CustomResourceDefinitions that a cluster installs.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use crate::function::Function;
use crate::pool::RuntimePool;

/// A resource that a cluster is taught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Definition {
    /// [`Function`].
    Function,
    /// [`RuntimePool`].
    RuntimePool,
}

/// Why there is no definition.
#[derive(Debug, thiserror::Error)]
pub enum CrdError {
    /// The generated definition is no valid one.
    #[error("the generated definition is no CustomResourceDefinition")]
    Shape(#[from] serde_json::Error),
    /// It cannot be written as YAML.
    #[error("the definition cannot be written as YAML")]
    Yaml(#[from] serde_yaml_ng::Error),
}

impl Definition {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Function, Self::RuntimePool];

    /// The name of its file in `deploy/crd`, without `.yaml`.
    #[must_use]
    pub fn file(self) -> &'static str {
        match self {
            Self::Function => "function",
            Self::RuntimePool => "runtimepool",
        }
    }

    /// The kind that it defines.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Function => "Function",
            Self::RuntimePool => "RuntimePool",
        }
    }

    /// The definition, with the number formats that Kubernetes knows.
    ///
    /// # Errors
    /// When the generated definition is no valid one, which a test rules out.
    pub fn crd(self) -> Result<CustomResourceDefinition, serde_json::Error> {
        let mut crd = serde_json::to_value(match self {
            Self::Function => Function::crd(),
            Self::RuntimePool => RuntimePool::crd(),
        })?;
        know_formats(&mut crd);
        serde_json::from_value(crd)
    }

    /// The same as YAML, as its file has it.
    ///
    /// # Errors
    /// As [`Definition::crd`], or when it cannot be written as YAML.
    pub fn yaml(self) -> Result<String, CrdError> {
        let file = self.file();
        let crd = serde_yaml_ng::to_string(&self.crd()?)?;
        Ok(format!(
            "# Made by `cargo run -p wisp-api --bin crdgen {file} > deploy/crd/{file}.yaml`; a test fails where it differs from the types.\n{crd}"
        ))
    }
}

/// Kubernetes warns of integer formats other than int32 and int64; the bounds say the rest.
fn know_formats(value: &mut Value) {
    match value {
        Value::Object(map) => {
            let replacement = match map.get("format").and_then(Value::as_str) {
                Some("uint8" | "uint16" | "uint32") => Some("int32"),
                Some("uint64" | "uint") => Some("int64"),
                _ => None,
            };
            if let Some(format) = replacement {
                map.insert("format".to_owned(), format.into());
            }
            // A quantity has a default, which the API server gives in place of a null only where null isn't allowed.
            if map.contains_key("x-kubernetes-int-or-string") && map.contains_key("default") {
                map.remove("nullable");
            }
            map.values_mut().for_each(know_formats);
        }
        Value::Array(items) => items.iter_mut().for_each(know_formats),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_definitions_are_those_the_types_make() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/crd");
        for definition in Definition::ALL {
            let path = format!("{folder}/{}.yaml", definition.file());
            let committed = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                committed == definition.yaml().unwrap(),
                "{path} differs from the types: run `cargo xtask generate`"
            );
        }
    }

    #[test]
    fn every_field_has_a_sentence() {
        fn walk(schema: &Value, path: &str, silent: &mut Vec<String>) {
            for (name, property) in schema
                .get("properties")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
            {
                let path = format!("{path}.{name}");
                let told = property
                    .get("description")
                    .and_then(Value::as_str)
                    .is_some_and(|text| text.ends_with(['.', ')', '!']) || path.contains(".pod."));
                if !told {
                    silent.push(path.clone());
                }
                walk(property, &path, silent);
                if let Some(items) = property.get("items") {
                    walk(items, &path, silent);
                }
            }
        }
        for definition in Definition::ALL {
            let crd = serde_json::to_value(definition.crd().unwrap()).unwrap();
            let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            let mut silent = Vec::new();
            walk(&schema["properties"]["spec"], "spec", &mut silent);
            walk(&schema["properties"]["status"], "status", &mut silent);
            assert_eq!(silent, Vec::<String>::new());
        }
    }

    /// Would fail if a field came, or got another default, and the page of function.yaml's fields didn't tell; or if the
    /// page's example were none.
    #[test]
    fn the_page_of_fields_tells_all_of_them() {
        fn walk(schema: &Value, path: &str, fields: &mut Vec<(String, String)>) {
            let has_fields = |schema: &Value| schema.get("properties").is_some();
            for (name, property) in schema
                .get("properties")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
            {
                let path = format!("{path}{name}");
                let items = property.get("items").unwrap_or(&Value::Null);
                // What a pod's fields have in them is Kubernetes' to tell.
                if path.starts_with("pod.") || !(has_fields(property) || has_fields(items)) {
                    let default = match property.get("default") {
                        Some(Value::String(text)) => format!("`{text}`"),
                        Some(value) => format!("`{value}`"),
                        None => String::new(),
                    };
                    fields.push((path, default));
                } else {
                    walk(property, &format!("{path}."), fields);
                    walk(items, &format!("{path}[]."), fields);
                }
            }
        }
        let page = include_str!("../../operator/docs/function.md");
        let crd = serde_json::to_value(Definition::Function.crd().unwrap()).unwrap();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let mut fields = Vec::new();
        walk(&schema["properties"]["spec"], "", &mut fields);
        fields.retain(|(path, default)| {
            let field = format!("`{path}`");
            !page.lines().any(|row| {
                let first = row.split('|').nth(1);
                first.is_some_and(|cell| cell.contains(&field)) && row.contains(default)
            })
        });
        assert!(fields.is_empty(), "function.md doesn't tell {fields:?}");

        let example = page.split("```").nth(1).unwrap().strip_prefix("yaml\n");
        let manifests = crate::parse_manifests(example.unwrap()).unwrap();
        assert!(manifests.iter().any(|found| found.function().is_some()));
        for manifest in &manifests {
            manifest.validate_for(crate::Place::Cluster).unwrap();
        }
    }
}
