//! In which namespaces clients are: the API server is asked whose pod an address is.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::sync::{Mutex, Semaphore};
use wisp_gateway::{Namespaces, UnknownNamespace};

use crate::counts::Counts;
use crate::logs::chain;

/// For how long an answer holds for other connections from the same address, whose pod another may have next.
const KEPT: Duration = Duration::from_secs(5);
/// The same where no pod was found.
const NOBODYS: Duration = Duration::from_secs(1);
/// The longest that a client waits.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a pod is looked for: a kubelet tells a new one's address a second or two after its containers run.
const UNTOLD: Duration = Duration::from_secs(3);
/// How long to wait before it is looked for again; twice as long each time.
const PAUSE: Duration = Duration::from_millis(100);
/// The most addresses that are asked for at once.
const AT_ONCE: usize = 8;
/// How many addresses are kept before those that are over are cleared away.
const MANY: usize = 1024;

/// What was learnt of an address; its lock is held by who asks.
type Place = Arc<Mutex<Option<Learnt>>>;

#[derive(Clone)]
struct Learnt {
    namespace: Option<Arc<str>>,
    until: Instant,
}

/// The API server's pods by address.
pub(crate) struct Clients {
    pods: Api<Pod>,
    places: DashMap<IpAddr, Place>,
    asking: Semaphore,
    counts: Arc<Counts>,
}

impl Clients {
    pub(crate) fn new(client: Client, counts: Arc<Counts>) -> Self {
        Self {
            pods: Api::all(client),
            places: DashMap::new(),
            asking: Semaphore::new(AT_ONCE),
            counts,
        }
    }

    fn place(&self, client: IpAddr) -> Place {
        if self.places.len() >= MANY {
            let now = Instant::now();
            self.places.retain(|_, place| {
                // Who can't be looked at is being asked for.
                place
                    .try_lock()
                    .map_or(true, |learnt| is_fresh(learnt.as_ref(), now))
            });
        }
        Arc::clone(&self.places.entry(client).or_default())
    }

    async fn learn(&self, client: IpAddr) -> Result<Option<Arc<str>>, UnknownNamespace> {
        let place = self.place(client);
        let mut learnt = place.lock().await;
        let now = Instant::now();
        if let Some(fresh) = learnt.as_ref().filter(|fresh| fresh.until > now) {
            return Ok(fresh.namespace.clone());
        }
        let namespace = self.ask(client).await?;
        let kept = if namespace.is_some() { KEPT } else { NOBODYS };
        *learnt = Some(Learnt {
            namespace: namespace.clone(),
            until: Instant::now() + kept,
        });
        Ok(namespace)
    }

    /// Asks until there is an answer, or it is likely that there is none.
    async fn ask(&self, client: IpAddr) -> Result<Option<Arc<str>>, UnknownNamespace> {
        // Never closed.
        let _place = self.asking.acquire().await;
        let of_client = ListParams::default().fields(&format!("status.podIP={client}"));
        let give_up = Instant::now() + UNTOLD;
        let mut pause = PAUSE;
        loop {
            let pods = self.pods.list(&of_client).await.map_err(|error| {
                self.counts.clients.add();
                tracing::warn!(%client, error = chain(&error), "whose pod a client is could not be learnt");
                UnknownNamespace
            })?;
            let namespace = only(&pods.items);
            if namespace.is_some() || Instant::now() >= give_up {
                return Ok(namespace);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
}

impl Namespaces for Clients {
    fn of(&self, client: IpAddr) -> BoxFuture<'_, Result<Option<Arc<str>>, UnknownNamespace>> {
        // No pod's: a port that is forwarded.
        if client.is_loopback() {
            return std::future::ready(Ok(None)).boxed();
        }
        async move {
            let learnt = tokio::time::timeout(PATIENCE, self.learn(client)).await;
            learnt.unwrap_or(Err(UnknownNamespace))
        }
        .boxed()
    }
}

fn is_fresh(learnt: Option<&Learnt>, now: Instant) -> bool {
    learnt.is_some_and(|learnt| learnt.until > now)
}

/// The namespace of the pod that has the address which all of these had at some time. Pods of the node's network share
/// the node's.
fn only(pods: &[Pod]) -> Option<Arc<str>> {
    let is_over = |pod: &&Pod| {
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    };
    let of_node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
    let mut living = pods.iter().filter(|pod| !is_over(pod));
    match (living.next(), living.next()) {
        (Some(pod), None) if !of_node(pod) => pod.metadata.namespace.as_deref().map(Arc::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{PodSpec, PodStatus};

    use super::*;

    fn pod(namespace: &str, phase: &str, host_network: bool) -> Pod {
        let mut pod = Pod {
            spec: Some(PodSpec {
                host_network: host_network.then_some(true),
                ..PodSpec::default()
            }),
            status: Some(PodStatus {
                phase: Some(phase.to_owned()),
                ..PodStatus::default()
            }),
            ..Pod::default()
        };
        pod.metadata.namespace = Some(namespace.to_owned());
        pod
    }

    /// Would fail if a client were taken for one of a namespace that it may not be of.
    #[test]
    fn an_address_is_of_the_one_pod_that_has_it() {
        let (ended, lives) = (
            pod("old", "Succeeded", false),
            pod("shop", "Running", false),
        );
        assert_eq!(only(&[]), None);
        assert_eq!(only(std::slice::from_ref(&ended)), None);
        assert_eq!(only(&[ended, lives.clone()]).as_deref(), Some("shop"));
        assert_eq!(only(&[lives, pod("other", "Running", false)]), None);
        assert_eq!(only(&[pod("kube-system", "Running", true)]), None);
    }
}
