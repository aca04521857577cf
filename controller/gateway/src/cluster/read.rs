//! What of Kubernetes' objects matters to a gateway.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{ContainerStatus, Pod as KubePod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource as _, ResourceExt as _};
use wisp_api::Function;
use wisp_contract::operator::pod;
use wisp_contract::{FunctionId, FunctionIdError};
use wisp_gateway::FunctionRoute;

use crate::directory::{Known, Phase, Pod, PodName};

/// What identifies an object of a namespace.
pub(crate) fn name(metadata: &ObjectMeta) -> PodName {
    (
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}

/// Which function an object of that kind is.
///
/// # Errors
/// When the API server let a name pass that none can have.
pub(crate) fn id(metadata: &ObjectMeta) -> Result<FunctionId, FunctionIdError> {
    let (namespace, name) = name(metadata);
    FunctionId::new(&namespace, &name)
}

/// The function `id`; `None` where it is being deleted.
pub(crate) fn function(function: &Function, id: &FunctionId) -> Option<Known> {
    if function.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let held = function
        .held()
        .map(|(host, since)| (host.to_owned(), since));
    Some(Known {
        route: FunctionRoute {
            id: id.clone(),
            hosts: function.spec.hosts.clone(),
            held: held.collect(),
            created: function.created(),
            limits: function.limits(),
        },
        uid: function.metadata.uid.clone().unwrap_or_default(),
    })
}

/// A pod of a function; `None` where it is no function's.
pub(crate) fn replica(pod: &KubePod) -> Option<Pod> {
    let metadata = &pod.metadata;
    let (namespace, name) = name(metadata);
    let label = metadata.labels.as_ref()?.get(pod::FUNCTION)?;
    let function = FunctionId::new(&namespace, label).ok()?;
    let status = pod.status.as_ref();
    let ip: Option<IpAddr> = status
        .and_then(|status| status.pod_ip.as_ref())
        .and_then(|ip| ip.parse().ok());
    let concurrency = metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(pod::CONCURRENCY));
    let parsed = concurrency
        .and_then(|text| text.parse().ok())
        .filter(|count| *count > 0);
    if concurrency.is_some() && parsed.is_none() {
        tracing::warn!(
            pod = %format_args!("{namespace}/{name}"),
            value = concurrency,
            "the annotation {} is no number above 0: the function's limit is taken",
            pod::CONCURRENCY
        );
    }
    Some(Pod {
        name: (namespace, name),
        uid: metadata.uid.clone().unwrap_or_default(),
        function,
        address: ip.map(|ip| SocketAddr::new(ip, pod::DATA_PORT)),
        concurrency: parsed,
        created: created(metadata),
        owner: owner(metadata),
        phase: phase(pod),
    })
}

/// The uid of the function that controls an object.
fn owner(metadata: &ObjectMeta) -> Option<String> {
    let mut owners = metadata.owner_references.iter().flatten();
    let controller = owners.find(|owner| owner.controller == Some(true))?;
    let is_function = controller.kind == Function::kind(&())
        && controller.api_version == Function::api_version(&());
    is_function.then(|| controller.uid.clone())
}

fn phase(pod: &KubePod) -> Phase {
    let Some(status) = &pod.status else {
        return Phase::NotReady;
    };
    let has_ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let (labels, annotations) = (pod.labels(), pod.annotations());
    let mut containers = status.container_statuses.iter().flatten();
    // What is beside it may do as it likes.
    let container = containers.find(|container| container.name == pod::CONTAINER);
    let is_broken = container.is_some_and(|container| {
        container_is_down(container)
            || pod::has_forgotten(labels, annotations, container.restart_count)
    });
    if pod.metadata.deletion_timestamp.is_some() || has_ended || is_broken {
        return Phase::Leaving;
    }
    let is_ready = status
        .conditions
        .iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    if is_ready {
        Phase::Ready
    } else {
        Phase::NotReady
    }
}

/// Whether a container ended, or waits to be started again.
fn container_is_down(container: &ContainerStatus) -> bool {
    let Some(state) = &container.state else {
        return false;
    };
    state.terminated.is_some() || (container.restart_count > 0 && state.waiting.is_some())
}

fn created(metadata: &ObjectMeta) -> i64 {
    metadata
        .creation_timestamp
        .as_ref()
        .map_or(0, |time| time.0.as_second())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(change: impl FnOnce(&mut serde_json::Value)) -> Option<Pod> {
        let mut object = json!({
            "metadata": {
                "name": "digits-1", "namespace": "vision", "uid": "u", "creationTimestamp": "2026-01-01T00:00:01Z",
                "labels": {"wisp.dev/function": "digits"}, "annotations": {"wisp.dev/concurrency": "7"},
            },
            "status": {
                "phase": "Running", "podIP": "10.0.0.7", "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"name": "function", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}}],
            },
        });
        change(&mut object);
        replica(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn a_pod_is_read_by_label_annotation_and_conditions() {
        let read = pod(|_| {}).unwrap();
        assert_eq!(read.function.to_string(), "vision/digits");
        assert_eq!(read.address, Some("10.0.0.7:8080".parse().unwrap()));
        assert_eq!(
            (read.concurrency, read.created, read.phase),
            (Some(7), 1_767_225_601, Phase::Ready)
        );
        assert_eq!(
            pod(|pod| pod["metadata"]["labels"] = json!({"app": "x"})),
            None
        );
        assert_eq!(
            pod(|pod| pod["metadata"]["labels"] = json!({"wisp.dev/function": "No_Name"})),
            None
        );
        for bad in ["", "0", "-1", "many"] {
            let read =
                pod(|pod| pod["metadata"]["annotations"]["wisp.dev/concurrency"] = bad.into())
                    .unwrap();
            assert_eq!(read.concurrency, None, "{bad}");
        }
    }

    #[test]
    fn a_pod_is_its_functions_by_the_owner_that_controls_it() {
        let owner = |kind: &str, version: &str, controls: bool| {
            pod(|pod| {
                pod["metadata"]["ownerReferences"] = json!([
                    {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "other"},
                    {"apiVersion": version, "kind": kind, "name": "digits", "uid": "fu", "controller": controls},
                ]);
            })
            .unwrap()
            .owner
        };
        assert_eq!(
            owner("Function", "wisp.dev/v1alpha1", true).as_deref(),
            Some("fu")
        );
        assert_eq!(owner("Function", "wisp.dev/v1alpha1", false), None);
        assert_eq!(owner("Function", "another.dev/v1", true), None);
        assert_eq!(owner("ReplicaSet", "apps/v1", true), None);
        assert_eq!(pod(|_| {}).unwrap().owner, None);
    }

    #[test]
    fn what_ends_a_pod_is_seen_before_its_readiness() {
        let phase = |change: &dyn Fn(&mut serde_json::Value)| pod(|pod| change(pod)).unwrap().phase;
        assert_eq!(phase(&|pod| pod["status"] = json!({})), Phase::NotReady);
        assert_eq!(
            phase(&|pod| pod["status"]["conditions"][0]["status"] = "Unknown".into()),
            Phase::NotReady
        );
        assert_eq!(
            phase(&|pod| pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:09Z".into()),
            Phase::Leaving
        );
        assert_eq!(
            phase(&|pod| pod["status"]["phase"] = "Failed".into()),
            Phase::Leaving
        );
        let container = |state: serde_json::Value, restarts: i32| {
            phase(&|pod| {
                pod["status"]["conditions"][0]["status"] = "False".into();
                pod["status"]["containerStatuses"][0]["state"] = state.clone();
                pod["status"]["containerStatuses"][0]["restartCount"] = restarts.into();
            })
        };
        assert_eq!(
            container(json!({"terminated": {"exitCode": 1}}), 0),
            Phase::Leaving
        );
        assert_eq!(
            container(json!({"waiting": {"reason": "CrashLoopBackOff"}}), 3),
            Phase::Leaving
        );
        assert_eq!(
            container(json!({"waiting": {"reason": "ContainerCreating"}}), 0),
            Phase::NotReady
        );
        // A pod from a pool that began anew is nobody's.
        assert_eq!(
            phase(&|pod| {
                pod["metadata"]["labels"]["wisp.dev/claimed-from"] = "default".into();
                pod["status"]["containerStatuses"][0]["restartCount"] = 1.into();
            }),
            Phase::Leaving
        );
        // What a mesh injected may begin anew.
        assert_eq!(
            phase(&|pod| {
                pod["metadata"]["labels"]["wisp.dev/claimed-from"] = "default".into();
                let containers = &mut pod["status"]["containerStatuses"];
                let mut beside = containers[0].clone();
                beside["name"] = "istio-proxy".into();
                beside["restartCount"] = 3.into();
                beside["state"] = json!({"waiting": {"reason": "CrashLoopBackOff"}});
                *containers = json!([beside, containers[0]]);
            }),
            Phase::Ready
        );
        let restarted = |before: &str| {
            phase(&|pod| {
                pod["metadata"]["labels"]["wisp.dev/claimed-from"] = "default".into();
                pod["metadata"]["annotations"]["wisp.dev/claimed-restarts"] = before.into();
                pod["status"]["containerStatuses"][0]["restartCount"] = 2.into();
            })
        };
        assert_eq!(restarted("1"), Phase::Leaving);
        // It stood by after that.
        assert_eq!(restarted("2"), Phase::Ready);
    }

    #[test]
    fn a_function_is_read_by_its_spec_until_it_is_deleted() {
        let mut object: Function = serde_json::from_value(json!({
            "apiVersion": "wisp.dev/v1alpha1", "kind": "Function",
            "metadata": {"name": "digits", "namespace": "vision", "uid": "u", "creationTimestamp": "2026-01-01T00:00:01Z"},
            "spec": {"component": {"image": "x/y:1"}, "hosts": ["digits.example.com"], "limits": {"timeout": "3s", "queue": 5}},
            "status": {"hosts": [
                {"name": "digits.example.com", "since": "2026-01-01T00:00:02.000001Z"}, {"name": "dropped.example", "since": "2026-01-01T00:00:02.000000Z"},
            ]},
        }))
        .unwrap();
        let id = id(&object.metadata).unwrap();
        let known = function(&object, &id).unwrap();
        assert_eq!(known.route.hosts, ["digits.example.com"]);
        let held = [("digits.example.com".to_owned(), 1_767_225_602_000_001)];
        assert_eq!(known.route.held, held.into());
        assert_eq!(
            (known.uid.as_str(), known.route.created),
            ("u", 1_767_225_601)
        );
        assert_eq!(
            (
                known.route.limits.timeout.as_secs(),
                known.route.limits.queue
            ),
            (3, 5)
        );
        object.metadata.deletion_timestamp = object.metadata.creation_timestamp.clone();
        assert_eq!(function(&object, &id), None);
    }
}
