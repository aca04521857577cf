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
use wisp_contract::log::chain;
use wisp_gateway::{Namespaces, UnknownNamespace};

use crate::counts::Counts;

/// For how long an answer holds for other connections from the same address, whose pod another may have next.
const KEPT: Duration = Duration::from_secs(5);
/// The same where a pod may yet be found.
const UNSURE: Duration = Duration::from_secs(1);
/// The longest that is asked for one address.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a pod is looked for: a kubelet tells a new one's address a second or two after its containers run.
const UNTOLD: Duration = Duration::from_secs(3);
/// How long to wait before it is looked for again; twice as long each time.
const PAUSE: Duration = Duration::from_millis(100);
/// The most that the API server is asked at once, whoever the clients are.
const AT_ONCE: usize = 4;
/// The same of clients that are most likely no pods: they don't stand in the way of those that are.
const STRANGERS_AT_ONCE: usize = 1;
/// How many addresses are kept before those that are over are cleared away.
const MANY: usize = 1024;

/// What was learnt of an address; its lock is held by who asks.
type Place = Arc<Mutex<Option<Learnt>>>;

struct Learnt {
    namespace: Result<Option<Arc<str>>, UnknownNamespace>,
    until: Instant,
}

impl Learnt {
    fn is_fresh(&self, now: Instant) -> bool {
        self.until > now
    }
}

/// The API server's pods by address.
pub(crate) struct Clients {
    pods: Api<Pod>,
    places: DashMap<IpAddr, Place>,
    /// When places were cleared away last.
    cleared: std::sync::Mutex<Instant>,
    asking: Semaphore,
    asking_of_strangers: Semaphore,
    counts: Arc<Counts>,
}

impl Clients {
    pub(crate) fn new(client: Client, counts: Arc<Counts>) -> Self {
        Self {
            pods: Api::all(client),
            places: DashMap::new(),
            cleared: std::sync::Mutex::new(Instant::now()),
            asking: Semaphore::new(AT_ONCE),
            asking_of_strangers: Semaphore::new(STRANGERS_AT_ONCE),
            counts,
        }
    }

    fn place(&self, client: IpAddr) -> Place {
        let now = Instant::now();
        if self.places.len() >= MANY && self.is_time_to_clear(now) {
            self.places.retain(|_, place| {
                // What can't be looked at is being asked for.
                place.try_lock().map_or(true, |learnt| {
                    learnt.as_ref().is_some_and(|learnt| learnt.is_fresh(now))
                })
            });
        }
        Arc::clone(&self.places.entry(client).or_default())
    }

    /// At most once for as long as anything holds that may be cleared away.
    fn is_time_to_clear(&self, now: Instant) -> bool {
        let cleared = self.cleared.try_lock();
        cleared.is_ok_and(|mut cleared| {
            let is_time = now.duration_since(*cleared) >= UNSURE;
            if is_time {
                *cleared = now;
            }
            is_time
        })
    }

    /// What was learnt a moment ago, or is now: who waits meanwhile gets the same, failure or not.
    async fn learn(&self, client: IpAddr) -> Result<Option<Arc<str>>, UnknownNamespace> {
        let place = self.place(client);
        let mut learnt = place.lock().await;
        let now = Instant::now();
        if let Some(learnt) = learnt.as_ref().filter(|learnt| learnt.is_fresh(now)) {
            return learnt.namespace.clone();
        }
        let asked = tokio::time::timeout(PATIENCE, self.ask(client)).await;
        let namespace = asked.unwrap_or_else(|_elapsed| {
            self.counts.clients.add();
            tracing::warn!(%client, "whose pod a client is took too long to learn");
            Err(UnknownNamespace)
        });
        let kept = match &namespace {
            Ok(None) if is_internal(client) => UNSURE,
            Ok(_) => KEPT,
            Err(UnknownNamespace) => UNSURE,
        };
        *learnt = Some(Learnt {
            namespace: namespace.clone(),
            until: Instant::now() + kept,
        });
        namespace
    }

    /// Asks until there is an answer, or it is likely that there is none.
    async fn ask(&self, client: IpAddr) -> Result<Option<Arc<str>>, UnknownNamespace> {
        let give_up = Instant::now() + UNTOLD;
        let mut pause = PAUSE;
        loop {
            let namespace = self.ask_once(client).await?;
            if namespace.is_some() || !is_internal(client) || Instant::now() >= give_up {
                return Ok(namespace);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    async fn ask_once(&self, client: IpAddr) -> Result<Option<Arc<str>>, UnknownNamespace> {
        let of_client = ListParams::default().fields(&format!("status.podIP={client}"));
        // It is never closed.
        let turns = match is_internal(client) {
            true => &self.asking,
            false => &self.asking_of_strangers,
        };
        let _asking = turns.acquire().await;
        match self.pods.list(&of_client).await {
            Ok(pods) => Ok(only(&pods.items)),
            Err(error) => {
                self.counts.clients.add();
                tracing::warn!(%client, error = chain(&error), "whose pod a client is could not be learnt");
                Err(UnknownNamespace)
            }
        }
    }
}

impl Namespaces for Clients {
    fn of(&self, client: IpAddr) -> BoxFuture<'_, Result<Option<Arc<str>>, UnknownNamespace>> {
        // No pod's: a port that is forwarded.
        if client.is_loopback() {
            return std::future::ready(Ok(None)).boxed();
        }
        self.learn(client).boxed()
    }
}

/// Whether a pod that isn't known yet is likely to have the address: networks of pods are private ones, or shared ones.
/// Whoever comes from elsewhere is looked up once.
fn is_internal(client: IpAddr) -> bool {
    wisp_address::is_private(client) || wisp_address::is_shared(client)
}

/// The namespace of the pod that has the address which all of these had at some time: one that stays, where others go.
/// Pods of the node's network share the node's.
fn only(pods: &[Pod]) -> Option<Arc<str>> {
    let is_over = |pod: &&Pod| {
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    };
    let of_node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
    let living = || pods.iter().filter(|pod| !is_over(pod));
    let stays = || living().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let mut having: Vec<_> = stays().collect();
    if having.is_empty() {
        having.extend(living());
    }
    match having[..] {
        [pod] if !of_node(pod) => pod.metadata.namespace.as_deref().map(Arc::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use http::Response;
    use http_body_util::Full;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use jiff::Timestamp;
    use k8s_openapi::api::core::v1::{PodSpec, PodStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use kube::core::ObjectList;
    use tokio::net::TcpListener;

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

    /// Asks an API server that answers with these pods, one list after the other, and then fails; and how often it was asked.
    async fn clients(lists: Vec<Vec<Pod>>) -> (Arc<Clients>, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let (count, lists) = (Arc::clone(&asked), Arc::new(lists));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (count, lists) = (Arc::clone(&count), Arc::clone(&lists));
                let service = service_fn(move |request: http::Request<_>| {
                    let query = request.uri().query().unwrap_or_default();
                    assert!(query.contains("status.podIP%3D"), "{query}");
                    let turn = count.fetch_add(1, Ordering::SeqCst);
                    let list = lists.get(turn).map(|pods| ObjectList {
                        types: kube::core::TypeMeta::list::<Pod>(),
                        metadata: Default::default(),
                        items: pods.clone(),
                    });
                    let (status, body) = match list {
                        Some(list) => (200, serde_json::to_vec(&list).unwrap()),
                        None => (403, b"{}".to_vec()),
                    };
                    let response = Response::builder()
                        .status(status)
                        .header("content-type", "application/json")
                        .body(Full::new(Bytes::from(body)));
                    async move { Ok::<_, Infallible>(response.unwrap()) }
                });
                let connection = http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        let config = kube::Config::new(format!("http://{address}").parse().unwrap());
        let client = Client::try_from(config).unwrap();
        (Arc::new(Clients::new(client, Arc::default())), asked)
    }

    /// Would fail if a pod that its kubelet hasn't told of yet were told that it is nowhere, or each of its connections
    /// were looked up.
    #[tokio::test]
    async fn a_new_pod_is_found_once_it_is_told_of() {
        let lists = vec![Vec::new(), Vec::new(), vec![pod("shop", "Running", false)]];
        let (clients, asked) = clients(lists).await;
        let client = "10.244.1.7".parse().unwrap();
        for _ in 0..3 {
            assert_eq!(clients.of(client).await, Ok(Some("shop".into())));
        }
        assert_eq!(asked.load(Ordering::SeqCst), 3);
    }

    /// Would fail if whoever comes from elsewhere, however often, kept the API server busy.
    #[tokio::test]
    async fn a_stranger_is_looked_up_once() {
        let (clients, asked) = clients(vec![Vec::new()]).await;
        let many = (0..8).map(|_| clients.of("8.8.8.8".parse().unwrap()));
        for found in futures::future::join_all(many).await {
            assert_eq!(found, Ok(None));
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        assert_eq!(clients.of("127.0.0.1".parse().unwrap()).await, Ok(None));
        assert_eq!(
            asked.load(Ordering::SeqCst),
            1,
            "of loopback nothing is asked"
        );
    }

    /// Would fail if everybody who waits while the API server fails asked it in turn, each for as long as it takes.
    #[tokio::test]
    async fn a_failure_is_shared_by_who_waits() {
        let (clients, asked) = clients(Vec::new()).await;
        let many = (0..8).map(|_| clients.of("10.244.1.7".parse().unwrap()));
        for found in futures::future::join_all(many).await {
            assert_eq!(found, Err(UnknownNamespace));
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        assert!(clients.counts.text(true).contains("lookup_errors_total 1"));
    }

    /// Would fail if strangers kept the API server busy, or a pod that has just begun were told that it is nowhere.
    #[test]
    fn only_who_may_be_a_new_pod_is_looked_for_again() {
        for (client, expected) in [
            ("10.244.1.7", true),
            ("192.168.3.4", true),
            ("100.64.0.9", true),
            ("fd00:10:244::7", true),
            ("8.8.8.8", false),
            ("100.128.0.1", false),
            ("2606:4700::1", false),
        ] {
            assert_eq!(is_internal(client.parse().unwrap()), expected, "{client}");
        }
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
        let mut goes = pod("old", "Running", false);
        goes.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        assert_eq!(
            only(&[goes.clone(), lives.clone()]).as_deref(),
            Some("shop")
        );
        assert_eq!(only(&[goes]).as_deref(), Some("old"), "it may still ask");
        assert_eq!(only(&[lives, pod("other", "Running", false)]), None);
        assert_eq!(only(&[pod("kube-system", "Running", true)]), None);
    }
}
