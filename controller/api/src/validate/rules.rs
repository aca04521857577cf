//! The rules, in the order of the fields.

use std::collections::HashSet;
use std::fmt::Display;

use super::{Mistakes, names, pod, sources};
use crate::duration::Duration;
use crate::function::{
    EnvVar, FunctionSpec, InstanceMode, Instances, KeySelector, KeyValue, Limits, Outbound,
    Scaling, ValueSource,
};
use crate::quantity::Bytes;

const KI: u64 = 1 << 10;
const GI: u64 = 1 << 30;

pub(super) fn spec(spec: &FunctionSpec, mistakes: &mut Mistakes) {
    if let Some(source) = &spec.component {
        sources::component(source, mistakes);
    }
    unique(
        "spec.models",
        spec.models.iter().map(|model| (&*model.name, ".name")),
        mistakes,
    );
    for (index, item) in spec.models.iter().enumerate() {
        sources::model(item, &format!("spec.models[{index}]"), mistakes);
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
    if let Some(it) = &spec.pod {
        pod::pod(it, mistakes);
    }
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
        (None, Some(from)) => source(
            from,
            &format!("{path}.valueFrom"),
            &format!("the source of `{name}`"),
            mistakes,
        ),
        _ => mistakes.add(
            path,
            format!("`{name}` needs exactly one of `value` and `valueFrom`"),
        ),
    }
}

fn source(source: &ValueSource, path: &str, whose: &str, mistakes: &mut Mistakes) {
    match (&source.secret_key_ref, &source.config_map_key_ref) {
        (Some(key), None) => selector(key, &format!("{path}.secretKeyRef"), mistakes),
        (None, Some(key)) => selector(key, &format!("{path}.configMapKeyRef"), mistakes),
        _ => mistakes.add(
            path,
            format!("{whose} must be exactly one of `secretKeyRef` and `configMapKeyRef`"),
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
    for (index, authority) in outbound.certificate_authorities.iter().enumerate() {
        source(
            authority,
            &format!("spec.outbound.certificateAuthorities[{index}]"),
            "a certificate authority's source",
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

pub(super) fn that(checked: Result<(), String>, path: String, mistakes: &mut Mistakes) {
    if let Err(message) = checked {
        mistakes.add(path, message);
    }
}

pub(super) fn not_empty(text: &str, path: String, mistakes: &mut Mistakes) {
    if text.is_empty() {
        mistakes.add(path, "must not be empty");
    }
}

pub(super) fn within<T: PartialOrd + Display>(
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
