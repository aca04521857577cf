//! What turns a pod that stands by into a replica of one revision, and which pools have such pods.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::ResourceExt as _;
use wisp_api::{Function, Pod, RuntimePool};
use wisp_contract::assignment::Assignment;

use super::models::Kept;
use crate::names;
use crate::reconcile::desired::Desired;
use crate::reconcile::pod::{self, WARM_GRACE, grace};
use crate::reconcile::resources::{self, Unresizable, pool_resources};
use crate::resolve::Resolved;

/// Why pods of a pool can't become a function's replicas.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Misfit {
    /// It isn't resolved yet, or can't be.
    #[error("what pods it needs isn't known, its own conditions say why")]
    Unknown,
    /// Pods of pools have none.
    #[error("its pods have volumes, those of pools have none")]
    Volumes,
    /// Seconds.
    #[error(
        "its requests may take so long that a pod needs {0} s to end, those of pools have {WARM_GRACE} s"
    )]
    Grace(u64),
    /// What can't be changed of a pod once it is there, as the function has it and as the pool has it.
    #[error("pods of the pool have another {}", differences(&.0.0, &.0.1))]
    Pod(Box<(Pod, Pod)>),
    /// A container is resized while it serves its first request already.
    #[error(
        "it needs {needed} of memory from the start, pods of the pool are limited to {limit} until they are a function's"
    )]
    Memory {
        /// What it requests, or what loading it takes.
        needed: String,
        /// What the pool's pods may have.
        limit: String,
    },
    /// A pod of a pool is given what the function asks for while it runs.
    #[error(transparent)]
    Resources(#[from] Unresizable),
}

/// A revision whose replicas can be pods of a pool.
#[derive(Debug, Clone, PartialEq)]
pub struct Claimable {
    /// The revision's name.
    pub revision: String,
    /// The Assignment, whose artifacts come straight from this operator; `None` where that isn't known.
    pub assignment: Option<Assignment>,
    /// Requests that a replica takes at once.
    pub concurrency: u32,
    /// The labels of its pods.
    pub labels: BTreeMap<String, String>,
    /// Their annotations.
    pub annotations: BTreeMap<String, String>,
    /// What its container asks for; `None` where that isn't known.
    pub resources: Option<ResourceRequirements>,
    /// The memory, in bytes, that its container must be allowed before it has been resized; 0 where that isn't known.
    needed: u64,
    /// What its pods ask for beside that.
    pod: Pod,
}

impl Claimable {
    /// The revision that `desired` of `resolved` is of. Where artifacts are at `service`, they are also at `direct`.
    ///
    /// # Errors
    /// When its pods are such as no pool has: with volumes, or with requests that take longer than a pod of a pool is given
    /// to end.
    pub fn of(
        function: &Function,
        resolved: &Resolved,
        desired: &Desired,
        service: &str,
        direct: &str,
    ) -> Result<Self, Misfit> {
        let template = &desired.deployment.spec.template;
        let spec = template.spec.as_ref();
        if spec.is_some_and(|spec| spec.volumes.is_some()) {
            return Err(Misfit::Volumes);
        }
        if grace(function) > WARM_GRACE {
            return Err(Misfit::Grace(grace(function)));
        }
        let mut assignment = desired.assignment.clone();
        let straight = |url: &mut String| {
            if let Some(path) = url.strip_prefix(service) {
                *url = format!("{direct}{path}");
            }
        };
        for artifact in &mut assignment.artifacts {
            straight(&mut artifact.url);
            for compiled in &mut artifact.compiled {
                straight(&mut compiled.url);
            }
        }
        let metadata = template.metadata.clone().unwrap_or_default();
        Ok(Self {
            revision: desired.revision.clone(),
            assignment: Some(assignment),
            concurrency: function.spec.limits.concurrency,
            labels: metadata.labels.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
            resources: spec
                .and_then(|spec| spec.containers.first())
                .and_then(|container| container.resources.clone())
                .map(resources::with_requests),
            needed: resources::needed(function, resolved),
            pod: shape(function.spec.pod.as_ref()),
        })
    }

    /// What is known of a revision's pods by the Function alone: enough to mark one as its own, not to make one.
    #[must_use]
    pub fn bare(function: &Function, revision: &str) -> Self {
        Self {
            revision: revision.to_owned(),
            assignment: None,
            concurrency: function.spec.limits.concurrency,
            labels: names::revision_labels(&function.name_any(), revision),
            annotations: pod::annotations(function),
            resources: None,
            needed: 0,
            pod: shape(function.spec.pod.as_ref()),
        }
    }

    /// Whether pods of `pool` can become replicas of it: they are placed as its own would be, and hold what it needs at
    /// first. `models` is how many bytes the pool's models have.
    ///
    /// # Errors
    /// When they can't, with the reason.
    pub fn fits(&self, pool: &RuntimePool, models: u64) -> Result<(), Misfit> {
        let of_pool = shape(pool.spec.pod.as_ref());
        if self.pod != of_pool {
            return Err(Misfit::Pod(Box::new((self.pod.clone(), of_pool))));
        }
        let limits = pool_resources(pool, models);
        if let Some(resources) = &self.resources {
            resources::can_resize(&limits, resources)?;
        }
        if !resources::holds(&limits, self.needed) {
            let limit = limits.limits.and_then(|mut limits| limits.remove("memory"));
            return Err(Misfit::Memory {
                needed: resources::mebi(self.needed).0,
                limit: limit.unwrap_or_default().0,
            });
        }
        Ok(())
    }

    /// Whether a pod of a pool that it [fits](Self::fits) may use the memory that it needs at first: while the pool's pods
    /// are replaced by others that have more, some haven't.
    pub(super) fn has_room_in(&self, pod: &k8s_openapi::api::core::v1::Pod) -> bool {
        let mut containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let container = containers.find(|container| container.name == names::CONTAINER);
        let limits = container.and_then(|container| container.resources.as_ref());
        limits.is_none_or(|limits| resources::holds(limits, self.needed))
    }

    /// How many models a pod would have to load that has `kept`, and how many of those nobody would use.
    pub(super) fn mismatch(&self, kept: &[Kept]) -> (usize, usize) {
        let models = self
            .assignment
            .iter()
            .flat_map(|assignment| &assignment.config.models);
        let wanted: Vec<_> = models.map(|model| (&model.file, model.device)).collect();
        let kept: Vec<_> = kept
            .iter()
            .map(|kept| (&kept.model.file, kept.model.device))
            .collect();
        let missing = wanted.iter().filter(|model| !kept.contains(model)).count();
        let unused = kept.iter().filter(|model| !wanted.contains(model)).count();
        (missing, unused)
    }
}

/// The fields in which two differ, as a manifest names them.
fn differences(one: &Pod, other: &Pod) -> String {
    let fields = |pod: &Pod| match serde_json::to_value(pod) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let (one, other) = (fields(one), fields(other));
    let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let differ = names
        .into_iter()
        .filter(|name| one.get(*name) != other.get(*name));
    differ
        .map(|name| format!("pod.{name}"))
        .collect::<Vec<_>>()
        .join(" and ")
}

/// What can't be changed of a pod once it is there, but for its resources: GPUs are among them, whether `gpu` or `resources`
/// says so.
fn shape(pod: Option<&Pod>) -> Pod {
    Pod {
        resources: None,
        gpu: None,
        ..pod.cloned().unwrap_or_default()
    }
}
