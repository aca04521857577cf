//! From what a Function names to what its replicas run: digests in the store, and the values of its variables.

mod coming;
mod error;
mod gather;
mod locate;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use wisp_api::{
    ComponentSource, Function, ImageVolumeSource, ModelSource, PersistentVolumeClaimSource, Place,
    Values,
};

use crate::artifacts::{Stage, Stored, Whom};

pub use coming::Coming;
pub use error::{Part, ResolveError};
pub use gather::{Gathered, gather};
use locate::{Located, admit, known, locate};

/// What a Function's replicas run.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// Its component.
    pub component: Bytes,
    /// Its models, in the order of the spec.
    pub models: Vec<(String, Bytes)>,
    /// Its variables, and what else it takes from Secrets and ConfigMaps.
    pub values: Values,
}

/// Where the bytes are that a replica loads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bytes {
    /// In the store.
    Stored(Stored),
    /// On a volume that the pod mounts.
    Volume(Volume),
}

/// A volume, and the file on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Volume {
    /// Of a claim.
    Claim(PersistentVolumeClaimSource),
    /// Of an image.
    Image(ImageVolumeSource),
}

impl Bytes {
    /// All of the store that it consists of.
    #[must_use]
    pub fn digests(&self) -> Vec<String> {
        match self {
            Self::Stored(stored) => stored.digests(),
            Self::Volume(_) => Vec::new(),
        }
    }
}

impl Volume {
    /// The file's path on the volume.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::Claim(claim) => &claim.path,
            Self::Image(image) => &image.path,
        }
    }

    /// What the volume is of.
    #[must_use]
    pub fn origin(&self) -> &str {
        match self {
            Self::Claim(claim) => &claim.claim_name,
            Self::Image(image) => &image.reference,
        }
    }
}

/// What tags meant when a revision was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pins {
    /// The component.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub component: Option<Pin>,
    /// The models, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<String, Pin>,
}

/// What one tag meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pin {
    /// The reference with its digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The digest of the content; empty for a volume's, which only nodes see.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sha256: String,
}

impl Pins {
    /// Forgets what a tag of `function` meant where that is what isn't there any more by `error`. Gives the image that it was.
    pub fn lose(&mut self, function: &Function, error: &ResolveError) -> Option<String> {
        if error.reason != "NotFound" {
            return None;
        }
        let spec = &function.spec;
        let (named, model) = match (error.part, &error.model) {
            (Part::Component, _) => (spec.component.as_ref()?.image.as_ref()?, None),
            (Part::Models, Some(name)) => {
                let mut models = spec.models.iter();
                let model = models.find(|model| model.name == *name)?;
                (model.source.image.as_ref()?, Some(name))
            }
            _ => return None,
        };
        // A digest means the same without its pin.
        if named.contains('@') {
            return None;
        }
        let pin = match model {
            None => self.component.take(),
            Some(name) => self.models.remove(name),
        };
        pin?.image
    }
}

impl Resolved {
    /// All of the store that it consists of.
    #[must_use]
    pub fn digests(&self) -> Vec<String> {
        let models = self.models.iter().map(|(_, bytes)| bytes);
        let all = std::iter::once(&self.component).chain(models);
        let mut digests: Vec<String> = all.flat_map(Bytes::digests).collect();
        digests.sort();
        digests.dedup();
        digests
    }

    /// What its tags meant.
    #[must_use]
    pub fn pins(&self) -> Pins {
        let pin = |bytes: &Bytes| match bytes {
            Bytes::Stored(stored) => Some(Pin {
                image: stored.pinned.clone(),
                sha256: stored.source.clone(),
            }),
            Bytes::Volume(Volume::Image(image)) if image.reference.contains('@') => Some(Pin {
                image: Some(image.reference.clone()),
                sha256: String::new(),
            }),
            Bytes::Volume(_) => None,
        };
        let models = self.models.iter();
        Pins {
            component: pin(&self.component),
            models: models
                .filter_map(|(name, bytes)| Some((name.clone(), pin(bytes)?)))
                .collect(),
        }
    }
}

/// A digest of all that alters pods in a spec, as it is written. As long as it is the same, tags mean what they meant.
#[must_use]
pub fn spec_digest(function: &Function) -> String {
    let mut spec = function.spec.clone();
    spec.scaling = wisp_api::Scaling::default();
    spec.hosts.clear();
    let json = serde_json::to_vec(&spec).unwrap_or_default();
    hex::encode(Sha256::digest(&json))
}

/// Fetches what the Function names; `pins` is what its tags meant before, where its spec was the same. What is there stays for
/// as long as `coming` does. `told` is told how far the component is.
///
/// # Errors
/// What is wrong, of which part, and whether it may pass.
pub async fn resolve(
    function: &Function,
    gathered: &Gathered,
    pins: &Pins,
    coming: &Coming<'_>,
    told: &(dyn Fn(Stage) + Send + Sync),
) -> Result<Resolved, ResolveError> {
    function
        .validate_for(Place::Cluster)
        .map_err(|error| ResolveError::invalid(&error))?;
    let objects = &gathered.objects;
    let env = objects.env(function);
    let authorities = objects.certificate_authorities(function);
    let values = Values {
        env: env.map_err(|error| ResolveError::env(&error))?,
        certificate_authorities: authorities
            .map_err(|error| ResolveError::certificate_authorities(&error))?,
    };
    let source = function.spec.component.clone().unwrap_or_default();
    let component = component(&source, gathered, pins, coming, told).await?;
    if let Bytes::Stored(stored) = &component {
        let allowed = function.spec.limits.memory;
        if stored.memory > allowed.0 {
            return Err(ResolveError::memory(
                allowed,
                wisp_api::Bytes(stored.memory),
            ));
        }
    }
    if !function.spec.models.is_empty() {
        told(Stage::Prepared);
    }
    Ok(Resolved {
        component,
        models: models(function, gathered, pins, coming).await?,
        values,
    })
}

/// Fetches the models, likewise.
///
/// # Errors
/// As [`resolve`].
pub async fn models(
    function: &Function,
    gathered: &Gathered,
    pins: &Pins,
    coming: &Coming<'_>,
) -> Result<Vec<(String, Bytes)>, ResolveError> {
    let mut models = Vec::new();
    for (index, model) in function.spec.models.iter().enumerate() {
        let pin = pins.models.get(&model.name);
        let bytes = self::model(&model.source, gathered, pin, coming).await;
        let bytes = bytes.map_err(|error| error.of_model(index, &model.name))?;
        models.push((model.name.clone(), bytes));
    }
    Ok(models)
}

/// Fetches what a revision was made of, by its `pins` alone: images. Gives the digests of all of the store that it needs, also
/// of what came from elsewhere, which is there or isn't.
///
/// # Errors
/// As [`resolve`].
pub async fn refetch(
    pins: &Pins,
    gathered: &Gathered,
    coming: &Coming<'_>,
) -> Result<Vec<String>, ResolveError> {
    let mut digests = Vec::new();
    let all = pins.component.iter().chain(pins.models.values());
    digests.extend(all.map(|pin| pin.sha256.clone()));
    let is_stored = |pin: &&Pin| pin.image.is_some() && !pin.sha256.is_empty();
    if let Some(pin) = pins.component.as_ref().filter(is_stored) {
        let source = ComponentSource {
            image: pin.image.clone(),
            ..ComponentSource::default()
        };
        let found = component(&source, gathered, pins, coming, &|_| {}).await?;
        digests.extend(found.digests());
    }
    for pin in pins.models.values().filter(is_stored) {
        let source = ModelSource {
            image: pin.image.clone(),
            ..ModelSource::default()
        };
        let found = model(&source, gathered, Some(pin), coming).await?;
        digests.extend(found.digests());
    }
    digests.retain(|digest| !digest.is_empty());
    Ok(digests)
}

async fn component(
    source: &ComponentSource,
    gathered: &Gathered,
    pins: &Pins,
    coming: &Coming<'_>,
    told: &(dyn Fn(Stage) + Send + Sync),
) -> Result<Bytes, ResolveError> {
    let general = ModelSource {
        image: source.image.clone(),
        url: source.url.clone(),
        sha256: source.sha256.clone(),
        config_map: source.config_map.clone(),
        persistent_volume_claim: source.persistent_volume_claim.clone(),
        image_volume: None,
        file: None,
    };
    let pin = pins.component.as_ref();
    let located = locate(&general, gathered, pin, Part::Component)?;
    let admitted = admit(located, gathered, coming.artifacts).await;
    match admitted.map_err(ResolveError::component)? {
        Located::Volume(volume) => Ok(Bytes::Volume(volume)),
        Located::Source(source) => {
            let known = known(&source, pin);
            let whom = Whom {
                namespace: &gathered.namespace,
                told,
                came: &|sha256: &str| coming.add([sha256.to_owned()]),
            };
            let stored = coming.artifacts.component(whom, source, known).await;
            stored
                .map(|stored| here(stored, pin, coming))
                .map_err(ResolveError::component)
        }
    }
}

async fn model(
    source: &ModelSource,
    gathered: &Gathered,
    pin: Option<&Pin>,
    coming: &Coming<'_>,
) -> Result<Bytes, ResolveError> {
    let located = locate(source, gathered, pin, Part::Models)?;
    let admitted = admit(located, gathered, coming.artifacts).await;
    match admitted.map_err(ResolveError::models)? {
        Located::Volume(volume) => Ok(Bytes::Volume(volume)),
        Located::Source(source) => {
            let known = known(&source, pin);
            let artifacts = coming.artifacts;
            let stored = artifacts.model(&gathered.namespace, source, known).await;
            stored
                .map(|stored| here(stored, pin, coming))
                .map_err(ResolveError::models)
        }
    }
}

/// What is here stays. What was here already is pinned as it was.
fn here(mut stored: Stored, pin: Option<&Pin>, coming: &Coming<'_>) -> Bytes {
    coming.add(stored.digests());
    if stored.pinned.is_none() {
        stored.pinned = pin.and_then(|pin| pin.image.clone());
    }
    Bytes::Stored(stored)
}

#[cfg(test)]
pub(crate) mod tests;
