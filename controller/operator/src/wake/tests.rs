use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use kube::core::Status;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use wisp_api::Function;

use super::*;
use crate::autoscale::Seen;
use crate::cluster::Feed;
use crate::live::{Claim, Plan};
use crate::pool::Misfit;

/// An API server that is never asked.
#[derive(Clone)]
struct Nobody;

impl tower_service::Service<http::Request<kube::client::Body>> for Nobody {
    type Response = http::Response<kube::client::Body>;
    type Error = Infallible;
    type Future = std::future::Pending<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<kube::client::Body>) -> Self::Future {
        std::future::pending()
    }
}

/// Makes a pod as soon as it is asked for one, unless that fails.
struct Maker {
    cluster: Arc<Cluster>,
    asked: Arc<AtomicUsize>,
    failures: Failures,
    pod: Value,
}

/// How asking for pods fails: once each.
type Failures = Arc<Mutex<VecDeque<ScaleError>>>;

impl Capacity for Maker {
    fn provide<'a>(
        &'a self,
        function: &'a FunctionId,
        _: &'a Span,
    ) -> BoxFuture<'a, Result<Option<Replica>, ScaleError>> {
        Box::pin(async move { self.insist(function).await.map(|()| None) })
    }

    fn insist<'a>(&'a self, function: &'a FunctionId) -> BoxFuture<'a, Result<(), ScaleError>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            if let Some(failure) = lock(&self.failures).pop_front() {
                return Err(failure);
            }
            self.cluster.pods.apply(Event::Apply(
                serde_json::from_value(self.pod.clone()).unwrap(),
            ));
            self.cluster.notify(function);
            Ok(())
        })
    }
}

struct Bench {
    waker: Arc<Waker>,
    cluster: Arc<Cluster>,
    live: Arc<Functions>,
    asked: Arc<AtomicUsize>,
    failures: Failures,
    id: FunctionId,
    feed: Feed,
}

fn pod(status: Value) -> Value {
    json!({
        "metadata": {
            "name": "p", "namespace": "n", "labels": {"wisp.dev/function": "f", "wisp.dev/revision": "f-1"},
            "annotations": {"wisp.dev/concurrency": "7"},
        },
        "spec": {"containers": []}, "status": status,
    })
}

impl Bench {
    /// A function `n/f` with the revision `f-1`, whose pods have this status, and answer probes at this port.
    fn new(status: Value, port: u16) -> Self {
        let (cluster, mut feed) = Cluster::new();
        let mut function = Function::new("f", Default::default());
        function.metadata.namespace = Some("n".into());
        feed.store().apply_watcher_event(&Event::Apply(function));
        let (live, metrics) = (Arc::new(Functions::default()), Arc::new(Metrics::default()));
        let id: FunctionId = "n/f".parse().unwrap();
        let plan = Plan {
            latest: "f-1".into(),
            serving: "f-1".into(),
            scaled_at: None,
        };
        let known = live.enter(&id, "");
        *lock(&known.plan) = Some(plan);
        known.remember("f-1", Err(Misfit::Volumes));
        let client = kube::Client::new(Nobody, "n");
        let autoscaler = Autoscaler::new(
            client,
            Arc::clone(&cluster),
            Arc::clone(&live),
            Arc::clone(&metrics),
        );
        let asked = Arc::new(AtomicUsize::new(0));
        let failures = Failures::default();
        let maker = Maker {
            cluster: Arc::clone(&cluster),
            asked: Arc::clone(&asked),
            failures: Arc::clone(&failures),
            pod: pod(status),
        };
        let mut waker = Waker::new(
            Arc::clone(&cluster),
            Arc::clone(&live),
            Arc::new(autoscaler),
            Arc::new(maker),
            metrics,
            Traces::off(),
        );
        waker.control_port = port;
        Self {
            waker: Arc::new(waker),
            cluster,
            live,
            asked,
            failures,
            id,
            feed,
        }
    }

    async fn ensure(&self) -> Result<Ensured, WakeError> {
        tokio::time::timeout(Duration::from_secs(20), self.waker.ensure(&self.id, None))
            .await
            .unwrap()
    }
}

/// Answers probes on a loopback port.
async fn replica() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 256]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        }
    });
    port
}

/// Would fail if each who asks woke a replica, or one waited for the kubelet's word.
#[tokio::test]
async fn all_who_ask_share_one_wake_up_and_are_answered_before_the_pod_is_called_ready() {
    let bench = Bench::new(
        json!({"phase": "Running", "podIP": "127.0.0.1"}),
        replica().await,
    );
    let all = futures::future::join_all((0..200).map(|_| bench.ensure())).await;
    for ensured in all {
        let replicas = ensured.unwrap().replicas;
        assert_eq!((replicas.len(), replicas[0].concurrency), (1, 7));
        assert_eq!(replicas[0].address.to_string(), "127.0.0.1:8080");
    }
    assert_eq!(bench.asked.load(Ordering::SeqCst), 1);
}

/// An answer of the API server, or that there is none.
fn refusal(code: Option<u16>) -> ScaleError {
    let source = code.map_or_else(
        || kube::Error::Service("connection refused".into()),
        |code| kube::Error::Api(Status::failure("it is so", "Why").with_code(code).boxed()),
    );
    ScaleError::Api {
        revision: "f-1".into(),
        replicas: 1,
        source,
    }
}

/// Would fail if a fault that passes were told to everybody who waits, or if they waited in vain for what nobody allows, or for an
/// API server that isn't there.
#[tokio::test]
async fn pods_are_asked_for_again_where_that_may_go_otherwise() {
    let bench = async |codes: &[Option<u16>]| {
        let running = json!({"phase": "Running", "podIP": "127.0.0.1"});
        let bench = Bench::new(running, replica().await);
        lock(&bench.failures).extend(codes.iter().map(|code| refusal(*code)));
        bench
    };
    let count = |bench: &Bench| bench.asked.load(Ordering::SeqCst);
    let passes = bench(&[Some(409), None, Some(500)]).await;
    assert_eq!(passes.ensure().await.unwrap().replicas.len(), 1);
    assert_eq!(count(&passes), 4);

    for (codes, asked) in [(&[Some(403); 9], 1), (&[None; 9], 4)] {
        let refused = bench(codes).await;
        let error = refused.ensure().await.unwrap_err();
        assert_eq!(error, WakeError::Scale(refused.id.clone()));
        assert_eq!(count(&refused), asked, "{codes:?}");
    }

    let mut lasts = bench(&[Some(500); 9]).await;
    let waker = Arc::into_inner(lasts.waker).unwrap();
    lasts.waker = Arc::new(waker.within(Duration::from_millis(500)));
    let error = lasts.ensure().await.unwrap_err();
    assert_eq!(error.reason(), "start-timeout");
    assert!(error.to_string().contains("could not be set"), "{error}");
    assert!(count(&lasts) > 1);
}

/// Would fail if what came of one wake-up were told to who asks long after it.
#[tokio::test]
async fn a_wake_up_that_is_over_is_not_joined() {
    let bench = Bench::new(
        json!({"phase": "Running", "podIP": "127.0.0.1"}),
        replica().await,
    );
    bench.ensure().await.unwrap();
    bench.cluster.pods.apply(Event::Delete(
        serde_json::from_value(pod(json!({}))).unwrap(),
    ));
    bench.ensure().await.unwrap();
    assert_eq!(bench.asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_replica_that_is_ready_is_told_at_once() {
    let status = json!({
        "phase": "Running", "podIP": "10.0.0.9", "conditions": [{"type": "Ready", "status": "True"}],
    });
    let bench = Bench::new(json!({}), 1);
    bench
        .cluster
        .pods
        .apply(Event::Apply(serde_json::from_value(pod(status)).unwrap()));
    assert_eq!(
        bench.ensure().await.unwrap().replicas[0]
            .address
            .to_string(),
        "10.0.0.9:8080"
    );
    assert_eq!(bench.asked.load(Ordering::SeqCst), 0);
}

/// Would fail if who waits were told of a failed start only when the time is up.
#[tokio::test]
async fn a_start_that_failed_is_told_in_the_hosts_own_words() {
    let status = json!({"phase": "Running", "podIP": "127.0.0.1", "containerStatuses": [{
        "name": "function", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": 1, "reason": "Error", "message": "the model `m` can't be loaded"}},
    }]});
    let bench = Bench::new(status, 1);
    let error = bench.ensure().await.unwrap_err();
    assert_eq!(error.to_string(), "the model `m` can't be loaded");
    assert_eq!(
        (error.reason(), error.fault()),
        ("start-failed", Fault::Function)
    );
    assert!(error.retry_after().is_some());
}

/// Would fail if who waits were told that a change can't serve that was never tried before, where what it changed can.
#[tokio::test]
async fn a_revision_on_trial_that_fails_gives_way_to_the_one_before() {
    let bench = Bench::new(
        json!({"phase": "Running", "podIP": "127.0.0.1"}),
        replica().await,
    );
    let live = bench.live.get(&bench.id).unwrap();
    let nothing = Seen {
        desired: 0,
        alive: &Default::default(),
        ready: &Default::default(),
        troubles: &Default::default(),
    };
    let serving = lock(&live.rollout).promote(Some("f-1"), "f-2", nothing);
    *lock(&live.plan) = Some(Plan {
        latest: serving.clone(),
        serving,
        scaled_at: None,
    });
    let mut fails = pod(json!({"phase": "Running", "containerStatuses": [{
        "name": "function", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": 1, "reason": "Error", "message": "it traps"}},
    }]}));
    fails["metadata"]["name"] = "q".into();
    fails["metadata"]["labels"]["wisp.dev/revision"] = "f-2".into();
    bench
        .cluster
        .pods
        .apply(Event::Apply(serde_json::from_value(fails).unwrap()));
    assert_eq!(bench.ensure().await.unwrap().replicas.len(), 1);
    assert_eq!(bench.asked.load(Ordering::SeqCst), 2);
    let plan = live.plan().unwrap();
    assert_eq!((&*plan.serving, &*plan.latest), ("f-1", "f-2"));
    let rollout = lock(&live.rollout);
    assert_eq!(rollout.failure("f-2").unwrap().message, "it traps");
}

#[tokio::test]
async fn what_no_node_takes_is_told_once_it_has_lasted() {
    let unschedulable = |since: &str| {
        json!({"phase": "Pending", "conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/2 nodes are available", "lastTransitionTime": since,
        }]})
    };
    let bench = Bench::new(unschedulable("2026-01-01T00:00:00Z"), 1);
    let error = bench.ensure().await.unwrap_err();
    assert!(error.to_string().contains("0/2 nodes"), "{error}");
    assert_eq!(error.fault(), Fault::Platform);
    let bench = Bench::new(unschedulable("9999-01-01T00:00:00Z"), 1);
    let waits = tokio::time::timeout(
        Duration::from_millis(200),
        bench.waker.ensure(&bench.id, None),
    )
    .await;
    assert!(waits.is_err(), "{waits:?}");
}

#[tokio::test]
async fn a_function_that_is_still_being_resolved_is_waited_for() {
    let bench = Bench::new(
        json!({"phase": "Running", "podIP": "127.0.0.1"}),
        replica().await,
    );
    let live = bench.live.get(&bench.id).unwrap();
    let plan = lock(&live.plan).take();
    let (result, ()) = futures::join!(bench.ensure(), async {
        // Until it waits for the plan.
        while lock(&live.waking).is_none() {
            tokio::task::yield_now().await;
        }
        *lock(&live.plan) = plan;
        bench.cluster.notify(&bench.id);
    });
    assert_eq!(result.unwrap().replicas.len(), 1);
    let nobody: FunctionId = "n/nobody".parse().unwrap();
    assert_eq!(
        bench.waker.ensure(&nobody, None).await,
        Err(WakeError::Unknown(nobody))
    );
}

/// Would fail if an operator that has just started made a new pod while it doesn't know yet that one stands by, or waited
/// for that as long as a registry takes.
#[tokio::test]
async fn what_an_operator_that_has_just_started_knows_soon_is_waited_for() {
    let bench = Bench::new(
        json!({"phase": "Running", "podIP": "127.0.0.1"}),
        replica().await,
    );
    let forget = || {
        let plan = bench.live.get(&bench.id).and_then(|live| live.plan());
        bench.live.forget(&bench.id);
        let live = bench.live.enter(&bench.id, "");
        *lock(&live.plan) = plan;
        live
    };
    let live = forget();
    let (result, asked) = futures::join!(bench.ensure(), async {
        while lock(&live.waking).is_none() {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let asked = bench.asked.load(Ordering::SeqCst);
        live.remember("f-1", Err(Misfit::Volumes));
        bench.cluster.notify(&bench.id);
        asked
    });
    assert_eq!(result.unwrap().replicas.len(), 1);
    assert_eq!((asked, bench.asked.load(Ordering::SeqCst)), (0, 1));

    forget();
    bench.cluster.pods.apply(Event::Delete(
        serde_json::from_value(pod(json!({}))).unwrap(),
    ));
    bench.ensure().await.unwrap();
    assert_eq!(bench.asked.load(Ordering::SeqCst), 2);
}

/// Would fail if a function that is made anew were said to be served by a pod of the one that had its name: the pod refuses
/// its requests.
#[tokio::test]
async fn what_serves_one_that_was_deleted_serves_no_other_of_its_name() {
    let mut bench = Bench::new(
        json!({"phase": "Running", "podIP": "127.0.0.1"}),
        replica().await,
    );
    let ready = json!({
        "phase": "Running", "podIP": "10.0.0.9", "conditions": [{"type": "Ready", "status": "True"}],
    });
    let of = |owner: Value, created: &str| {
        let mut pod = pod(ready.clone());
        pod["metadata"]["ownerReferences"] = json!([owner]);
        pod["metadata"]["creationTimestamp"] = created.into();
        Event::Apply(serde_json::from_value::<Pod>(pod).unwrap())
    };
    let owner = |version: &str, kind: &str, name: &str, uid: &str| json!({"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": true});
    let by = |uid: &str| owner("wisp.dev/v1alpha1", "Function", "f", uid);
    let by_set = || owner("apps/v1", "ReplicaSet", "f-1-x", "s");
    let (before, after) = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:02Z");
    let mut function = Function::new("f", Default::default());
    function.metadata.namespace = Some("n".into());
    function.metadata.uid = Some("new".into());
    function.metadata.creation_timestamp =
        serde_json::from_value(json!("2026-01-01T00:00:01Z")).unwrap();
    let store = bench.feed.store();
    store.apply_watcher_event(&Event::Apply(function));
    for (pod, is_its_own) in [
        (of(by("old"), after), false),
        (of(by_set(), before), false),
        (of(by("new"), before), true),
        (of(by_set(), after), true),
    ] {
        bench.cluster.pods.apply(pod);
        assert_eq!(bench.waker.ready(&bench.id).is_some(), is_its_own);
    }
    bench.cluster.pods.apply(of(by("old"), after));
    // What was taken for the one before is its own, too.
    let claim = Claim {
        revision: "f-1".into(),
        replica: Some(Replica {
            address: "10.0.0.8:8080".parse().unwrap(),
            concurrency: 1,
        }),
    };
    let claim_of = |uid: &str| {
        let live = bench.live.enter(&bench.id, uid);
        lock(&live.claims).insert("taken".to_owned(), claim.clone());
        bench.waker.ready(&bench.id).is_some()
    };
    assert_eq!((claim_of("old"), claim_of("new")), (false, true));
}
