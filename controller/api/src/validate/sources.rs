//! Where components and models come from, and which of these a place has.

use super::rules::{not_empty, that, within};
use super::{Mistakes, Place, names};
use crate::duration::Duration;
use crate::function::{
    ComponentSource, ConfigMapSource, FunctionSpec, ImageVolumeSource, Model, ModelSource,
    PersistentVolumeClaimSource,
};

/// What only the place demands.
pub(super) fn place(spec: &FunctionSpec, place: Place, mistakes: &mut Mistakes) {
    let local = |found: &str, what: &str| {
        format!("`{found}` is for clusters: `wisp dev` reads a {what} from `file` only")
    };
    match (place, &spec.component) {
        (Place::Local { project: true }, _) => {}
        (Place::Local { project: false }, None) => {
            mistakes.add("spec.component", "required, but missing: there is no Cargo project beside the manifest to build; name a component by `spec.component.file`");
        }
        (Place::Local { project: false }, Some(source)) => {
            if let (None, Some(found)) = (&source.file, component_sources(source).first()) {
                mistakes.add(format!("spec.component.{found}"), local(found, "component"));
            }
        }
        (Place::Cluster, None) => {
            mistakes.add("spec.component", "required, but missing: name one of `image`, `url`, `configMap` or `persistentVolumeClaim`");
        }
        (Place::Cluster, Some(source)) if source.file.is_some() => {
            mistakes.add("spec.component.file", "`file` is for `wisp dev` and `wisp deploy` alone: push the component to a registry and name it by `image`");
        }
        (Place::Cluster, Some(_)) => {}
    }
    for (index, model) in spec.models.iter().enumerate() {
        let path = format!("spec.models[{index}].source");
        match (place, &model.source.file, model_sources(&model.source).first()) {
            (Place::Local { .. }, None, Some(found)) => mistakes.add(format!("{path}.{found}"), local(found, "model")),
            (Place::Cluster, Some(_), _) => mistakes.add(
                format!("{path}.file"),
                "`file` is for `wisp dev` and `wisp deploy` alone: put the model where the cluster reaches it, in an `image`, at a `url`, or on a `persistentVolumeClaim`",
            ),
            _ => {}
        }
    }
}

type Given = Vec<&'static str>;

fn given(sources: &[(&'static str, bool)]) -> Given {
    sources
        .iter()
        .filter(|(_, given)| *given)
        .map(|(name, _)| *name)
        .collect()
}

fn component_sources(source: &ComponentSource) -> Given {
    given(&[
        ("image", source.image.is_some()),
        ("url", source.url.is_some()),
        ("configMap", source.config_map.is_some()),
        (
            "persistentVolumeClaim",
            source.persistent_volume_claim.is_some(),
        ),
        ("file", source.file.is_some()),
    ])
}

fn model_sources(source: &ModelSource) -> Given {
    given(&[
        ("image", source.image.is_some()),
        ("url", source.url.is_some()),
        ("configMap", source.config_map.is_some()),
        (
            "persistentVolumeClaim",
            source.persistent_volume_claim.is_some(),
        ),
        ("imageVolume", source.image_volume.is_some()),
        ("file", source.file.is_some()),
    ])
}

const COMPONENT_SOURCES: &str = "`image`, `url`, `configMap`, `persistentVolumeClaim` or `file`";
const MODEL_SOURCES: &str =
    "`image`, `url`, `configMap`, `persistentVolumeClaim`, `imageVolume` or `file`";

fn exactly_one(given: &Given, all: &str, path: &str, mistakes: &mut Mistakes) {
    match given.as_slice() {
        [_] => {}
        [] => mistakes.add(path, format!("no source: give exactly one of {all}")),
        several => {
            let found = crate::mistake::listed(several.iter().copied(), "and");
            mistakes.add(
                path,
                format!(
                    "{} sources, {found}: give exactly one of {all}",
                    several.len()
                ),
            );
        }
    }
}

pub(super) fn component(source: &ComponentSource, mistakes: &mut Mistakes) {
    let path = "spec.component";
    exactly_one(
        &component_sources(source),
        COMPONENT_SOURCES,
        path,
        mistakes,
    );
    source_fields(
        &source.image,
        &source.url,
        &source.sha256,
        &source.config_map,
        &source.persistent_volume_claim,
        &source.file,
        path,
        mistakes,
    );
    for (index, secret) in source.pull_secrets.iter().enumerate() {
        that(
            names::object(&secret.name),
            format!("{path}.pullSecrets[{index}].name"),
            mistakes,
        );
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "the fields that two kinds of source share"
)]
fn source_fields(
    image: &Option<String>,
    url: &Option<String>,
    sha256: &Option<String>,
    config_map: &Option<ConfigMapSource>,
    claim: &Option<PersistentVolumeClaimSource>,
    file: &Option<String>,
    path: &str,
    mistakes: &mut Mistakes,
) {
    if let Some(image) = image {
        that(names::image(image), format!("{path}.image"), mistakes);
    }
    if let Some(url) = url {
        that(names::url(url), format!("{path}.url"), mistakes);
        if sha256.is_none() {
            mistakes.add(
                format!("{path}.sha256"),
                "required with `url`: the SHA-256 of what is to be found there",
            );
        }
    }
    if let Some(digest) = sha256 {
        that(names::sha256(digest), format!("{path}.sha256"), mistakes);
    }
    if let Some(map) = config_map {
        that(
            names::object(&map.name),
            format!("{path}.configMap.name"),
            mistakes,
        );
        not_empty(&map.key, format!("{path}.configMap.key"), mistakes);
    }
    if let Some(claim) = claim {
        that(
            names::object(&claim.claim_name),
            format!("{path}.persistentVolumeClaim.claimName"),
            mistakes,
        );
        not_empty(
            &claim.path,
            format!("{path}.persistentVolumeClaim.path"),
            mistakes,
        );
        that(
            names::volume_path(&claim.path),
            format!("{path}.persistentVolumeClaim.path"),
            mistakes,
        );
    }
    if let Some(file) = file {
        not_empty(file, format!("{path}.file"), mistakes);
    }
}

pub(super) fn model(model: &Model, path: &str, mistakes: &mut Mistakes) {
    that(names::model(&model.name), format!("{path}.name"), mistakes);
    let source = &model.source;
    let source_path = format!("{path}.source");
    exactly_one(
        &model_sources(source),
        MODEL_SOURCES,
        &source_path,
        mistakes,
    );
    if let Some(ImageVolumeSource { reference, path }) = &source.image_volume {
        let at = format!("{source_path}.imageVolume");
        that(names::image(reference), format!("{at}.reference"), mistakes);
        not_empty(path, format!("{at}.path"), mistakes);
        that(names::volume_path(path), format!("{at}.path"), mistakes);
    }
    source_fields(
        &source.image,
        &source.url,
        &source.sha256,
        &source.config_map,
        &source.persistent_volume_claim,
        &source.file,
        &source_path,
        mistakes,
    );
    within(
        model.batching.max_size,
        1,
        4096,
        &format!("{path}.batching.maxSize"),
        mistakes,
    );
    within(
        model.batching.max_delay,
        Duration::default(),
        Duration::from_secs(1),
        &format!("{path}.batching.maxDelay"),
        mistakes,
    );
}
