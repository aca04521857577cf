//! The pods of a revision.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource,
    HTTPGetAction, Lifecycle, LifecycleHandler, PersistentVolumeClaimVolumeSource,
    PodSecurityContext, PodSpec, PodTemplateSpec, Probe, SeccompProfile, SecretKeySelector,
    SecurityContext, SleepAction, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;
use wisp_api::{Function, PersistentVolumeClaimSource};
use wisp_contract::assignment;
use wisp_contract::operator::pod::{CONCURRENCY, CONTROL_PORT, DATA_PORT};

use super::assignment::{COMPONENT_MOUNT, KEY_VALUE_MOUNT, MODELS_MOUNT};
use super::desired::Settings;
use super::resources::resources;
use crate::names;
use crate::resolve::{Bytes, Resolved};

/// Between a pod's end being decided and its host being told: gateways hear of it meanwhile, and send nothing more.
const PRE_STOP: i64 = 2;
/// Beyond the longest request, for the host to end.
const GRACE: u64 = 10;
/// The user that replicas run as.
const USER: i64 = 65532;
const TERMINATION_LOG: &str = "/dev/termination-log";

/// The template of a revision's pods. It depends on `revision` by its labels and its Secret alone.
#[must_use]
pub fn template(
    function: &Function,
    resolved: &Resolved,
    revision: &str,
    settings: &Settings,
) -> PodTemplateSpec {
    let pod = function.spec.pod.clone().unwrap_or_default();
    let timeout = Duration::from(function.spec.limits.timeout)
        .as_secs_f64()
        .ceil();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a timeout is at most an hour"
    )]
    let timeout = (timeout as u64).min(3600);
    let (volumes, mounts) = volumes(function, resolved);
    let container = Container {
        name: names::CONTAINER.to_owned(),
        image: Some(settings.runtime_image.clone()),
        image_pull_policy: Some(settings.runtime_pull_policy.clone()),
        args: Some(vec![
            format!("--data=0.0.0.0:{DATA_PORT}"),
            format!("--control=0.0.0.0:{CONTROL_PORT}"),
            // What remains of the grace period after `PRE_STOP`, less two seconds to end in.
            format!("--drain-timeout={}", timeout + GRACE - 4),
        ]),
        env: Some(vec![
            from_secret(assignment::ENV, revision, names::ASSIGNMENT_KEY),
            from_secret("WISP_CONTROL_KEY", revision, names::CONTROL_KEY),
            EnvVar {
                name: "WISP_TERMINATION_LOG".to_owned(),
                value: Some(TERMINATION_LOG.to_owned()),
                ..EnvVar::default()
            },
        ]),
        ports: Some(vec![port("data", DATA_PORT), port("control", CONTROL_PORT)]),
        readiness_probe: Some(readiness()),
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                sleep: Some(SleepAction { seconds: PRE_STOP }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        resources: Some(resources(function, resolved)),
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
        volume_mounts: some(mounts),
        ..Container::default()
    };
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(names::revision_labels(&function.name_any(), revision)),
            annotations: Some(annotations(function)),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            containers: vec![container],
            volumes: some(volumes),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            service_account_name: pod.service_account_name,
            node_selector: Some(pod.node_selector).filter(|labels| !labels.is_empty()),
            tolerations: some(pod.tolerations),
            affinity: pod.affinity,
            topology_spread_constraints: some(pod.topology_spread_constraints),
            runtime_class_name: pod.runtime_class_name,
            priority_class_name: pod.priority_class_name,
            termination_grace_period_seconds: i64::try_from(timeout + GRACE).ok(),
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
        }),
    }
}

fn annotations(function: &Function) -> BTreeMap<String, String> {
    let text = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    BTreeMap::from([
        text(CONCURRENCY, &function.spec.limits.concurrency.to_string()),
        text("kubectl.kubernetes.io/default-container", names::CONTAINER),
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

fn readiness() -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some("/readyz".to_owned()),
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
    let mut mount = |name: &str, path: String, claim: &PersistentVolumeClaimSource| {
        volumes.push(Volume {
            name: name.to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim.claim_name.clone(),
                read_only: Some(true),
            }),
            ..Volume::default()
        });
        mounts.push(VolumeMount {
            name: name.to_owned(),
            mount_path: path,
            read_only: Some(true),
            ..VolumeMount::default()
        });
    };
    if let Bytes::Volume(claim) = &resolved.component {
        mount("component", COMPONENT_MOUNT.to_owned(), claim);
    }
    for (index, (_, bytes)) in resolved.models.iter().enumerate() {
        if let Bytes::Volume(claim) = bytes {
            mount(
                &format!("model-{index}"),
                format!("{MODELS_MOUNT}/{index}"),
                claim,
            );
        }
    }
    if !function.spec.key_value.is_empty() {
        let bytes = function
            .spec
            .key_value
            .iter()
            .fold(0_u64, |sum, store| sum.saturating_add(store.max_size.0));
        volumes.push(Volume {
            name: "key-value".to_owned(),
            empty_dir: Some(EmptyDirVolumeSource {
                // A database takes up to twice its content.
                size_limit: Some(Quantity(format!(
                    "{}Mi",
                    bytes.saturating_mul(2).div_ceil(1 << 20) + 16
                ))),
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

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|list| !list.is_empty())
}
