//! What a pod is: where it can be reached, whether it serves, and what keeps it from it.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use wisp_api::Function;
use wisp_contract::operator::pod::{
    CLAIMED_FROM, CONCURRENCY, CONTAINER, NOT_ALL_HERE, REVISION, has_forgotten,
};
use wisp_contract::problem::Fault;

use crate::names::{self, Ownership};
use crate::reconcile::resources::memory;

/// What keeps a pod from serving.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// One word, for conditions.
    pub reason: &'static str,
    /// A sentence that names what is wrong.
    pub message: String,
    /// Who must change something.
    pub fault: Fault,
    /// Whether it is sure already; else it may pass while one waits.
    pub is_final: bool,
    /// Since when, where that is known.
    pub since: Option<Time>,
}

/// Whether what is so since then has lasted for `long`, as of `now`. The clock that tells since when may be ahead.
pub(crate) fn has_lasted(since: Timestamp, now: Timestamp, long: Duration) -> bool {
    Duration::try_from(now.duration_since(since)).is_ok_and(|lasted| lasted >= long)
}

impl Trouble {
    /// Whether the next pods of the revision will be in it, too: what isn't the function's own may be otherwise then.
    #[must_use]
    pub fn is_sure(&self) -> bool {
        self.is_final && self.fault == Fault::Function
    }

    /// The words that reasons are among, and whose fault each is.
    pub const REASONS: [(&str, Fault); 10] = [
        ("Unschedulable", Fault::Platform),
        ("RuntimeImagePullFailed", Fault::Platform),
        ("ModelImagePullFailed", Fault::Function),
        ("ContainerFailed", Fault::Platform),
        ("PodsRefused", Fault::Platform),
        ("ScalingRefused", Fault::Platform),
        ("ArtifactsMissing", Fault::Platform),
        ("NotResized", Fault::Platform),
        ("StartFailed", Fault::Function),
        ("OutOfMemory", Fault::Function),
    ];

    /// Whether it has lasted for `long`, as of `now`.
    #[must_use]
    pub fn has_lasted(&self, now: Timestamp, long: Duration) -> bool {
        let since = self.since.as_ref();
        since.is_some_and(|Time(since)| has_lasted(*since, now, long))
    }

    /// The same, as it is for who began to wait at `began`: what was refused before that may be admitted by now.
    #[must_use]
    pub fn as_of(mut self, began: Timestamp) -> Self {
        if self.reason != "PodsRefused" {
            return self;
        }
        // Kubernetes writes whole seconds.
        let is_before = |since: &Time| since.0.as_second() < began.as_second();
        if self.since.as_ref().is_some_and(is_before) {
            self.is_final = false;
            self.since = Some(Time(began));
        }
        self
    }
}

/// The revision that a pod runs.
#[must_use]
pub fn revision(pod: &Pod) -> Option<&str> {
    pod.labels().get(REVISION).map(String::as_str)
}

/// Whether it is a pod of `function`, and not of one that had its name and was deleted: that one's has another key.
#[must_use]
pub fn is_of(pod: &Pod, function: &Function) -> bool {
    match names::ownership(function, &pod.metadata) {
        // It may be older than the function: it stood by in a pool before.
        Ownership::Ours => true,
        Ownership::Leftover => false,
        // A Deployment's pod names its ReplicaSet.
        Ownership::Foreign => pod.creation_timestamp() >= function.creation_timestamp(),
    }
}

/// Whether it is neither ending nor over.
#[must_use]
pub fn is_alive(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none()
        && !matches!(phase, Some("Failed" | "Succeeded"))
        && !has_forgotten(pod.labels(), pod.annotations(), restarts(pod))
}

/// Whether it was taken from a pool.
#[must_use]
pub fn is_claimed(pod: &Pod) -> bool {
    pod.labels().contains_key(CLAIMED_FROM)
}

/// Whether it was taken from a pool and is of no use any more: it is over, or its host began anew, without a function.
#[must_use]
pub fn is_spent(pod: &Pod) -> bool {
    is_claimed(pod) && pod.metadata.deletion_timestamp.is_none() && !is_alive(pod)
}

/// How often the function's container was started anew.
#[must_use]
pub fn restarts(pod: &Pod) -> i32 {
    container(pod).map_or(0, |container| container.restart_count)
}

/// What is known of the function's container. One beside it may do as it likes.
pub(crate) fn container(pod: &Pod) -> Option<&ContainerStatus> {
    let mut statuses = pod.status.as_ref()?.container_statuses.iter().flatten();
    statuses.find(|status| status.name == CONTAINER)
}

/// One life of a pod: its uid, and how often its container was started anew. What a host has and was told ends with it.
#[must_use]
pub fn life(pod: &Pod) -> String {
    format!("{}/{}", pod.uid().unwrap_or_default(), restarts(pod))
}

/// Whether the kubelet found it ready.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    is_alive(pod) && condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Since when the kubelet, or who watches over its node, finds it not ready, where that is known.
#[must_use]
pub fn unready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status != "True")?;
    ready.last_transition_time.as_ref().map(|since| since.0)
}

/// Since when its node can't give it what it was resized to: what it has is what it had before.
#[must_use]
pub fn unresized_since(pod: &Pod) -> Option<Timestamp> {
    let pending = condition(pod, "PodResizePending").filter(|pending| pending.status == "True")?;
    pending.last_transition_time.as_ref().map(|since| since.0)
}

/// Its address, once it has one.
#[must_use]
pub fn address(pod: &Pod) -> Option<IpAddr> {
    pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()
}

/// The requests that it takes at once.
#[must_use]
pub fn concurrency(pod: &Pod) -> u32 {
    let text = pod.annotations().get(CONCURRENCY);
    text.and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// What keeps a pod from serving, if anything is known to.
#[must_use]
pub fn trouble(pod: &Pod) -> Option<Trouble> {
    if !is_alive(pod) || is_ready(pod) {
        return None;
    }
    if let Some(scheduled) = condition(pod, "PodScheduled")
        && scheduled.status == "False"
        && scheduled.reason.as_deref() == Some("Unschedulable")
    {
        let message = scheduled.message.as_deref().unwrap_or("no reason given");
        return Some(Trouble {
            reason: "Unschedulable",
            message: format!("no node takes the pod {}: {message}", pod.name_any()),
            fault: Fault::Platform,
            is_final: false,
            since: scheduled.last_transition_time.clone(),
        });
    }
    let status = container(pod)?;
    waiting(pod, status).or_else(|| ended(pod, status))
}

/// What keeps a Deployment from having pods at all: a quota, or an admission rule. It is as of the first refusal, and stays
/// when others follow, until pods are admitted: the ReplicaSet writes it once, and tries ever less often, at last every
/// 1000 s.
#[must_use]
pub fn refused(deployment: &Deployment) -> Option<Trouble> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions.iter().find(|condition| {
        condition.type_.as_deref() == Some("ReplicaFailure")
            && condition.status.as_deref() == Some("True")
    })?;
    Some(Trouble {
        reason: "PodsRefused",
        message: failure
            .message
            .clone()
            .unwrap_or_else(|| "the namespace admits no pod".to_owned()),
        fault: Fault::Platform,
        is_final: true,
        since: failure.last_update_time.clone(),
    })
}

fn waiting(pod: &Pod, status: &ContainerStatus) -> Option<Trouble> {
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    let message = waiting.message.as_deref().unwrap_or("no reason given");
    let image = &status.image;
    let trouble = |reason, message, fault, is_final| {
        Some(Trouble {
            reason,
            message,
            fault,
            is_final,
            since: None,
        })
    };
    let volume = mounted_images(pod).find(|reference| message.contains(reference));
    match (waiting.reason.as_deref()?, volume) {
        (
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull",
            Some(reference),
        ) => trouble(
            "ModelImagePullFailed",
            format!("the image {reference}, which a model is on, can't be pulled: {message}"),
            Fault::Function,
            true,
        ),
        ("ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull", None) => {
            trouble(
                "RuntimeImagePullFailed",
                format!("the runtime's image {image} can't be pulled: {message}"),
                Fault::Platform,
                true,
            )
        }
        ("CreateContainerConfigError" | "CreateContainerError" | "RunContainerError", _) => {
            trouble(
                "ContainerFailed",
                format!("the pod {} can't be started: {message}", pod.name_any()),
                Fault::Platform,
                // The kubelet reads few Secrets a second: where many pods start, some try again.
                !message.contains("failed to sync"),
            )
        }
        ("CrashLoopBackOff", _) => ended(pod, status),
        _ => None,
    }
}

/// The images that a pod mounts.
fn mounted_images(pod: &Pod) -> impl Iterator<Item = &str> {
    let volumes = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| volume.image.as_ref()?.reference.as_deref())
}

/// Why the container ended, in its own words where it left some.
fn ended(pod: &Pod, status: &ContainerStatus) -> Option<Trouble> {
    let state = status
        .state
        .as_ref()
        .and_then(|state| state.terminated.as_ref());
    let last = status
        .last_state
        .as_ref()
        .and_then(|state| state.terminated.as_ref());
    let is_running = status
        .state
        .as_ref()
        .is_some_and(|state| state.running.is_some());
    // One that runs again may serve in a moment.
    let ended = state.or(last.filter(|_| !is_running))?;
    if let Some(message) = ended.message.as_deref().map(str::trim)
        && message.starts_with(NOT_ALL_HERE)
    {
        // The operator may be fetching and compiling it just now, as after its store was lost.
        return Some(Trouble {
            reason: "ArtifactsMissing",
            message: message.to_owned(),
            fault: Fault::Platform,
            is_final: false,
            since: ended.finished_at.clone(),
        });
    }
    if ended.reason.as_deref() == Some("OOMKilled") && has_less(pod, status) {
        return Some(Trouble {
            reason: "NotResized",
            message: format!(
                "the pod {} used more memory than its node gave it, which is less than the function asks for",
                pod.name_any()
            ),
            fault: Fault::Platform,
            is_final: false,
            since: ended.finished_at.clone(),
        });
    }
    let (reason, message, fault) = match (ended.reason.as_deref(), ended.message.as_deref().map(str::trim)) {
        (_, Some(message)) if !message.is_empty() => ("StartFailed", message.to_owned(), Fault::Function),
        (Some("OOMKilled"), _) => (
            "OutOfMemory",
            "the replica used more memory than spec.pod.resources.limits.memory, or what is derived of spec.limits, allows".to_owned(),
            Fault::Function,
        ),
        (_, _) if ended.exit_code == 0 => return None,
        (reason, _) => (
            "StartFailed",
            format!("the pod {} ended with code {} ({})", pod.name_any(), ended.exit_code, reason.unwrap_or("Error")),
            Fault::Function,
        ),
    };
    Some(Trouble {
        reason,
        message,
        fault,
        is_final: true,
        since: None,
    })
}

/// Whether the container may use less memory than its pod says: it was not resized yet.
fn has_less(pod: &Pod, status: &ContainerStatus) -> bool {
    let limit = |resources: &ResourceRequirements| memory(resources.limits.as_ref());
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let asked = containers
        .filter(|container| container.name == status.name)
        .find_map(|container| limit(container.resources.as_ref()?));
    let given = status.resources.as_ref().and_then(limit);
    given.is_some_and(|given| asked.is_none_or(|asked| given < asked))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::api::core::v1::Container;
    use serde_json::{Value, json};
    use wisp_contract::operator::pod::CLAIMED_RESTARTS;

    use super::*;

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": []}, "status": status,
        }))
        .unwrap()
    }

    fn container(state: Value, last: Value) -> Pod {
        pod(json!({"phase": "Running", "containerStatuses": [{
            "name": "function", "image": "runtime:1", "imageID": "", "ready": false, "restartCount": 1,
            "state": state, "lastState": last,
        }]}))
    }

    #[test]
    fn what_keeps_a_pod_from_serving_is_told_in_the_words_of_who_knows() {
        let none = json!({});
        let unschedulable = pod(json!({"conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes are available"},
        ]}));
        let cases = [
            (unschedulable, "Unschedulable", "0/2 nodes", false),
            (
                container(
                    json!({"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}),
                    none.clone(),
                ),
                "RuntimeImagePullFailed",
                "runtime:1",
                true,
            ),
            (
                container(
                    json!({"waiting": {"reason": "CreateContainerConfigError", "message": "secret \"x\" not found"}}),
                    none.clone(),
                ),
                "ContainerFailed",
                "secret",
                true,
            ),
            (
                container(
                    json!({"waiting": {"reason": "CrashLoopBackOff"}}),
                    json!({"terminated": {"exitCode": 1, "reason": "Error", "message": "the model `m` has no GPU\n"}}),
                ),
                "StartFailed",
                "the model `m` has no GPU",
                true,
            ),
            // Not the function's fault, and the next try may find it: else a revision would be given up for good because the
            // operator's store was lost.
            (
                container(
                    json!({"waiting": {"reason": "CrashLoopBackOff"}}),
                    json!({"terminated": {
                        "exitCode": 1, "reason": "Error", "finishedAt": "2026-01-01T00:00:00Z",
                        "message": format!("{NOT_ALL_HERE}: the artifact http://o/x can't be fetched"),
                    }}),
                ),
                "ArtifactsMissing",
                "can't be fetched",
                false,
            ),
            (
                container(
                    json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}),
                    none.clone(),
                ),
                "OutOfMemory",
                "limits.memory",
                true,
            ),
        ];
        for (pod, reason, message, is_final) in cases {
            let trouble = trouble(&pod).unwrap();
            assert_eq!((trouble.reason, trouble.is_final), (reason, is_final));
            assert!(trouble.message.contains(message), "{trouble:?}");
        }
    }

    /// Would fail if a function were given up for what its node didn't give it.
    #[test]
    fn what_a_node_did_not_give_is_no_fault_of_the_function() {
        let over = |given: Value, asked: Value| {
            let ended = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
            let mut pod = container(ended, json!({}));
            let resources = |limits: Value| serde_json::from_value(json!({"limits": limits})).ok();
            let status = pod.status.as_mut().unwrap();
            status.container_statuses.as_mut().unwrap()[0].resources = resources(given);
            pod.spec.as_mut().unwrap().containers = vec![Container {
                name: CONTAINER.to_owned(),
                resources: resources(asked),
                ..Container::default()
            }];
            let trouble = trouble(&pod).unwrap();
            (trouble.reason, trouble.is_sure())
        };
        let (less, more) = (json!({"memory": "512Mi"}), json!({"memory": "1Gi"}));
        let (functions, nodes) = (("OutOfMemory", true), ("NotResized", false));
        assert_eq!(over(less.clone(), more.clone()), nodes);
        assert_eq!(over(less.clone(), json!({})), nodes);
        assert_eq!(over(more.clone(), json!({"memory": "1024Mi"})), functions);
        assert_eq!(over(more, less), functions);
        assert_eq!(over(Value::Null, json!({"memory": "1Gi"})), functions);
    }

    /// Would fail if the page on what to watch lacked a reason, or told another that it is theirs to mend.
    #[test]
    fn every_trouble_is_told() {
        let page = include_str!("../../docs/watching.md");
        for (reason, fault) in Trouble::REASONS {
            let whose = match fault {
                Fault::Function => "| owner |",
                _ => "| installation |",
            };
            let word = format!("`{reason}`");
            let mut rows = page.lines().filter(|line| line.starts_with("| `Ready` "));
            assert!(
                rows.any(|row| row.contains(&word) && row.contains(whose)),
                "{reason}"
            );
        }
    }

    /// Would fail if a pod were of no use for having been started anew while it stood by, or went on being a function's
    /// after it has forgotten that.
    #[test]
    fn a_pod_that_is_started_anew_after_it_was_taken_is_spent() {
        let taken = |before: Option<&str>| {
            let mut pod = container(json!({"running": {}}), json!({}));
            let labels = BTreeMap::from([(CLAIMED_FROM.to_owned(), "default".to_owned())]);
            pod.metadata.labels = Some(labels);
            pod.metadata.annotations = before
                .map(|before| BTreeMap::from([(CLAIMED_RESTARTS.to_owned(), before.to_owned())]));
            pod
        };
        for before in [None, Some("0"), Some("x")] {
            assert!(is_spent(&taken(before)), "{before:?}");
        }
        assert!(!is_spent(&taken(Some("1"))) && is_alive(&taken(Some("1"))));
        let standing = container(json!({"running": {}}), json!({}));
        assert!(!is_spent(&standing) && is_alive(&standing));
        assert_ne!(life(&standing), life(&pod(json!({}))));
        // What a mesh injected began anew.
        let mut beside = taken(Some("0"));
        let containers = beside.status.as_mut().unwrap().container_statuses.as_mut();
        containers.unwrap()[0].name = "istio-proxy".to_owned();
        assert!(!is_spent(&beside) && is_alive(&beside));
    }

    /// Would fail if who wakes a function were told of a quota that was mended before: the condition outlives it.
    #[test]
    fn what_was_refused_before_may_be_admitted_now() {
        let refused_at = |second: &str| {
            let deployment = serde_json::from_value(json!({"status": {"conditions": [{
                "type": "ReplicaFailure", "status": "True", "message": "exceeded quota",
                "lastTransitionTime": second, "lastUpdateTime": second,
            }]}}));
            refused(&deployment.unwrap()).unwrap()
        };
        let began: Timestamp = "2026-01-01T00:00:05.7Z".parse().unwrap();
        let new = refused_at("2026-01-01T00:00:05Z");
        assert_eq!(new.clone().as_of(began), new);
        assert!(new.is_final);
        let old = refused_at("2026-01-01T00:00:04Z").as_of(began);
        assert_eq!((old.is_final, old.since), (false, Some(Time(began))));
        assert_eq!(old.message, "exceeded quota");
    }

    #[test]
    fn a_pod_that_starts_or_ends_is_in_no_trouble() {
        let creating = container(
            json!({"waiting": {"reason": "ContainerCreating"}}),
            json!({}),
        );
        assert_eq!(trouble(&creating), None);
        let again = container(
            json!({"running": {}}),
            json!({"terminated": {"exitCode": 1, "message": "x"}}),
        );
        assert_eq!(trouble(&again), None);
        let mut ending = container(
            json!({"terminated": {"exitCode": 1, "message": "x"}}),
            json!({}),
        );
        ending.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert_eq!(trouble(&ending), None);
    }
}
