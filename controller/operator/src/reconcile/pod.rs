//! The pods of a revision.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource,
    HTTPGetAction, ImageVolumeSource, Lifecycle, LifecycleHandler, LocalObjectReference,
    PersistentVolumeClaimVolumeSource, Pod, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
    ResourceRequirements, SeccompProfile, SecretKeySelector, SecurityContext, SleepAction, Volume,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;
use sha2::{Digest as _, Sha256};
use wisp_api::{Function, RuntimePool};
use wisp_contract::assignment::{self, Key};
use wisp_contract::keys::Root;
use wisp_contract::operator::pod::{CONCURRENCY, CONTROL_PORT, DATA_PORT, POOL_UID};

use super::assignment::{COMPONENT_MOUNT, KEY_VALUE_MOUNT, MODELS_MOUNT};
use super::desired::Settings;
use super::resources::{asks_for_gpus, mebi, pool_resources, resources};
use crate::names;
use crate::resolve::{self, Bytes, Resolved};

/// Between a pod's end being decided and its host being told: gateways hear of it meanwhile, and send nothing more.
const PRE_STOP: i64 = 2;
/// Beyond the longest request, for the host to end.
const GRACE: u64 = 10;
/// What pods that stand by have to end in, in seconds: longer than requests of most functions take.
pub const WARM_GRACE: u64 = 310;
/// The user that replicas run as.
const USER: i64 = 65532;
/// Annotation: a digest of what a pod that stands by has ready.
const PRELOAD_ANNOTATION: &str = "wisp.dev/preload";
/// Annotation: a digest of all else that makes a pod that stands by what it is.
const TEMPLATE_ANNOTATION: &str = "wisp.dev/template";
/// Annotation: a digest of the secret that the keys of a revision's pods are made of.
const KEYS_ANNOTATION: &str = "wisp.dev/keys";
const TERMINATION_LOG: &str = "/dev/termination-log";

/// The template of a revision's pods. With another secret of the installation it is another: pods that have keys of the one
/// before answer nobody any more, and only a new revision replaces them, those from pools, too. It depends on `revision` by its labels and its Secret alone.
#[must_use]
pub fn template(
    function: &Function,
    resolved: &Resolved,
    revision: &str,
    settings: &Settings,
) -> PodTemplateSpec {
    let pod = function.spec.pod.clone().unwrap_or_default();
    let grace = grace(function);
    let (volumes, mounts) = volumes(function, resolved);
    let mut container = container(
        settings,
        grace,
        vec![
            from_secret(assignment::ENV, revision, names::ASSIGNMENT_KEY),
            from_secret("WISP_CONTROL_KEY", revision, names::CONTROL_KEY),
        ],
        "/readyz",
        resources(function, resolved),
    );
    container.volume_mounts = some(mounts);
    let mut annotations = annotations(function);
    annotations.insert(KEYS_ANNOTATION.to_owned(), keys(&settings.root));
    let labels = names::revision_labels(&function.name_any(), revision);
    let metadata = metadata(&pod, labels, annotations);
    let mut spec = spec(pod, container, grace);
    spec.image_pull_secrets = image_pull_secrets(function, &volumes, settings);
    spec.volumes = some(volumes);
    PodTemplateSpec {
        metadata: Some(metadata),
        spec: Some(spec),
    }
}

/// What tells one secret from another, and nothing else of it.
fn keys(root: &Root) -> String {
    let digest = root.derive("told-apart").reveal();
    digest.chars().take(16).collect()
}

/// The longest that the pods of `function` may take to end, in seconds.
#[must_use]
pub fn grace(function: &Function) -> u64 {
    timeout(function) + GRACE
}

/// The template of the pods that stand by in `pool`: a host that waits for an Assignment. Pods are replaced where
/// `preload`, a digest of what they have ready, changes; `models` is how many bytes their models have.
#[must_use]
pub fn warm(
    pool: &RuntimePool,
    preload: &str,
    models: u64,
    settings: &Settings,
) -> PodTemplateSpec {
    let mut template = bare(pool, models, settings);
    let annotations = template.metadata.get_or_insert_default();
    let annotations = annotations.annotations.get_or_insert_default();
    annotations.insert(PRELOAD_ANNOTATION.to_owned(), preload.to_owned());
    annotations.insert(TEMPLATE_ANNOTATION.to_owned(), made_as(pool, settings));
    template
}

/// The key of the control ports of the pods that stand by in `pool`.
#[must_use]
pub fn warm_key(pool: &RuntimePool, settings: &Settings) -> Key {
    let namespace = pool.namespace().unwrap_or_default();
    settings
        .root
        .pool(&namespace, &pool.uid().unwrap_or_default())
}

/// A digest of what makes the pods of `pool` what they are: their image, where they run, what they may use, and their key, for
/// those that have another from before can't be told anything. What they have ready isn't in it, for a pod without that only takes longer; nor is what models add to their memory, which isn't known
/// before the models are.
#[must_use]
pub fn made_as(pool: &RuntimePool, settings: &Settings) -> String {
    let template = serde_json::to_vec(&bare(pool, 0, settings)).unwrap_or_default();
    let all = Sha256::new_with_prefix(template).chain_update(warm_key(pool, settings).0);
    let digest = hex::encode(all.finalize());
    digest.chars().take(16).collect()
}

/// Whether a pod is one that was [`made_as`] that.
#[must_use]
pub fn is_made_as(pod: &Pod, digest: &str) -> bool {
    pod.annotations()
        .get(TEMPLATE_ANNOTATION)
        .is_some_and(|made| made == digest)
}

/// The template without what tells its pods from those of another.
fn bare(pool: &RuntimePool, models: u64, settings: &Settings) -> PodTemplateSpec {
    let name = pool.name_any();
    let secret = names::pool(&name);
    let pod = pool.spec.pod.clone().unwrap_or_default();
    let container = container(
        settings,
        WARM_GRACE,
        vec![
            from_secret("WISP_CONTROL_KEY", &secret, names::CONTROL_KEY),
            from_secret(assignment::PRELOAD_ENV, &secret, names::PRELOAD_KEY),
        ],
        "/warmz",
        pool_resources(pool, models),
    );
    let annotations = [(POOL_UID.to_owned(), pool.uid().unwrap_or_default())].into();
    PodTemplateSpec {
        metadata: Some(metadata(&pod, names::pool_labels(&name), annotations)),
        spec: Some(PodSpec {
            image_pull_secrets: some(runtime_pull_secrets(settings)),
            ..spec(pod, container, WARM_GRACE)
        }),
    }
}

fn timeout(function: &Function) -> u64 {
    let timeout = Duration::from(function.spec.limits.timeout)
        .as_secs_f64()
        .ceil();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a timeout is at most an hour"
    )]
    let timeout = timeout as u64;
    timeout.min(3600)
}

/// A container with a host, which has `grace` seconds to end.
fn container(
    settings: &Settings,
    grace: u64,
    mut env: Vec<EnvVar>,
    readiness: &str,
    resources: ResourceRequirements,
) -> Container {
    env.push(EnvVar {
        name: "WISP_TERMINATION_LOG".to_owned(),
        value: Some(TERMINATION_LOG.to_owned()),
        ..EnvVar::default()
    });
    let image = if asks_for_gpus(&resources) {
        &settings.runtime_cuda_image
    } else {
        &settings.runtime_image
    };
    Container {
        name: names::CONTAINER.to_owned(),
        image: Some(image.clone()),
        image_pull_policy: Some(settings.runtime_pull_policy.clone()),
        args: Some(vec![
            format!("--data=0.0.0.0:{DATA_PORT}"),
            format!("--control=0.0.0.0:{CONTROL_PORT}"),
            // What remains of the grace period after `PRE_STOP`, less two seconds to end in.
            format!("--drain-timeout={}", grace - 4),
        ]),
        env: Some(env),
        ports: Some(vec![port("data", DATA_PORT), port("control", CONTROL_PORT)]),
        readiness_probe: Some(self::readiness(readiness)),
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                sleep: Some(SleepAction { seconds: PRE_STOP }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        resources: Some(resources),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                add: None,
            }),
            read_only_root_filesystem: Some(true),
            ..SecurityContext::default()
        }),
        termination_message_path: Some(TERMINATION_LOG.to_owned()),
        ..Container::default()
    }
}

/// A pod of one container, which holds to the restricted Pod Security standard.
fn spec(pod: wisp_api::Pod, container: Container, grace: u64) -> PodSpec {
    PodSpec {
        containers: vec![container],
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        service_account_name: pod.service_account_name,
        node_selector: Some(on_linux(pod.node_selector)),
        tolerations: some(pod.tolerations),
        affinity: pod.affinity,
        topology_spread_constraints: some(pod.topology_spread_constraints),
        runtime_class_name: pod.runtime_class_name,
        priority_class_name: pod.priority_class_name,
        termination_grace_period_seconds: i64::try_from(grace).ok(),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                localhost_profile: None,
            }),
            ..PodSecurityContext::default()
        }),
        ..PodSpec::default()
    }
}

/// A node has to have `labels`, and Linux: the host is made for nothing else, and a cluster may have nodes with Windows.
fn on_linux(mut labels: BTreeMap<String, String>) -> BTreeMap<String, String> {
    labels
        .entry("kubernetes.io/os".to_owned())
        .or_insert_with(|| "linux".to_owned());
    labels
}

/// These labels and annotations, and those that `pod` says.
fn metadata(
    pod: &wisp_api::Pod,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
) -> ObjectMeta {
    let mut labelled = pod.labels.clone();
    labelled.extend(labels);
    // Where Prometheus finds metrics otherwise, the spec says so.
    let mut annotated = scraped();
    annotated.extend(pod.annotations.clone());
    annotated.extend(annotations);
    ObjectMeta {
        labels: Some(labelled),
        annotations: Some(annotated),
        ..ObjectMeta::default()
    }
}

/// The annotations that make a pod one of `function`.
#[must_use]
pub fn annotations(function: &Function) -> BTreeMap<String, String> {
    let text = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    BTreeMap::from([
        text(CONCURRENCY, &function.spec.limits.concurrency.to_string()),
        text("kubectl.kubernetes.io/default-container", names::CONTAINER),
    ])
}

/// Where Prometheus finds a host's metrics.
fn scraped() -> BTreeMap<String, String> {
    let text = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    BTreeMap::from([
        text("prometheus.io/scrape", "true"),
        text("prometheus.io/port", &CONTROL_PORT.to_string()),
        text("prometheus.io/path", "/metrics"),
    ])
}

fn from_secret(name: &str, secret: &str, key: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(SecretKeySelector {
                name: secret.to_owned(),
                key: key.to_owned(),
                optional: None,
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

fn port(name: &str, port: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: port.into(),
        ..ContainerPort::default()
    }
}

fn readiness(path: &str) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(CONTROL_PORT.into()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(1),
        timeout_seconds: Some(1),
        failure_threshold: Some(3),
        ..Probe::default()
    }
}

/// The volumes that the spec asks for, and their mounts: none, for most functions.
fn volumes(function: &Function, resolved: &Resolved) -> (Vec<Volume>, Vec<VolumeMount>) {
    let (mut volumes, mut mounts) = (Vec::<Volume>::new(), Vec::new());
    let mut mount = |name: &str, path: String, volume: &resolve::Volume| {
        let mut mounted = Volume {
            name: name.to_owned(),
            ..Volume::default()
        };
        match volume {
            resolve::Volume::Claim(claim) => {
                mounted.persistent_volume_claim = Some(PersistentVolumeClaimVolumeSource {
                    claim_name: claim.claim_name.clone(),
                    read_only: Some(true),
                });
            }
            resolve::Volume::Image(image) => {
                mounted.image = Some(ImageVolumeSource {
                    reference: Some(image.reference.clone()),
                    ..ImageVolumeSource::default()
                });
            }
        }
        volumes.push(mounted);
        mounts.push(VolumeMount {
            name: name.to_owned(),
            mount_path: path,
            read_only: Some(true),
            ..VolumeMount::default()
        });
    };
    if let Bytes::Volume(volume) = &resolved.component {
        mount("component", COMPONENT_MOUNT.to_owned(), volume);
    }
    for (index, (_, bytes)) in resolved.models.iter().enumerate() {
        if let Bytes::Volume(volume) = bytes {
            mount(
                &format!("model-{index}"),
                format!("{MODELS_MOUNT}/{index}"),
                volume,
            );
        }
    }
    if !function.spec.key_value.is_empty() {
        // A database takes up to twice its content, and while it is written to old and new pages of the largest values.
        const BESIDE: u64 = 64 << 20;
        let stores = function.spec.key_value.iter();
        let bytes = stores.fold(0_u64, |sum, store| {
            let taken = store.max_size.0.saturating_mul(2).saturating_add(BESIDE);
            sum.saturating_add(taken)
        });
        volumes.push(Volume {
            name: "key-value".to_owned(),
            empty_dir: Some(EmptyDirVolumeSource {
                size_limit: Some(mebi(bytes)),
                ..EmptyDirVolumeSource::default()
            }),
            ..Volume::default()
        });
        mounts.push(VolumeMount {
            name: "key-value".to_owned(),
            mount_path: KEY_VALUE_MOUNT.to_owned(),
            ..VolumeMount::default()
        });
    }
    (volumes, mounts)
}

/// What the kubelet pulls the runtime's image with.
fn runtime_pull_secrets(settings: &Settings) -> Vec<LocalObjectReference> {
    let secrets = settings.runtime_pull_secrets.iter();
    secrets
        .map(|name| LocalObjectReference { name: name.clone() })
        .collect()
}

/// The same, and what it pulls images with that are mounted. The operator pulls all others, and pods have no use for
/// these.
fn image_pull_secrets(
    function: &Function,
    volumes: &[Volume],
    settings: &Settings,
) -> Option<Vec<LocalObjectReference>> {
    let mut secrets = runtime_pull_secrets(settings);
    if volumes.iter().any(|volume| volume.image.is_some()) {
        let component = function.spec.component.iter();
        let of_function = component.flat_map(|component| &component.pull_secrets);
        for secret in of_function {
            let reference = LocalObjectReference {
                name: secret.name.clone(),
            };
            // The API server takes a name once.
            if !secrets.contains(&reference) {
                secrets.push(reference);
            }
        }
    }
    some(secrets)
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|list| !list.is_empty())
}
