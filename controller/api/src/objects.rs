//! The Secrets and ConfigMaps that a Function takes values from.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use wisp_contract::assignment::LARGEST_VARIABLE;
use wisp_contract::config::Env;

use crate::function::{Function, KeySelector, ValueSource};
use crate::manifest::{Manifest, Object};
use crate::mistake::{ManifestError, Mistake, nearest};

/// Secrets and ConfigMaps by namespace and name. An object without namespace is in `default`.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    secrets: BTreeMap<(String, String), Data>,
    config_maps: BTreeMap<(String, String), Data>,
}

type Data = BTreeMap<String, ByteString>;

/// The most bytes that all values of a Function may have together: twice what a replica can be told, so that whoever has a little
/// too much learns of which variable.
const MOST_BYTES: usize = 2 * LARGEST_VARIABLE;

/// What a Function takes from Secrets and ConfigMaps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values {
    /// Its variables, those with a value of their own too.
    pub env: Env,
    /// Certificates of authorities, PEM: one text for each of `outbound.certificateAuthorities`.
    pub certificate_authorities: Vec<String>,
}

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
        let mut values: Data = map.binary_data.clone().unwrap_or_default();
        for (key, value) in map.data.iter().flatten() {
            values.insert(key.clone(), ByteString(value.clone().into_bytes()));
        }
        self.config_maps.insert(id(&map.metadata), values);
    }

    /// All that a Function takes from them.
    ///
    /// # Errors
    /// Every mistake of [`Objects::env`] and [`Objects::certificate_authorities`].
    pub fn values(&self, function: &Function) -> Result<Values, ManifestError> {
        let mut mistakes = Vec::new();
        let env = self.read_env(function, &mut mistakes);
        let certificate_authorities = self.read_authorities(function, &mut mistakes);
        ManifestError::unless_empty(mistakes)?;
        Ok(Values {
            env,
            certificate_authorities,
        })
    }

    /// The values of a Function's variables.
    ///
    /// # Errors
    /// Every object and key that is missing though not `optional`, and every value that is no UTF-8.
    pub fn env(&self, function: &Function) -> Result<Env, ManifestError> {
        let mut mistakes = Vec::new();
        let env = self.read_env(function, &mut mistakes);
        ManifestError::unless_empty(mistakes)?;
        Ok(env)
    }

    /// The certificates of a Function's `outbound.certificateAuthorities`.
    ///
    /// # Errors
    /// Every object and key that is missing though not `optional`, and every value that isn't one or more X.509 certificates
    /// in PEM ([RFC 7468](https://www.rfc-editor.org/rfc/rfc7468)).
    pub fn certificate_authorities(
        &self,
        function: &Function,
    ) -> Result<Vec<String>, ManifestError> {
        let mut mistakes = Vec::new();
        let authorities = self.read_authorities(function, &mut mistakes);
        ManifestError::unless_empty(mistakes)?;
        Ok(authorities)
    }

    fn read_env(&self, function: &Function, mistakes: &mut Vec<Mistake>) -> Env {
        let mut env = BTreeMap::new();
        let mut room = Room::default();
        for (index, variable) in function.spec.env.iter().enumerate() {
            let from = variable.value_from.as_ref();
            let path = format!("spec.env[{index}].valueFrom");
            let any = |_: &str| Ok(());
            let kept = from
                .and_then(|source| self.read(source, function, &path, any, &mut room, mistakes));
            if let Some(value) = variable.value.clone().or(kept) {
                env.insert(variable.name.clone(), value);
            }
        }
        Env(env)
    }

    fn read_authorities(&self, function: &Function, mistakes: &mut Vec<Mistake>) -> Vec<String> {
        let sources = &function.spec.outbound.certificate_authorities;
        let mut room = Room::default();
        let read = |(index, source)| {
            let path = format!("spec.outbound.certificateAuthorities[{index}]");
            self.read(
                source,
                function,
                &path,
                check_certificates,
                &mut room,
                mistakes,
            )
        };
        sources.iter().enumerate().filter_map(read).collect()
    }

    /// The value of a source that isn't missing, where `check` has nothing to say of it.
    fn read(
        &self,
        source: &ValueSource,
        function: &Function,
        path: &str,
        check: impl Fn(&str) -> Result<(), String>,
        room: &mut Room,
        mistakes: &mut Vec<Mistake>,
    ) -> Option<String> {
        let namespace = function.metadata.namespace.as_deref().unwrap_or("default");
        let (field, kind, key, objects) = match (&source.secret_key_ref, &source.config_map_key_ref)
        {
            (Some(key), _) => ("secretKeyRef", "Secret", key, &self.secrets),
            (None, Some(key)) => ("configMapKeyRef", "ConfigMap", key, &self.config_maps),
            (None, None) => return None,
        };
        let value = look_up(kind, key, namespace, objects, room)
            .map_err(|(part, message)| Mistake::new(format!("{path}.{field}.{part}"), message))
            .and_then(|value| {
                let checked = value.as_deref().map_or(Ok(()), check);
                checked.map(|()| value).map_err(|why| {
                    let message = format!("`{}` in the {kind} `{}` {why}", key.key, key.name);
                    Mistake::new(path, message)
                })
            });
        value.unwrap_or_else(|mistake| {
            mistakes.push(mistake);
            None
        })
    }
}

/// What is left for a Function's values. Each of them may be as large as an object is, and be named many times.
#[derive(Debug)]
struct Room {
    /// None once something found none.
    left: Option<usize>,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            left: Some(MOST_BYTES),
        }
    }
}

impl Room {
    /// Takes so many bytes; else says what is wrong with them, once. `false` after that.
    fn take(&mut self, bytes: usize) -> Result<bool, String> {
        let Some(left) = self.left else {
            return Ok(false);
        };
        self.left = left.checked_sub(bytes);
        if self.left.is_some() {
            return Ok(true);
        }
        Err(format!(
            "has {bytes} bytes, which are too many: a replica is told {LARGEST_VARIABLE} at most, of all values and of what else it needs"
        ))
    }
}

/// That a text holds certificates which a client can trust; else what is wrong with it.
fn check_certificates(text: &str) -> Result<(), String> {
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        count += 1;
        let certificate =
            certificate.map_err(|error| format!("has no PEM at certificate {count}: {error}"))?;
        webpki::anchor_from_trusted_cert(&certificate)
            .map_err(|error| format!("has no X.509 certificate at {count}: {error}"))?;
    }
    if count == 0 {
        return Err(
            "holds no certificate: expected PEM, which begins with `-----BEGIN CERTIFICATE-----`"
                .to_owned(),
        );
    }
    Ok(())
}

fn look_up(
    kind: &str,
    selector: &KeySelector,
    namespace: &str,
    objects: &BTreeMap<(String, String), Data>,
    room: &mut Room,
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
    let has_room = room.take(value.0.len()).map_err(|why| {
        let message = format!("`{key}` in the {kind} `{name}` {why}");
        ("key", message)
    })?;
    if !has_room {
        return Ok(None);
    }
    match String::from_utf8(value.0.clone()) {
        Ok(text) if !text.contains('\0') => Ok(Some(text)),
        _ => Err((
            "key",
            format!(
                "the value of `{key}` in the {kind} `{name}` is no UTF-8 text without NUL characters"
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
