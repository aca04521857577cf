//! Reads what a Function names, and nothing else, from the API server.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client, ResourceExt as _};
use wisp_api::{Function, Objects};

use super::error::{Part, ResolveError};
use crate::artifacts::ArtifactError;
use crate::references::{self, Kind};

/// The type of a Secret with credentials for registries.
const PULL_TYPE: &str = "kubernetes.io/dockerconfigjson";
/// Its key.
const PULL_KEY: &str = ".dockerconfigjson";

/// The Secrets and ConfigMaps that a Function names, as far as there are such.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Those that variables are taken from.
    pub objects: Objects,
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
        match reference.kind {
            Kind::Secret => {
                let api = Api::<Secret>::namespaced(client.clone(), &namespace);
                if let Some(secret) = api
                    .get_opt(&reference.name)
                    .await
                    .map_err(|error| ResolveError::api(&error))?
                {
                    gathered.add_secret(secret);
                }
            }
            Kind::ConfigMap => {
                let api = Api::<ConfigMap>::namespaced(client.clone(), &namespace);
                if let Some(map) = api
                    .get_opt(&reference.name)
                    .await
                    .map_err(|error| ResolveError::api(&error))?
                {
                    gathered.add_config_map(map);
                }
            }
        }
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
