//! Who leads: one operator at a time, by a Lease. The leader's pod has a label that the operator's Service selects by.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::sync::watch;
use uuid::Uuid;
use wisp_contract::log::chain;

use crate::live::lock;
use crate::names::{LEADER_LABEL, LEASE};

/// So long a leader leads that isn't heard of.
const LEASE_SECONDS: i32 = 15;
/// How often it is heard of.
const RENEW: Duration = Duration::from_secs(2);
/// So long the API server has to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// So long the API server has when this process ends: the kubelet waits for it.
const FAREWELL: Duration = Duration::from_secs(5);
/// How often it is told again that it doesn't.
const REMINDER: Duration = Duration::from_secs(30);
/// What no pod's name has in it.
const AFTER_POD: char = '_';

/// A candidate, and the leader once it is.
pub struct Leader {
    leases: Api<Lease>,
    pods: Api<Pod>,
    pod: Option<String>,
    identity: String,
    /// Another's Lease as it was seen last, and since when.
    seen: Mutex<Option<(LeaseSpec, Instant)>>,
}

impl Leader {
    /// A candidate in `namespace`. `pod` is its own pod, to be labelled.
    #[must_use]
    pub fn new(client: Client, namespace: &str, pod: Option<String>) -> Self {
        // A restarted container is another candidate than it was before: nobody may lead twice.
        let id = Uuid::new_v4().simple();
        let identity = match &pod {
            Some(pod) => format!("{pod}{AFTER_POD}{id}"),
            None => id.to_string(),
        };
        Self {
            leases: Api::namespaced(client.clone(), namespace),
            pods: Api::namespaced(client, namespace),
            pod,
            identity,
            seen: Mutex::default(),
        }
    }

    /// Waits until this process leads.
    pub async fn acquire(&self) {
        // A container before this one may have led. Should this fail, what comes to a standby is refused and tried again.
        if let Err(error) = within(PATIENCE, self.label_own(false)).await {
            tracing::warn!(error, "this pod's label can't be removed");
        }
        loop {
            match within(PATIENCE, self.take()).await {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => tracing::warn!(error, "the Lease can't be had"),
            }
            tokio::time::sleep(RENEW).await;
        }
        tracing::info!(identity = self.identity, "this operator leads");
    }

    /// Labels this process's pod as the leader's, and renews until another leads: then this process must do nothing more.
    ///
    /// An API server that doesn't answer makes nobody else the leader, and what was deployed is to wake meanwhile. Should
    /// only this process be cut off from it, two lead for a while, and nothing is lost: this one can write nothing, and a
    /// pod that stands by takes the Assignment of one of them alone; whoever leads in the end asks the pods what they are.
    /// Once another may lead, `doubt` is told again and again: connections that are kept lead to this process, whoever does.
    pub async fn hold(&self, doubt: &watch::Sender<()>) {
        let mut renewed = Instant::now();
        let mut told = None::<Instant>;
        let mut is_labelled = self.announce().await;
        loop {
            tokio::time::sleep(RENEW).await;
            let error = match within(PATIENCE, self.renew()).await {
                Ok(true) => {
                    if told.take().is_some() {
                        tracing::info!(
                            "the API server answers again, and this operator still leads"
                        );
                    }
                    renewed = Instant::now();
                    is_labelled = is_labelled || self.announce().await;
                    continue;
                }
                Ok(false) => return,
                Err(error) => error,
            };
            if renewed.elapsed().as_secs() >= u64::from(LEASE_SECONDS.unsigned_abs()) {
                doubt.send_replace(());
            }
            if told.is_none_or(|told| told.elapsed() >= REMINDER) {
                told = Some(Instant::now());
                let seconds = renewed.elapsed().as_secs();
                tracing::warn!(
                    error,
                    seconds,
                    "the Lease can't be renewed; this operator leads on"
                );
            }
        }
    }

    /// Lets another lead at once.
    pub async fn release(&self) {
        let released = async {
            self.label_own(false).await?;
            self.give_up().await
        };
        if let Err(error) = within(FAREWELL, released).await {
            tracing::debug!(error, "the Lease could not be released");
        }
    }

    async fn give_up(&self) -> Result<(), kube::Error> {
        let Some(mut lease) = self.leases.get_opt(LEASE).await? else {
            return Ok(());
        };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_ref() != Some(&self.identity) {
            return Ok(());
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        let parameters = PostParams::default();
        self.leases
            .replace(LEASE, &parameters, &lease)
            .await
            .map(drop)
    }

    /// Takes the Lease, where it is free.
    async fn take(&self) -> Result<bool, kube::Error> {
        let lease = self.leases.get_opt(LEASE).await?;
        if let Some(spec) = lease.as_ref().and_then(|lease| lease.spec.as_ref())
            && !self.may_take(spec).await
        {
            return Ok(false);
        }
        self.write(lease).await
    }

    /// Renews it. What another took meanwhile isn't taken back, even where that one is gone: this process has to begin anew.
    async fn renew(&self) -> Result<bool, kube::Error> {
        let lease = self.leases.get_opt(LEASE).await?;
        if !self.may_hold(lease.as_ref()) {
            return Ok(false);
        }
        if self.write(lease).await? {
            return Ok(true);
        }
        // Whoever wrote it meanwhile needn't be another candidate: this one's last attempt, which it didn't wait for any more,
        // may have come through late.
        let lease = self.leases.get_opt(LEASE).await?;
        Ok(self.may_hold(lease.as_ref()))
    }

    /// Whether no other candidate holds the Lease.
    fn may_hold(&self, lease: Option<&Lease>) -> bool {
        let spec = lease.and_then(|lease| lease.spec.as_ref());
        spec.is_none_or(|spec| spec.holder_identity.as_ref() == Some(&self.identity))
    }

    /// Writes it as this candidate's. The API server refuses all but one of those who try at once.
    async fn write(&self, lease: Option<Lease>) -> Result<bool, kube::Error> {
        let now = Timestamp::now();
        let result = match lease {
            None => {
                let lease = Lease {
                    metadata: ObjectMeta {
                        name: Some(LEASE.to_owned()),
                        ..ObjectMeta::default()
                    },
                    spec: Some(next(None, &self.identity, now)),
                };
                self.leases.create(&PostParams::default(), &lease).await
            }
            Some(mut lease) => {
                lease.spec = Some(next(lease.spec.as_ref(), &self.identity, now));
                self.leases
                    .replace(LEASE, &PostParams::default(), &lease)
                    .await
            }
        };
        match result {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether this candidate may hold the Lease from now on.
    async fn may_take(&self, lease: &LeaseSpec) -> bool {
        if is_free(lease, &self.identity, self.unchanged(lease, Instant::now())) {
            return true;
        }
        let Some(pod) = lease.holder_identity.as_deref().and_then(pod_of) else {
            return false;
        };
        let it = ListParams::default().fields(&format!("metadata.name={pod}"));
        match self.pods.list(&it).await {
            Ok(pods) => is_over(pod, self.pod.as_deref(), &pods.items),
            Err(error) => {
                tracing::warn!(pod, %error, "whether the leader's pod is there can't be found out");
                false
            }
        }
    }

    /// How long another's Lease has been as it is, as far as this candidate saw: by its own clock, which the leader's machine needn't
    /// agree with.
    fn unchanged(&self, lease: &LeaseSpec, now: Instant) -> Duration {
        let mut seen = lock(&self.seen);
        match &*seen {
            Some((known, since)) if known == lease => now.saturating_duration_since(*since),
            _ => {
                *seen = Some((lease.clone(), now));
                Duration::ZERO
            }
        }
    }

    /// Has the operator's Service lead to this process alone. Returns whether it does.
    async fn announce(&self) -> bool {
        let announced = async {
            self.label_own(true).await?;
            self.unlabel_others().await
        };
        let announced = within(PATIENCE, announced).await;
        if let Err(error) = &announced {
            tracing::warn!(
                error,
                "the leader's pod can't be labelled as that: the gateways don't find it; trying again"
            );
        }
        announced.is_ok()
    }

    /// A leader that died left its label behind.
    async fn unlabel_others(&self) -> Result<(), kube::Error> {
        let labelled = ListParams::default().labels(&format!("{LEADER_LABEL}=true"));
        for pod in self.pods.list(&labelled).await? {
            if Some(pod.name_any()) != self.pod {
                self.label(&pod.name_any(), false).await?;
            }
        }
        Ok(())
    }

    async fn label_own(&self, leads: bool) -> Result<(), kube::Error> {
        match &self.pod {
            Some(pod) => self.label(pod, leads).await,
            None => Ok(()),
        }
    }

    async fn label(&self, pod: &str, leads: bool) -> Result<(), kube::Error> {
        let value = if leads { json!("true") } else { json!(null) };
        let patch = Patch::Merge(json!({"metadata": {"labels": {LEADER_LABEL: value}}}));
        let labelled = self
            .pods
            .patch_metadata(pod, &PatchParams::default(), &patch)
            .await;
        match labelled {
            // It is no more.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            other => other.map(drop),
        }
    }
}

/// What comes of it, or why nothing does.
async fn within<T>(
    patience: Duration,
    asked: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, String> {
    match tokio::time::timeout(patience, asked).await {
        Ok(result) => result.map_err(|error| chain(&error)),
        Err(_) => Err(format!("no answer within {} s", patience.as_secs())),
    }
}

/// The pod of a candidate that is one.
fn pod_of(identity: &str) -> Option<&str> {
    identity.rsplit_once(AFTER_POD).map(|(pod, _)| pod)
}

/// Whether the leader in `pod` has ended and could not say so: it was killed. `own` is the candidate's pod, `found` the pods
/// of the leader's name.
///
/// The kubelet starts a container anew when the one before it has ended, and a pod is gone when its containers have. Where
/// somebody forces a pod away, or its node isn't heard of any more, they may run for a while; [`Leader::hold`] bears that.
fn is_over(pod: &str, own: Option<&str>, found: &[Pod]) -> bool {
    let has_ended = |pod: &Pod| {
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    };
    own == Some(pod) || found.iter().all(has_ended)
}

/// Whether `identity` may take a Lease that has been as it is for so long.
fn is_free(lease: &LeaseSpec, identity: &str, unchanged: Duration) -> bool {
    let holder = lease.holder_identity.as_deref().unwrap_or_default();
    if holder.is_empty() || holder == identity {
        return true;
    }
    let seconds = lease.lease_duration_seconds.unwrap_or(LEASE_SECONDS).max(1);
    unchanged > Duration::from_secs(seconds.unsigned_abs().into())
}

/// The Lease that `identity` writes.
fn next(lease: Option<&LeaseSpec>, identity: &str, now: Timestamp) -> LeaseSpec {
    let mut next = lease.cloned().unwrap_or_default();
    if next.holder_identity.as_deref() != Some(identity) {
        next.acquire_time = Some(MicroTime(now));
        next.lease_transitions = Some(next.lease_transitions.unwrap_or(0).saturating_add(1));
    }
    next.holder_identity = Some(identity.to_owned());
    next.lease_duration_seconds = Some(LEASE_SECONDS);
    next.renew_time = Some(MicroTime(now));
    next
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use k8s_openapi::api::core::v1::PodStatus;
    use serde_json::Value;

    use super::*;
    use crate::api_server::{self, refusal};
    use crate::live::lock;

    /// Would fail if two could lead at once, or nobody could follow a leader that died.
    #[tokio::test]
    async fn a_lease_is_free_once_its_holder_was_silent_for_its_length() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let leader = Leader::new(api_server::client(|_, _| refusal(404)), "n", None);
        let began = Instant::now();
        let free = |lease: &LeaseSpec, after: u64| {
            let unchanged = leader.unchanged(lease, began + Duration::from_secs(after));
            is_free(lease, "b", unchanged)
        };
        let length = u64::from(LEASE_SECONDS.unsigned_abs());
        assert!(is_free(&LeaseSpec::default(), "b", Duration::ZERO));
        // Of a machine whose clock is an hour behind, or ahead.
        let lease = next(None, "a", at(100));
        assert!(is_free(&lease, "a", Duration::ZERO));
        assert!(!free(&lease, 0) && !free(&lease, length));
        let renewed = next(Some(&lease), "a", at(102));
        assert!(!free(&renewed, length + 1), "it is heard of");
        assert!(!free(&renewed, 2 * length));
        assert!(free(&renewed, 2 * length + 2));
        let taken = next(Some(&lease), "b", at(120));
        assert_eq!(taken.lease_transitions, Some(2));
        assert_eq!(
            next(Some(&taken), "b", at(122)).acquire_time,
            taken.acquire_time
        );
        let pod =
            |identity: &LeaseSpec| pod_of(identity.holder_identity.as_deref()?).map(str::to_owned);
        assert_eq!(pod(&taken), None);
        assert_eq!(
            pod(&next(None, "wisp-operator-1_2", at(1))).as_deref(),
            Some("wisp-operator-1")
        );
        let mut released = taken;
        released.holder_identity = Some(String::new());
        assert!(is_free(&released, "a", Duration::ZERO));
    }

    /// Would fail if a leader whose pod can't be labelled for a while never got its label: no gateway would find it.
    #[tokio::test]
    async fn a_leader_is_found_as_soon_as_its_pod_can_be_labelled() {
        let lease = Arc::new(Mutex::new(None::<Value>));
        let labels = Arc::new(Mutex::new(Vec::<Value>::new()));
        let (written, told) = (Arc::clone(&lease), Arc::clone(&labels));
        let client = api_server::client(move |asked, sent| {
            let (method, path) = asked.split_once(' ').unwrap();
            match (method, path.contains("/leases")) {
                ("GET", true) => match lock(&written).clone() {
                    Some(lease) => (200, lease),
                    None => refusal(404),
                },
                (_, true) => (200, lock(&written).insert(sent).clone()),
                ("GET", false) => (
                    200,
                    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": []}),
                ),
                (_, false) => {
                    let mut told = lock(&told);
                    told.push(sent["metadata"]["labels"][LEADER_LABEL].clone());
                    // What is written first is that it doesn't lead.
                    match told.len() {
                        2 | 3 => refusal(500),
                        _ => (
                            200,
                            json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {"name": "p"}}),
                        ),
                    }
                }
            }
        });
        let leader = Arc::new(Leader::new(client, "n", Some("p".to_owned())));
        leader.acquire().await;
        let holder = Arc::clone(&leader);
        let doubt = watch::Sender::new(());
        let held = tokio::spawn(async move { holder.hold(&doubt).await });
        while lock(&labels).len() < 4 {
            assert!(!held.is_finished());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        held.abort();
        leader.release().await;
        let (leads, does_not) = (json!("true"), json!(null));
        let expected = [&does_not, &leads, &leads, &leads, &does_not];
        assert_eq!(lock(&labels).iter().collect::<Vec<_>>(), expected);
        let holder = lock(&lease).as_ref().unwrap()["spec"]["holderIdentity"].clone();
        assert_eq!(holder, "");
    }

    /// Would fail if a leader gave up because of what it wrote itself, or led on after another took its Lease.
    #[tokio::test]
    async fn a_lease_that_was_written_meanwhile_is_lost_only_if_another_holds_it() {
        let holder = Arc::new(Mutex::new(String::new()));
        let next = Arc::new(Mutex::new(None::<String>));
        let (written, meanwhile) = (Arc::clone(&holder), Arc::clone(&next));
        let client = api_server::client(move |asked, _| {
            let mut holder = lock(&written);
            if asked.starts_with("GET") {
                let spec = json!({"holderIdentity": *holder});
                let metadata = json!({"name": LEASE, "resourceVersion": "1"});
                return (200, json!({"metadata": metadata, "spec": spec}));
            }
            if let Some(next) = lock(&meanwhile).take() {
                *holder = next;
            }
            refusal(409)
        });
        let leader = Leader::new(client, "n", None);
        leader.identity.clone_into(&mut lock(&holder));
        assert!(leader.renew().await.unwrap(), "its own late write");
        *lock(&next) = Some("another".to_owned());
        assert!(!leader.renew().await.unwrap());
    }

    /// Would fail if a leader that was killed were waited for, or one that lives were not.
    #[test]
    fn a_leader_is_over_when_its_pod_is() {
        let pod = |phase: &str| Pod {
            status: Some(PodStatus {
                phase: Some(phase.to_owned()),
                ..PodStatus::default()
            }),
            ..Pod::default()
        };
        for (own, found, over) in [
            (Some("b"), vec![], true),
            (Some("b"), vec![pod("Failed")], true),
            (Some("b"), vec![pod("Succeeded")], true),
            (Some("b"), vec![pod("Running")], false),
            (Some("b"), vec![Pod::default()], false),
            (None, vec![pod("Running")], false),
            // An earlier container of the candidate's own pod.
            (Some("a"), vec![pod("Running")], true),
        ] {
            assert_eq!(is_over("a", own, &found), over, "{own:?} {found:?}");
        }
    }
}
