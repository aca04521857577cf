//! What a replica's container asks for, derived from its function's limits.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use wisp_api::{Bytes as Size, Function, RuntimePool};

use crate::resolve::{Bytes, Resolved};

/// What the host itself needs.
const HOST: u64 = 64 << 20;
/// A component's bytes and machine code, in memory, are about so many times the component.
const COMPONENT_FACTOR: u64 = 4;
/// A model's bytes and its loaded form.
const MODEL_FACTOR: u64 = 2;
/// So many instances' memory is counted in the limit: few use all that they may, at once.
const INSTANCES: u64 = 8;
/// What is assumed of a model on a volume, whose size nobody knows.
const UNKNOWN_MODEL: u64 = 512 << 20;
/// What compiling a component of a few MiB takes for a moment, where replicas do it themselves.
const COMPILING: u64 = 512 << 20;
/// The resource of GPUs.
const GPU: &str = "nvidia.com/gpu";
/// What the resources of NVIDIA's GPUs, and of parts of them, begin with.
const GPUS: &str = "nvidia.com/";
/// What CUDA needs of the host's memory, in a process that uses it.
const CUDA: u64 = 2 << 30;

/// Requests and limits of the container: what the spec says, else
///
/// * base = 64Mi + 4 × component + 2 × each model (1Gi for a model on a volume),
/// * memory limit = base + `limits.memory` × min(`limits.concurrency`, 8), and with models 2 × `limits.tensors`; at least
///   base + 512Mi for a component on a volume, which is compiled before there are instances,
/// * memory request = base + `limits.memory`, at most the limit,
/// * CPU request = 100m, and no CPU limit.
///
/// Memory is rounded up to whole Mi. GPUs are added to either; with GPUs, base has 2Gi more for CUDA.
#[must_use]
pub fn resources(function: &Function, resolved: &Resolved) -> ResourceRequirements {
    let pod = function.spec.pod.clone().unwrap_or_default();
    let mut resources = pod.resources.unwrap_or_else(|| derived(function, resolved));
    add_gpus(&mut resources, pod.gpu);
    resources
}

/// Requests and limits of a pod that stands by: what the spec says, else 10m of a CPU and 32Mi of memory, at most 512Mi;
/// and of memory twice what its models have, in bytes, and 2Gi with GPUs.
#[must_use]
pub fn pool_resources(pool: &RuntimePool, models: u64) -> ResourceRequirements {
    let pod = pool.spec.pod.clone().unwrap_or_default();
    let models = models
        .saturating_mul(MODEL_FACTOR)
        .saturating_add(cuda(pod.gpu));
    let mut resources = pod.resources.unwrap_or_else(|| ResourceRequirements {
        claims: None,
        limits: Some(BTreeMap::from([(
            "memory".to_owned(),
            mebi((512 << 20) + models),
        )])),
        requests: Some(BTreeMap::from([
            ("cpu".to_owned(), Quantity("10m".to_owned())),
            ("memory".to_owned(), mebi((32 << 20) + models)),
        ])),
    });
    add_gpus(&mut resources, pod.gpu);
    resources
}

/// The memory, in bytes, that a container must be allowed to become a replica of `function` before it has been resized:
/// what is requested, and what loading takes. Who says itself what models may take is believed.
#[must_use]
pub fn needed(function: &Function, resolved: &Resolved) -> u64 {
    let base = base(function, resolved);
    let pod = function.spec.pod.as_ref();
    let Some(own) = pod.and_then(|pod| pod.resources.as_ref()) else {
        return memory(derived(function, resolved).requests.as_ref()).unwrap_or(base);
    };
    let limit = memory(own.limits.as_ref());
    // Without a request Kubernetes takes the limit for it.
    let request = memory(own.requests.as_ref()).or(limit).unwrap_or(0);
    let loading = match limit {
        Some(limit) if resolved.models.is_empty() => base.min(limit),
        Some(limit) => limit,
        None => base,
    };
    request.max(loading)
}

/// Whether a container with these limits can have `needed` bytes of memory.
#[must_use]
pub fn holds(limits: &ResourceRequirements, needed: u64) -> bool {
    memory(limits.limits.as_ref()).is_none_or(|limit| needed <= limit)
}

/// Why a container that runs can't be given other resources.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unresizable {
    /// Only processors and memory can be changed.
    #[error(
        "pods of the pool have another amount of {0}, which can't be changed of a pod that runs"
    )]
    Other(String),
    /// A limit can be changed, and not taken away.
    #[error("it has no limit of {0}, pods of the pool have one, which can't be taken away")]
    Limit(&'static str),
    /// By which Kubernetes decides whom it ends first where memory runs out.
    #[error(
        "its pods have the QoS class {needed}, those of the pool have {found}, which can't be changed of a pod that runs"
    )]
    Class {
        /// The function's.
        needed: &'static str,
        /// The pool's.
        found: &'static str,
    },
}

/// Processors and memory, which can be changed of a container that runs.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// Whether a container that runs with the resources `from` can have the resources `to`. What it requests of processors and memory
/// where `to` requests nothing, it keeps.
///
/// # Errors
/// When Kubernetes would refuse that, or keep a limit that isn't in `to`.
pub fn can_resize(
    from: &ResourceRequirements,
    to: &ResourceRequirements,
) -> Result<(), Unresizable> {
    let (from, to) = (with_requests(from.clone()), with_requests(to.clone()));
    for (fixed, wanted) in [(&from.requests, &to.requests), (&from.limits, &to.limits)] {
        let (fixed, wanted) = (others(fixed), others(wanted));
        let mut names = fixed.keys().chain(wanted.keys());
        if let Some(name) = names.find(|name| fixed.get(*name) != wanted.get(*name)) {
            return Err(Unresizable::Other(name.clone()));
        }
    }
    let limits = |resources: &ResourceRequirements, name: &str| {
        let limits = resources.limits.as_ref();
        limits.is_some_and(|limits| limits.contains_key(name))
    };
    if let Some(name) = RESIZABLE
        .into_iter()
        .find(|name| limits(&from, name) && !limits(&to, name))
    {
        return Err(Unresizable::Limit(name));
    }
    let (needed, found) = (class(&to), class(&from));
    if needed == found {
        Ok(())
    } else {
        Err(Unresizable::Class { needed, found })
    }
}

/// Whether a container that asks for `these` has what `wanted` says of processors and memory.
#[must_use]
pub fn has(these: &ResourceRequirements, wanted: &ResourceRequirements) -> bool {
    let of = |quantities: &Option<BTreeMap<String, Quantity>>, name: &str| {
        let Quantity(text) = quantities.as_ref()?.get(name)?;
        Some(amount(name, text).ok_or_else(|| text.clone()))
    };
    let pairs = [
        (&these.requests, &wanted.requests),
        (&these.limits, &wanted.limits),
    ];
    pairs.into_iter().all(|(these, wanted)| {
        RESIZABLE.iter().all(|name| {
            let wanted = of(wanted, name);
            wanted.is_none() || of(these, name) == wanted
        })
    })
}

/// What of these can't be changed of a container that runs: in bytes, or as many as there are.
fn others(quantities: &Option<BTreeMap<String, Quantity>>) -> BTreeMap<String, Amount> {
    let fixed = quantities.iter().flatten();
    fixed
        .filter(|(name, _)| !RESIZABLE.contains(&name.as_str()))
        .map(|(name, Quantity(text))| {
            let amount = text.parse().map(|Size(bytes)| bytes);
            (name.clone(), amount.map_err(|_| text.clone()))
        })
        .filter(|(_, amount)| *amount != Ok(0))
        .collect()
}

/// A quantity, or its text where it is of a form that isn't known here.
type Amount = Result<u64, String>;

/// The QoS class of a pod that has this container alone, [with its requests](with_requests).
fn class(resources: &ResourceRequirements) -> &'static str {
    let of = |quantities: &Option<BTreeMap<String, Quantity>>, name: &str| {
        let quantity = quantities.as_ref()?.get(name)?;
        amount(name, &quantity.0).filter(|amount| *amount > 0)
    };
    let is_guaranteed = RESIZABLE.iter().all(|name| {
        let limit = of(&resources.limits, name);
        limit.is_some() && limit == of(&resources.requests, name)
    });
    let has_any = RESIZABLE.iter().any(|name| {
        of(&resources.limits, name).is_some() || of(&resources.requests, name).is_some()
    });
    match (is_guaranteed, has_any) {
        (true, _) => "Guaranteed",
        (false, true) => "Burstable",
        (false, false) => "BestEffort",
    }
}

/// Bytes of memory, or thousandths of a processor.
fn amount(name: &str, quantity: &str) -> Option<u64> {
    if name == "memory" {
        return quantity.parse().ok().map(|Size(bytes)| bytes);
    }
    let millis = match quantity.strip_suffix('m') {
        Some(millis) => millis.parse::<f64>().ok()?,
        None => quantity.parse::<f64>().ok()? * 1e3,
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rounded, and no machine has so many processors"
    )]
    let millis = millis.round().max(0.0) as u64;
    Some(millis)
}

/// How many processors' time a container with these limits may take, as its processes count them; `None`: as many as its
/// machine has.
#[must_use]
pub fn cpus(resources: &ResourceRequirements) -> Option<NonZeroUsize> {
    let limit = resources.limits.as_ref()?.get("cpu")?;
    let whole = usize::try_from(amount("cpu", &limit.0)? / 1000).ok()?;
    Some(NonZeroUsize::new(whole).unwrap_or(NonZeroUsize::MIN))
}

/// As Kubernetes has it for a new pod: where there is a limit and no request, the limit is the request.
#[must_use]
pub fn with_requests(mut resources: ResourceRequirements) -> ResourceRequirements {
    for (name, limit) in resources.limits.iter().flatten() {
        let requests = resources.requests.get_or_insert_default();
        requests
            .entry(name.clone())
            .or_insert_with(|| limit.clone());
    }
    resources
}

/// Bytes of memory.
pub fn memory(quantities: Option<&BTreeMap<String, Quantity>>) -> Option<u64> {
    let Size(bytes) = quantities?.get("memory")?.0.parse().ok()?;
    Some(bytes)
}

/// Whether a container gets GPUs of NVIDIA's, or parts of them.
pub(super) fn asks_for_gpus(resources: &ResourceRequirements) -> bool {
    let mut limits = resources.limits.iter().flatten();
    limits.any(|(name, count)| name.starts_with(GPUS) && count.0 != "0")
}

fn cuda(gpus: Option<u32>) -> u64 {
    if gpus.unwrap_or(0) > 0 { CUDA } else { 0 }
}

fn add_gpus(resources: &mut ResourceRequirements, count: Option<u32>) {
    if let Some(count) = count.filter(|count| *count > 0) {
        let limits = resources.limits.get_or_insert_default();
        limits
            .entry(GPU.to_owned())
            .or_insert_with(|| Quantity(count.to_string()));
    }
}

/// What the host, the component and its models take once they are loaded.
fn base(function: &Function, resolved: &Resolved) -> u64 {
    let component = match &resolved.component {
        Bytes::Stored(stored) => stored.size.saturating_mul(COMPONENT_FACTOR),
        Bytes::Volume(_) => HOST,
    };
    let models = resolved.models.iter().fold(0_u64, |sum, (_, bytes)| {
        let size = match bytes {
            Bytes::Stored(stored) => stored.size,
            Bytes::Volume(_) => UNKNOWN_MODEL,
        };
        sum.saturating_add(size.saturating_mul(MODEL_FACTOR))
    });
    let gpus = function.spec.pod.as_ref().and_then(|pod| pod.gpu);
    HOST.saturating_add(component)
        .saturating_add(models)
        .saturating_add(cuda(gpus))
}

fn derived(function: &Function, resolved: &Resolved) -> ResourceRequirements {
    let limits = &function.spec.limits;
    let base = base(function, resolved);
    let instances = u64::from(limits.concurrency).min(INSTANCES);
    let Size(memory) = limits.memory;
    let tensors = if resolved.models.is_empty() {
        0
    } else {
        limits.tensors.0.saturating_mul(2)
    };
    let compiling = match &resolved.component {
        Bytes::Stored(_) => 0,
        Bytes::Volume(_) => COMPILING,
    };
    let used = memory.saturating_mul(instances).saturating_add(tensors);
    let limit = base.saturating_add(used.max(compiling));
    let request = base.saturating_add(memory).min(limit);
    ResourceRequirements {
        claims: None,
        limits: Some(BTreeMap::from([("memory".to_owned(), mebi(limit))])),
        requests: Some(BTreeMap::from([
            ("cpu".to_owned(), Quantity("100m".to_owned())),
            ("memory".to_owned(), mebi(request)),
        ])),
    }
}

/// So many bytes, rounded up.
pub fn mebi(bytes: u64) -> Quantity {
    Quantity(format!("{}Mi", bytes.div_ceil(1 << 20)))
}
