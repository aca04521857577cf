//! What turns a pod that stands by into a replica of one revision, and which pools have such pods.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::ResourceExt as _;
use wisp_api::{Function, Pod, RuntimePool};
use wisp_contract::assignment::Assignment;

use super::models::Kept;
use crate::names;
use crate::reconcile::desired::Desired;
use crate::reconcile::pod::{self, WARM_GRACE, grace};
use crate::reconcile::resources::{holds, pool_resources};

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
    /// What its pods ask for beside that.
    pod: Pod,
}

impl Claimable {
    /// The revision that `desired` is of, unless its pods are such as no pool has: with volumes, or with requests that
    /// take longer than a pod of a pool is given to end. Where artifacts are at `service`, they are also at `direct`.
    #[must_use]
    pub fn of(function: &Function, desired: &Desired, service: &str, direct: &str) -> Option<Self> {
        let template = &desired.deployment.spec.template;
        let spec = template.spec.as_ref()?;
        if spec.volumes.is_some() || grace(function) > WARM_GRACE {
            return None;
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
        Some(Self {
            revision: desired.revision.clone(),
            assignment: Some(assignment),
            concurrency: function.spec.limits.concurrency,
            labels: metadata.labels.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
            resources: spec.containers.first()?.resources.clone(),
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
            pod: shape(function.spec.pod.as_ref()),
        }
    }

    /// Whether pods of `pool` can become replicas of it: they are placed as its own would be, and hold what it needs at
    /// first. `models` is how many bytes the pool's models have.
    #[must_use]
    pub fn fits(&self, pool: &RuntimePool, models: u64) -> bool {
        let wanted = self.resources.clone().unwrap_or_default();
        self.pod == shape(pool.spec.pod.as_ref()) && holds(&pool_resources(pool, models), &wanted)
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

/// What can't be changed of a pod once it is there.
fn shape(pod: Option<&Pod>) -> Pod {
    Pod {
        resources: None,
        ..pod.cloned().unwrap_or_default()
    }
}
