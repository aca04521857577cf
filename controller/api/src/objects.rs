//! The Secrets and ConfigMaps that variables take their values from.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use wisp_contract::config::Env;

use crate::function::{Function, KeySelector};
use crate::manifest::{Manifest, Object};
use crate::mistake::{ManifestError, Mistake, nearest};

/// Secrets and ConfigMaps by namespace and name. An object without namespace is in `default`.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    secrets: BTreeMap<(String, String), Values>,
    config_maps: BTreeMap<(String, String), Values>,
}

type Values = BTreeMap<String, ByteString>;

impl Objects {
    /// Those of a manifest.
    #[must_use]
    pub fn new<'a>(manifests: impl IntoIterator<Item = &'a Manifest>) -> Self {
        let mut objects = Self::default();
        for manifest in manifests {
            match &manifest.object {
                Object::Secret(secret) => objects.add_secret(secret),
                Object::ConfigMap(map) => objects.add_config_map(map),
                Object::Function(_) | Object::Other(_) => {}
            }
        }
        objects
    }

    /// Adds a Secret, in place of one of the same name.
    pub fn add_secret(&mut self, secret: &Secret) {
        let mut values = secret.data.clone().unwrap_or_default();
        // As the API server has it: stringData wins.
        for (key, value) in secret.string_data.iter().flatten() {
            values.insert(key.clone(), ByteString(value.clone().into_bytes()));
        }
        self.secrets.insert(id(&secret.metadata), values);
    }

    /// Adds a ConfigMap, in place of one of the same name.
    pub fn add_config_map(&mut self, map: &ConfigMap) {
        let mut values: Values = map.binary_data.clone().unwrap_or_default();
        for (key, value) in map.data.iter().flatten() {
            values.insert(key.clone(), ByteString(value.clone().into_bytes()));
        }
        self.config_maps.insert(id(&map.metadata), values);
    }

    /// The values of a Function's variables.
    ///
    /// # Errors
    /// Every object and key that is missing though not `optional`, and every value that is no UTF-8.
    pub fn env(&self, function: &Function) -> Result<Env, ManifestError> {
        let namespace = function.metadata.namespace.as_deref().unwrap_or("default");
        let mut env = BTreeMap::new();
        let mut mistakes = Vec::new();
        for (index, variable) in function.spec.env.iter().enumerate() {
            if let Some(value) = &variable.value {
                env.insert(variable.name.clone(), value.clone());
            }
            let Some(source) = &variable.value_from else {
                continue;
            };
            let references = [
                (
                    "secretKeyRef",
                    "Secret",
                    &source.secret_key_ref,
                    &self.secrets,
                ),
                (
                    "configMapKeyRef",
                    "ConfigMap",
                    &source.config_map_key_ref,
                    &self.config_maps,
                ),
            ];
            for (field, kind, key, objects) in references {
                let Some(key) = key else { continue };
                match look_up(kind, key, namespace, objects) {
                    Ok(Some(value)) => _ = env.insert(variable.name.clone(), value),
                    Ok(None) => {}
                    Err((part, message)) => mistakes.push(Mistake::new(
                        format!("spec.env[{index}].valueFrom.{field}.{part}"),
                        message,
                    )),
                }
            }
        }
        ManifestError::unless_empty(mistakes)?;
        Ok(Env(env))
    }
}

fn look_up(
    kind: &str,
    selector: &KeySelector,
    namespace: &str,
    objects: &BTreeMap<(String, String), Values>,
) -> Result<Option<String>, (&'static str, String)> {
    let KeySelector {
        name,
        key,
        optional,
    } = selector;
    let Some(values) = objects.get(&(namespace.to_owned(), name.clone())) else {
        let known = objects
            .keys()
            .filter(|(other, _)| other == namespace)
            .map(|(_, name)| name.as_str());
        let near =
            nearest(name, known).map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        let message = format!("there is no {kind} `{name}` in the namespace `{namespace}`{near}");
        return if *optional {
            Ok(None)
        } else {
            Err(("name", message))
        };
    };
    let Some(value) = values.get(key) else {
        let near = nearest(key, values.keys().map(String::as_str))
            .map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        return if *optional {
            Ok(None)
        } else {
            Err((
                "key",
                format!("the {kind} `{name}` has no key `{key}`{near}"),
            ))
        };
    };
    match String::from_utf8(value.0.clone()) {
        Ok(text) if !text.contains('\0') => Ok(Some(text)),
        _ => Err((
            "key",
            format!(
                "the value of `{key}` in the {kind} `{name}` is no UTF-8 text without NUL characters, as variables must be"
            ),
        )),
    }
}

fn id(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> (String, String) {
    (
        metadata
            .namespace
            .clone()
            .unwrap_or_else(|| "default".to_owned()),
        metadata.name.clone().unwrap_or_default(),
    )
}
