//! The rules, in the order of the fields.

use std::collections::HashSet;
use std::fmt::Display;

use super::{Mistakes, Place, names};
use crate::duration::Duration;
use crate::function::{
    ComponentSource, ConfigMapSource, EnvVar, FunctionSpec, InstanceMode, Instances, KeySelector,
    KeyValue, Limits, Model, ModelSource, Outbound, PersistentVolumeClaimSource, Scaling,
};
use crate::quantity::Bytes;

const KI: u64 = 1 << 10;
const GI: u64 = 1 << 30;

pub(super) fn spec(spec: &FunctionSpec, mistakes: &mut Mistakes) {
    if let Some(source) = &spec.component {
        component(source, mistakes);
    }
    unique(
        "spec.models",
        spec.models.iter().map(|model| (&*model.name, ".name")),
        mistakes,
    );
    for (index, item) in spec.models.iter().enumerate() {
        model(item, &format!("spec.models[{index}]"), mistakes);
    }
    scaling(&spec.scaling, spec.limits.concurrency, mistakes);
    limits(&spec.limits, mistakes);
    instances(&spec.instances, mistakes);
    unique(
        "spec.env",
        spec.env.iter().map(|variable| (&*variable.name, ".name")),
        mistakes,
    );
    for (index, variable) in spec.env.iter().enumerate() {
        env(variable, &format!("spec.env[{index}]"), mistakes);
    }
    outbound(&spec.outbound, mistakes);
    unique(
        "spec.keyValue",
        spec.key_value.iter().map(|store| (&*store.name, ".name")),
        mistakes,
    );
    for (index, store) in spec.key_value.iter().enumerate() {
        key_value(store, &format!("spec.keyValue[{index}]"), mistakes);
    }
    unique(
        "spec.hosts",
        spec.hosts.iter().map(|host| (&**host, "")),
        mistakes,
    );
    for (index, host) in spec.hosts.iter().enumerate() {
        that(names::host(host), format!("spec.hosts[{index}]"), mistakes);
    }
    within(
        spec.pod.as_ref().and_then(|pod| pod.gpu).unwrap_or(0),
        0,
        16,
        "spec.pod.gpu",
        mistakes,
    );
}

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
            mistakes.add("spec.component.file", "`file` is for `wisp dev` alone: push the component to a registry and name it by `image`");
        }
        (Place::Cluster, Some(_)) => {}
    }
    for (index, model) in spec.models.iter().enumerate() {
        let path = format!("spec.models[{index}].source");
        match (place, &model.source.file, model_sources(&model.source).first()) {
            (Place::Local { .. }, None, Some(found)) => mistakes.add(format!("{path}.{found}"), local(found, "model")),
            (Place::Cluster, Some(_), _) => mistakes.add(
                format!("{path}.file"),
                "`file` is for `wisp dev` alone: put the model where the cluster reaches it, in an `image`, at a `url`, or on a `persistentVolumeClaim`",
            ),
            _ => {}
        }
    }
}

type Given = Vec<&'static str>;

fn given(sources: [(&'static str, bool); 5]) -> Given {
    sources
        .into_iter()
        .filter(|(_, given)| *given)
        .map(|(name, _)| name)
        .collect()
}

fn component_sources(source: &ComponentSource) -> Given {
    given([
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
    given([
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

fn exactly_one(given: &Given, path: &str, mistakes: &mut Mistakes) {
    const SOURCES: &str = "`image`, `url`, `configMap`, `persistentVolumeClaim` or `file`";
    match given.as_slice() {
        [_] => {}
        [] => mistakes.add(path, format!("no source: give exactly one of {SOURCES}")),
        several => {
            let found = crate::mistake::listed(several.iter().copied(), "and");
            mistakes.add(
                path,
                format!(
                    "{} sources, {found}: give exactly one of {SOURCES}",
                    several.len()
                ),
            );
        }
    }
}

fn component(source: &ComponentSource, mistakes: &mut Mistakes) {
    let path = "spec.component";
    exactly_one(&component_sources(source), path, mistakes);
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
    if !source.pull_secrets.is_empty() && source.image.is_none() {
        mistakes.add(
            format!("{path}.pullSecrets"),
            "only `image` is pulled with secrets",
        );
    }
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

fn model(model: &Model, path: &str, mistakes: &mut Mistakes) {
    that(names::model(&model.name), format!("{path}.name"), mistakes);
    let source = &model.source;
    let source_path = format!("{path}.source");
    exactly_one(&model_sources(source), &source_path, mistakes);
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

fn scaling(scaling: &Scaling, concurrency: u32, mistakes: &mut Mistakes) {
    within(
        scaling.min_replicas,
        0,
        1000,
        "spec.scaling.minReplicas",
        mistakes,
    );
    within(
        scaling.max_replicas,
        1,
        1000,
        "spec.scaling.maxReplicas",
        mistakes,
    );
    if scaling.min_replicas > scaling.max_replicas {
        let message = format!(
            "{} is more than maxReplicas, {}",
            scaling.min_replicas, scaling.max_replicas
        );
        mistakes.add("spec.scaling.minReplicas", message);
    }
    if let Some(target) = scaling.target.concurrency {
        within(
            target,
            1,
            10_000,
            "spec.scaling.target.concurrency",
            mistakes,
        );
        if target > concurrency {
            let message = format!(
                "{target} is more than limits.concurrency, {concurrency}, the most that one replica takes"
            );
            mistakes.add("spec.scaling.target.concurrency", message);
        }
    }
    within(
        scaling.idle_timeout,
        Duration::from_secs(1),
        Duration::from_secs(24 * 3600),
        "spec.scaling.idleTimeout",
        mistakes,
    );
}

fn limits(limits: &Limits, mistakes: &mut Mistakes) {
    let millisecond = Duration(std::time::Duration::from_millis(1));
    within(
        limits.timeout,
        millisecond,
        Duration::from_secs(3600),
        "spec.limits.timeout",
        mistakes,
    );
    within(
        limits.memory,
        Bytes(64 * KI),
        Bytes(4 * GI),
        "spec.limits.memory",
        mistakes,
    );
    within(
        limits.concurrency,
        1,
        10_000,
        "spec.limits.concurrency",
        mistakes,
    );
    within(limits.queue, 0, 100_000, "spec.limits.queue", mistakes);
    within(
        limits.queue_bytes,
        Bytes(0),
        Bytes(64 * GI),
        "spec.limits.queueBytes",
        mistakes,
    );
    within(
        limits.request_body,
        Bytes(0),
        Bytes(64 * GI),
        "spec.limits.requestBody",
        mistakes,
    );
    within(
        limits.log_rate,
        Bytes(KI),
        Bytes(GI),
        "spec.limits.logRate",
        mistakes,
    );
    within(
        limits.tensors,
        Bytes(KI),
        Bytes(64 * GI),
        "spec.limits.tensors",
        mistakes,
    );
    within(
        limits.handles,
        16,
        1_000_000,
        "spec.limits.handles",
        mistakes,
    );
    within(
        limits.table_elements,
        1,
        10_000_000,
        "spec.limits.tableElements",
        mistakes,
    );
}

fn instances(instances: &Instances, mistakes: &mut Mistakes) {
    let path = "spec.instances";
    if instances.mode == InstanceMode::Fresh {
        let reuse = [
            ("maxRequests", instances.max_requests.is_some()),
            ("maxConcurrent", instances.max_concurrent.is_some()),
            ("idleTimeout", instances.idle_timeout.is_some()),
        ];
        for (field, _) in reuse.into_iter().filter(|(_, given)| *given) {
            mistakes.add(
                format!("{path}.{field}"),
                "has no meaning with mode `fresh`: set `mode: reuse`, or leave it out",
            );
        }
        return;
    }
    within(
        instances.max_requests.unwrap_or(1),
        1,
        1_000_000_000,
        "spec.instances.maxRequests",
        mistakes,
    );
    within(
        instances.max_concurrent.unwrap_or(1),
        1,
        10_000,
        "spec.instances.maxConcurrent",
        mistakes,
    );
    let second = Duration::from_secs(1);
    let millisecond = Duration(std::time::Duration::from_millis(1));
    within(
        instances.idle_timeout.unwrap_or(second),
        millisecond,
        Duration::from_secs(24 * 3600),
        "spec.instances.idleTimeout",
        mistakes,
    );
}

fn env(variable: &EnvVar, path: &str, mistakes: &mut Mistakes) {
    that(
        names::variable(&variable.name),
        format!("{path}.name"),
        mistakes,
    );
    let name = &variable.name;
    match (&variable.value, &variable.value_from) {
        (Some(value), None) => {
            if value.contains('\0') {
                mistakes.add(
                    format!("{path}.value"),
                    format!("the value of `{name}` holds a NUL character, which no variable can"),
                );
            }
        }
        (None, Some(source)) => {
            let from = format!("{path}.valueFrom");
            match (&source.secret_key_ref, &source.config_map_key_ref) {
                (Some(key), None) => selector(key, &format!("{from}.secretKeyRef"), mistakes),
                (None, Some(key)) => selector(key, &format!("{from}.configMapKeyRef"), mistakes),
                _ => mistakes.add(from, format!("the source of `{name}` must be exactly one of `secretKeyRef` and `configMapKeyRef`")),
            }
        }
        _ => mistakes.add(
            path,
            format!("`{name}` needs exactly one of `value` and `valueFrom`"),
        ),
    }
}

fn selector(key: &KeySelector, path: &str, mistakes: &mut Mistakes) {
    that(names::object(&key.name), format!("{path}.name"), mistakes);
    not_empty(&key.key, format!("{path}.key"), mistakes);
}

fn outbound(outbound: &Outbound, mistakes: &mut Mistakes) {
    unique(
        "spec.outbound.allow",
        outbound.allow.iter().map(|origin| (&**origin, "")),
        mistakes,
    );
    for (index, origin) in outbound.allow.iter().enumerate() {
        that(
            names::origin(origin),
            format!("spec.outbound.allow[{index}]"),
            mistakes,
        );
    }
}

fn key_value(store: &KeyValue, path: &str, mistakes: &mut Mistakes) {
    if !wisp_contract::assignment::is_dns_label(&store.name) {
        mistakes.add(
            format!("{path}.name"),
            format!(
                "`{}` is no store's name: at most 63 of a-z, 0-9 and -, such as `default`",
                store.name
            ),
        );
    }
    within(
        store.max_size,
        Bytes(KI),
        Bytes(64 * GI),
        &format!("{path}.maxSize"),
        mistakes,
    );
}

fn that(checked: Result<(), String>, path: String, mistakes: &mut Mistakes) {
    if let Err(message) = checked {
        mistakes.add(path, message);
    }
}

fn not_empty(text: &str, path: String, mistakes: &mut Mistakes) {
    if text.is_empty() {
        mistakes.add(path, "must not be empty");
    }
}

fn within<T: PartialOrd + Display>(
    value: T,
    least: T,
    most: T,
    path: &str,
    mistakes: &mut Mistakes,
) {
    if value < least || value > most {
        mistakes.add(
            path,
            format!("{value} is out of range: expected {least} to {most}"),
        );
    }
}

fn unique<'a>(
    path: &str,
    names: impl Iterator<Item = (&'a str, &'static str)>,
    mistakes: &mut Mistakes,
) {
    let mut seen = HashSet::new();
    for (index, (name, field)) in names.enumerate() {
        if !seen.insert(name) {
            mistakes.add(
                format!("{path}[{index}]{field}"),
                format!("`{name}` is here twice"),
            );
        }
    }
}
