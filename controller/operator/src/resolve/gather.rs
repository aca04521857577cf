//! Reads what a Function names, and nothing else, from the API server.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client, ResourceExt as _};
use wisp_api::{Function, Objects};

use super::error::{Part, ResolveError};
use crate::artifacts::ArtifactError;
use crate::attempts::digest_of;
use crate::references::{self, Kind, Versions};

/// The type of a Secret with credentials for registries.
const PULL_TYPE: &str = "kubernetes.io/dockerconfigjson";
/// Its key.
const PULL_KEY: &str = ".dockerconfigjson";

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
    for reference in references::of(function) {
        let read = |error| ResolveError::api(&error);
        let version = match reference.kind {
            Kind::Secret => {
                let api = Api::<Secret>::namespaced(client.clone(), &namespace);
                let secret = api.get_opt(&reference.name).await.map_err(read)?;
                secret.and_then(|secret| {
                    let version = secret.resource_version();
                    gathered.add_secret(secret);
                    version
                })
            }
            Kind::ConfigMap => {
                let api = Api::<ConfigMap>::namespaced(client.clone(), &namespace);
                let map = api.get_opt(&reference.name).await.map_err(read)?;
                map.and_then(|map| {
                    let version = map.resource_version();
                    gathered.add_config_map(map);
                    version
                })
            }
        };
        gathered.versions.insert(reference, version);
    }
    Ok(gathered)
}

impl Gathered {
    /// Adds a Secret.
    pub fn add_secret(&mut self, secret: Secret) {
        self.objects.add_secret(&secret);
        self.secrets.insert(secret.name_any(), secret);
    }

    /// Has the credentials of the Secret of this name used.
    pub fn add_pull_secret(&mut self, name: &str) {
        self.pull.push(name.to_owned());
    }

    /// Adds a ConfigMap.
    pub fn add_config_map(&mut self, map: ConfigMap) {
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
