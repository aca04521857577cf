//! Reads what a Function names, and nothing else, from the API server.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::Semaphore;
use wisp_api::{Function, Objects};

use super::error::{Part, ResolveError};
use crate::artifacts::ArtifactError;
use crate::attempts::digest_of;
use crate::references::{self, Kind, Named, PULL_KEY, Versions};

/// The type of a Secret with credentials for registries.
const PULL_TYPE: &str = "kubernetes.io/dockerconfigjson";
/// Keys of one object of which at least the names are kept, for hints.
const MOST_NAMES: usize = 1000;

/// Objects that are read at once: one of a mebibyte takes more as it arrives.
static READING: Semaphore = Semaphore::const_new(8);

/// The most bytes of the keys together that a function's variables and certificates come from: more than it may have of them. They
/// are kept until all that it names is fetched.
const MOST_BYTES: usize = 2 << 20;

/// The Secrets and ConfigMaps that a Function names, as far as there are such.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Those that variables are taken from.
    pub objects: Objects,
    /// What was read of each object that the Function names.
    pub versions: Versions,
    pub(super) namespace: String,
    secrets: BTreeMap<String, Secret>,
    maps: BTreeMap<String, ConfigMap>,
    pull: Vec<String>,
}

/// What a Function takes from one object.
#[derive(Debug, Default)]
struct Uses<'a> {
    keys: BTreeSet<&'a str>,
    /// Variables or certificates are among them.
    are_values: bool,
    /// Credentials or files are.
    are_sources: bool,
}

impl<'a> Uses<'a> {
    /// What of `named` is of the object of this name.
    fn of(named: &[Named<'a>], kind: Kind, name: &str) -> Self {
        let mut uses = Self::default();
        let its = named.iter().filter(|it| (it.kind, it.name) == (kind, name));
        for it in its {
            uses.keys.insert(it.key);
            uses.are_values |= it.is_value;
            uses.are_sources |= !it.is_value;
        }
        uses
    }

    /// Leaves nothing of `data` but that, and the names of what else there is.
    fn trim<V: Default>(&self, data: Option<&mut BTreeMap<String, V>>) {
        let Some(data) = data else { return };
        if data.len() > MOST_NAMES {
            data.retain(|key, _| self.keys.contains(key.as_str()));
        }
        for (key, value) in data {
            if !self.keys.contains(key.as_str()) {
                *value = V::default();
            }
        }
    }
}

/// Reads them.
///
/// # Errors
/// When the API server doesn't answer. What is missing is no error yet: it may be optional.
pub async fn gather(client: &Client, function: &Function) -> Result<Gathered, ResolveError> {
    let namespace = function.namespace().unwrap_or_default();
    let mut gathered = Gathered {
        namespace: namespace.clone(),
        ..Gathered::default()
    };
    for secret in function
        .spec
        .component
        .iter()
        .flat_map(|component| &component.pull_secrets)
    {
        gathered.add_pull_secret(&secret.name);
    }
    let named = references::named(function);
    let mut values = 0;
    for reference in references::of(function) {
        let uses = Uses::of(&named, reference.kind, &reference.name);
        let _reading = READING.acquire().await;
        let read = |error| ResolveError::api(&error);
        let version = match reference.kind {
            Kind::Secret => {
                let api = Api::<Secret>::namespaced(client.clone(), &namespace);
                let secret = api.get_opt(&reference.name).await.map_err(read)?;
                secret.and_then(|mut secret| {
                    let version = secret.resource_version();
                    uses.trim(secret.data.as_mut());
                    if uses.are_values {
                        values += bytes(secret.data.iter().flatten(), |value| value.0.len());
                        gathered.objects.add_secret(&secret);
                    }
                    if uses.are_sources {
                        gathered.secrets.insert(reference.name.clone(), secret);
                    }
                    version
                })
            }
            Kind::ConfigMap => {
                let api = Api::<ConfigMap>::namespaced(client.clone(), &namespace);
                let map = api.get_opt(&reference.name).await.map_err(read)?;
                map.and_then(|mut map| {
                    let version = map.resource_version();
                    uses.trim(map.data.as_mut());
                    uses.trim(map.binary_data.as_mut());
                    if uses.are_values {
                        values += bytes(map.data.iter().flatten(), String::len);
                        values += bytes(map.binary_data.iter().flatten(), |value| value.0.len());
                        gathered.objects.add_config_map(&map);
                    }
                    if uses.are_sources {
                        gathered.maps.insert(reference.name.clone(), map);
                    }
                    version
                })
            }
        };
        gathered.versions.insert(reference, version);
        if values > MOST_BYTES {
            return Err(ResolveError::values_too_large(MOST_BYTES));
        }
    }
    Ok(gathered)
}

fn bytes<'a, V: 'a>(
    data: impl Iterator<Item = (&'a String, &'a V)>,
    length: impl Fn(&V) -> usize,
) -> usize {
    data.map(|(_, value)| length(value)).sum()
}

impl Gathered {
    /// Adds a Secret, with all that is in it.
    #[cfg(test)]
    pub(super) fn add_secret(&mut self, secret: Secret) {
        self.objects.add_secret(&secret);
        self.secrets.insert(secret.name_any(), secret);
    }

    /// Has the credentials of the Secret of this name used.
    pub(super) fn add_pull_secret(&mut self, name: &str) {
        self.pull.push(name.to_owned());
    }

    /// Adds a ConfigMap, likewise.
    #[cfg(test)]
    pub(super) fn add_config_map(&mut self, map: ConfigMap) {
        self.objects.add_config_map(&map);
        self.maps.insert(map.name_any(), map);
    }

    /// A digest of what determines which bytes `function` runs: where they come from, and by whose leave. As long as it is
    /// the same, what is being fetched is what is needed.
    #[must_use]
    pub fn sources(&self, function: &Function) -> u64 {
        let spec = &function.spec;
        let named = serde_json::to_string(&(&spec.component, &spec.models)).unwrap_or_default();
        let credentials: Vec<_> = self
            .pull
            .iter()
            .map(|name| self.secrets.get(name))
            .map(|secret| {
                secret.map(|secret| serde_json::to_string(&(&secret.type_, &secret.data)))
            })
            .map(|secret| secret.and_then(Result::ok))
            .collect();
        let component = spec.component.iter();
        let component = component.filter_map(|component| component.config_map.as_ref());
        let models = spec.models.iter();
        let models = models.filter_map(|model| model.source.config_map.as_ref());
        let maps: Vec<_> = component
            .chain(models)
            .map(|source| self.maps.get(&source.name))
            .map(|map| map.map(|map| serde_json::to_string(&(&map.data, &map.binary_data))))
            .map(|map| map.and_then(Result::ok))
            .collect();
        digest_of(&(named, credentials, maps))
    }

    /// The registries' credentials.
    pub(super) fn credentials(&self) -> Result<Vec<Vec<u8>>, ResolveError> {
        let credentials = |name: &String| {
            let Some(secret) = self.secrets.get(name) else {
                let message = format!(
                    "there is no Secret `{name}` in the namespace `{}`, which pullSecrets names",
                    self.namespace
                );
                return Err(ResolveError::pull_secret(message));
            };
            let bytes = secret
                .data
                .iter()
                .flatten()
                .find(|(key, _)| *key == PULL_KEY);
            match (secret.type_.as_deref(), bytes) {
                (Some(PULL_TYPE), Some((_, bytes))) => Ok(bytes.0.clone()),
                (kind, _) => Err(ResolveError::pull_secret(format!(
                    "the Secret `{name}`, which pullSecrets names, is of type {}: expected {PULL_TYPE} with the key {PULL_KEY}",
                    kind.unwrap_or("Opaque")
                ))),
            }
        };
        self.pull.iter().map(credentials).collect()
    }

    /// The bytes of a ConfigMap's key.
    pub(super) fn config_map_key(
        &self,
        name: &str,
        key: &str,
        part: Part,
    ) -> Result<Vec<u8>, ResolveError> {
        let missing = |message| {
            let error = ArtifactError {
                reason: "ConfigMapNotFound",
                message,
                is_transient: false,
                retry_after: None,
            };
            ResolveError::from(part, error)
        };
        let map = self.maps.get(name).ok_or_else(|| {
            missing(format!(
                "there is no ConfigMap `{name}` in the namespace `{}`",
                self.namespace
            ))
        })?;
        let binary = map.binary_data.as_ref().and_then(|data| data.get(key));
        let text = map.data.as_ref().and_then(|data| data.get(key));
        match (binary, text) {
            (Some(bytes), _) => Ok(bytes.0.clone()),
            (None, Some(text)) => Ok(text.clone().into_bytes()),
            (None, None) => Err(missing(format!(
                "the ConfigMap `{name}` has no key `{key}`"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Would fail if what nobody named were kept for as long as a function's registry takes, or hints had no names any more.
    #[test]
    fn of_an_object_what_is_named_is_kept_and_the_names_of_the_rest() {
        let spec = json!({
            "component": {"configMap": {"name": "map", "key": "component"}, "pullSecrets": [{"name": "both"}]},
            "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "both", "key": "a"}}}],
        });
        let function = Function::new("f", serde_json::from_value(spec).unwrap());
        let kept = |kind, name: &str, others: usize| {
            let uses = Uses::of(&references::named(&function), kind, name);
            let named = ["a", "component", PULL_KEY].map(str::to_owned).into_iter();
            let keys = named.chain((0..others).map(|index| format!("other-{index}")));
            let mut data: BTreeMap<String, String> =
                keys.map(|key| (key, "large".to_owned())).collect();
            uses.trim(Some(&mut data));
            let names = data.len();
            data.retain(|_, value| !value.is_empty());
            let keys: Vec<String> = data.into_keys().collect();
            ((uses.are_values, uses.are_sources), keys, names)
        };
        let both = vec![PULL_KEY.to_owned(), "a".to_owned()];
        assert_eq!(
            kept(Kind::Secret, "both", 7),
            ((true, true), both.clone(), 10)
        );
        assert_eq!(kept(Kind::Secret, "both", 5000), ((true, true), both, 2));
        let component = vec!["component".to_owned()];
        assert_eq!(
            kept(Kind::ConfigMap, "map", 7),
            ((false, true), component, 10)
        );
        assert_eq!(
            kept(Kind::ConfigMap, "both", 0),
            ((false, false), Vec::new(), 3)
        );
    }
}
