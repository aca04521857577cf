//! What pods ask for.

use super::rules::{that, within};
use super::{Mistakes, names};
use crate::function::Pod;
use crate::schema::join;

/// What nodes call whole GPUs.
const GPU: &str = "nvidia.com/gpu";
/// Domains whose labels and annotations are the cluster's and wisp's to give, with all below.
const RESERVED: [&str; 3] = ["wisp.dev", "kubernetes.io", "k8s.io"];
/// The one below whose labels are for everybody.
const SHARED: &str = "app.kubernetes.io";
/// Other labels that pods of functions and pools have.
const SET: [&str; 3] = [
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/name",
    "pod-template-hash",
];

pub(super) fn pod(pod: &Pod, mistakes: &mut Mistakes) {
    for (name, value) in &pod.labels {
        let path = join("spec.pod.labels", name);
        let checked = names::key("a label", name)
            .and_then(|()| label(name))
            .and_then(|()| names::label_value(value));
        that(checked, path, mistakes);
    }
    for name in pod.annotations.keys() {
        let path = join("spec.pod.annotations", name);
        let checked = names::key("an annotation", name).and_then(|()| match reserved(name) {
            Some(domain) => Err(format!(
                "`{name}` is reserved: no annotation of {domain} or a domain below may be given"
            )),
            None => Ok(()),
        });
        that(checked, path, mistakes);
    }
    within(pod.gpu.unwrap_or(0), 0, 16, "spec.pod.gpu", mistakes);
    gpus(pod, mistakes);
}

/// Why a label can't be given to pods.
fn label(name: &str) -> Result<(), String> {
    if SET.contains(&name) {
        return Err(format!("`{name}` is set by wisp and Kubernetes themselves"));
    }
    let is_shared = name
        .split_once('/')
        .is_some_and(|(domain, _)| domain == SHARED);
    match reserved(name) {
        Some(domain) if !is_shared => Err(format!(
            "`{name}` is reserved: no label of {domain} or a domain below may be given, except those of {SHARED}"
        )),
        _ => Ok(()),
    }
}

/// The domain by which a name is reserved.
fn reserved(name: &str) -> Option<&'static str> {
    let (domain, _) = name.split_once('/')?;
    RESERVED.into_iter().find(|reserved| {
        let above = domain.strip_suffix(*reserved);
        above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
    })
}

/// Kubernetes' own way to say it would count, and `gpu` for nothing.
fn gpus(pod: &Pod, mistakes: &mut Mistakes) {
    let resources = pod.resources.as_ref();
    let limits = resources.and_then(|resources| resources.limits.as_ref());
    let limit = limits.and_then(|limits| limits.get(GPU));
    if let (Some(gpu), Some(limit)) = (pod.gpu, limit)
        && limit.0 != gpu.to_string()
    {
        let message = format!(
            "{gpu}, but spec.pod.resources.limits says {} of `{GPU}`: say one of them",
            limit.0
        );
        mistakes.add("spec.pod.gpu", message);
    }
}
