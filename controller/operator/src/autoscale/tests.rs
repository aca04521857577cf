use futures::FutureExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use wisp_contract::stats::FunctionStats;

use super::*;
use crate::api_server;
use crate::cluster::Feed;
use crate::live::Plan;

/// What was asked of the API server, and what was sent along.
type Asked = Arc<Mutex<Vec<(String, Value)>>>;

struct Bench {
    autoscaler: Arc<Autoscaler>,
    cluster: Arc<Cluster>,
    live: Arc<Live>,
    asked: Asked,
    id: FunctionId,
    feed: Feed,
}

impl Bench {
    /// A function `n/f` whose revision `new` serves, with an API server that refuses what `is_refused`.
    fn new(is_refused: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        let (cluster, mut feed) = Cluster::new();
        let functions = Arc::new(Functions::default());
        let live = enter("f", &mut feed, &functions);
        let asked = Asked::default();
        let (told, shown) = (Arc::clone(&asked), Arc::clone(&cluster));
        let client = api_server::client(move |what, sent| {
            lock(&told).push((what.to_owned(), sent.clone()));
            if is_refused(what) {
                return api_server::refusal(403);
            }
            // Of few pods none is refused.
            if let Some(replicas @ (0 | 1)) = sent["spec"]["replicas"].as_u64() {
                let replicas = u32::try_from(replicas).unwrap();
                shown.deployments.apply(deployment("new", replicas, None));
                shown.notify(&"n/f".parse().unwrap());
            }
            if what.starts_with("DELETE") {
                return (200, json!({"kind": "Status", "status": "Success"}));
            }
            (
                200,
                json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {}}),
            )
        });
        let autoscaler = Autoscaler::new(
            client,
            Arc::clone(&cluster),
            functions,
            Arc::new(Metrics::default()),
        );
        Self {
            autoscaler: Arc::new(autoscaler),
            cluster,
            live,
            asked,
            id: "n/f".parse().unwrap(),
            feed,
        }
    }

    /// Adds another function.
    fn add(&mut self, name: &str) -> Arc<Live> {
        enter(name, &mut self.feed, &self.autoscaler.live)
    }

    fn function(&self) -> Arc<Function> {
        self.cluster.function(&self.id).unwrap()
    }

    /// What was asked since this was called last, and what was sent along.
    fn asked(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut *lock(&self.asked))
    }

    fn decided(&self, now: Instant) -> Option<u32> {
        let function = self.function();
        self.autoscaler.decide(now, &self.id, &function, &self.live);
        lock(&self.live.load).desired
    }

    /// Until what was begun is done.
    async fn quiet() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
}

/// Adds a function whose revision `new` serves.
fn enter(name: &str, feed: &mut Feed, functions: &Functions) -> Arc<Live> {
    let mut function = Function::new(name, Default::default());
    function.metadata.namespace = Some("n".into());
    function.metadata.uid = Some("u".into());
    let live = functions.enter(&function.id().unwrap(), "u");
    feed.store().apply_watcher_event(&Event::Apply(function));
    *lock(&live.plan) = Some(Plan {
        latest: "new".into(),
        serving: "new".into(),
        scaled_at: None,
    });
    live
}

/// A Deployment with so many replicas, whose pods are refused since then.
fn deployment(name: &str, replicas: u32, refused: Option<&str>) -> Event<Deployment> {
    let conditions = refused.map(|since| {
        json!([{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota", "lastUpdateTime": since}])
    });
    let owner = json!({
        "apiVersion": "wisp.dev/v1alpha1", "kind": "Function", "name": "f", "uid": "u", "controller": true,
    });
    let deployment = serde_json::from_value(json!({
        "metadata": {
            "name": name, "namespace": "n", "labels": {"wisp.dev/function": "f"}, "ownerReferences": [owner],
        },
        "spec": {"replicas": replicas, "selector": {}, "template": {}},
        "status": {"conditions": conditions},
    }));
    Event::Apply(deployment.unwrap())
}

/// A pod that was taken from a pool, and serves.
fn claimed(name: &str, revision: &str) -> Event<Pod> {
    let pod = serde_json::from_value(json!({
        "metadata": {
            "name": name, "namespace": "n", "uid": format!("{name}-uid"),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {
                "wisp.dev/function": "f", "wisp.dev/revision": revision, "wisp.dev/claimed-from": "default",
            },
            "annotations": {"wisp.dev/claimed-restarts": "0"},
        },
        "spec": {"containers": []},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    }));
    Event::Apply(pod.unwrap())
}

/// Would fail if one Deployment that is refused kept all else from being set, or a pod were ended that has the name of the
/// one that was meant.
#[tokio::test]
async fn what_is_refused_keeps_nothing_else_from_being_set() {
    let bench = Bench::new(|what| what.contains("/new/"));
    bench.cluster.deployments.apply(deployment("new", 0, None));
    bench.cluster.deployments.apply(deployment("old", 1, None));
    bench.cluster.pods.apply(claimed("p", "old"));
    lock(&bench.live.load).desired = Some(2);
    let error = bench.autoscaler.push(&bench.id).await.unwrap_err();
    assert!(
        matches!(&error, ScaleError::Api { revision, replicas: 2, .. } if revision == "new"),
        "{error:?}"
    );
    let asked = bench.asked();
    let paths: Vec<_> = asked.iter().map(|(what, _)| what.as_str()).collect();
    assert_eq!(
        paths,
        [
            "PATCH /apis/apps/v1/namespaces/n/deployments/new/scale",
            "PATCH /apis/apps/v1/namespaces/n/deployments/old/scale",
            "DELETE /api/v1/namespaces/n/pods/p",
        ]
    );
    assert_eq!(asked[2].1["preconditions"]["uid"], "p-uid");
}

/// Would fail if who waits for a function were told of what has nothing to do with what they wait for, or waited for that.
#[tokio::test]
async fn who_waits_waits_for_the_revision_that_serves_alone() {
    let bench = Bench::new(|what| what.contains("/a-trial/") || what.starts_with("DELETE"));
    let of_trial = |replicas| deployment("a-trial", replicas, None);
    lock(&bench.live.plan).as_mut().unwrap().latest = "a-trial".into();
    bench.cluster.deployments.apply(deployment("new", 0, None));
    bench.cluster.deployments.apply(of_trial(0));
    bench.cluster.pods.apply(claimed("p", "old"));
    lock(&bench.live.load).desired = Some(1);
    bench.autoscaler.push_serving(&bench.id).await.unwrap();
    let paths = || {
        let asked = bench.asked().into_iter().map(|(what, _)| what);
        asked.collect::<Vec<_>>()
    };
    let scale = |name: &str| format!("PATCH /apis/apps/v1/namespaces/n/deployments/{name}/scale");
    assert_eq!(paths(), [scale("new")]);
    assert!(bench.live.plan().unwrap().scaled_at.is_some());
    Bench::quiet().await;
    assert_eq!(
        paths(),
        [
            scale("a-trial"),
            "DELETE /api/v1/namespaces/n/pods/p".to_owned()
        ]
    );

    let bench = Bench::new(|what| what.contains("/new/"));
    bench.cluster.deployments.apply(deployment("new", 0, None));
    lock(&bench.live.load).desired = Some(1);
    let error = bench.autoscaler.push_serving(&bench.id).await.unwrap_err();
    assert!(error.is_answer() && !error.may_pass(), "{error:?}");
}

/// Would fail if a label were enough to have somebody else's Deployment scaled.
#[tokio::test]
async fn what_is_somebody_elses_is_left_as_it_is() {
    let bench = Bench::new(|_| false);
    let Event::Apply(mut theirs) = deployment("theirs", 3, None) else {
        panic!("it is there")
    };
    theirs.metadata.owner_references = None;
    bench.cluster.deployments.apply(Event::Apply(theirs));
    bench.cluster.deployments.apply(deployment("new", 0, None));
    lock(&bench.live.load).desired = Some(1);
    bench.autoscaler.push(&bench.id).await.unwrap();
    let asked = bench.asked().into_iter().map(|(what, _)| what);
    assert_eq!(
        asked.collect::<Vec<_>>(),
        ["PATCH /apis/apps/v1/namespaces/n/deployments/new/scale"]
    );
}

/// Would fail if a namespace that refuses to scale were asked with every tick, of which there are fifty a second where a
/// queue grows and each wants more, or if nobody were told why.
#[tokio::test]
async fn what_is_refused_is_tried_ever_less_often_and_told() {
    let bench = Bench::new(|_| true);
    bench.cluster.deployments.apply(deployment("new", 1, None));
    let start = Instant::now();
    let grow = async |replicas| {
        lock(&bench.live.load).desired = Some(replicas);
        let changes = bench.autoscaler.changes(&bench.id, &bench.live);
        bench.autoscaler.begin_push(start, &bench.id, &changes);
        Bench::quiet().await;
    };
    for replicas in 2..50 {
        grow(replicas).await;
    }
    assert_eq!(bench.asked().len(), 2);
    let refused = bench.autoscaler.refused(&bench.id).unwrap();
    assert_eq!(refused.reason, "ScalingRefused");
    assert!(refused.message.contains("replicas of new"), "{refused:?}");
    // Somebody else did it.
    bench.cluster.deployments.apply(deployment("new", 4, None));
    {
        let mut load = lock(&bench.live.load);
        load.history.touch(start);
        (load.desired, load.found) = (Some(4), Some(start));
    }
    bench.autoscaler.tick(start);
    Bench::quiet().await;
    assert_eq!(bench.autoscaler.refused(&bench.id), None);
}

/// Would fail if an operator that takes over believed that functions have no load before gateways had a chance to tell it,
/// and took replicas from those that are busy.
#[tokio::test]
async fn what_was_found_is_kept_until_gateways_were_heard() {
    let bench = Bench::new(|_| true);
    bench.cluster.deployments.apply(deployment("new", 4, None));
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    for second in [0, 20, 50, 59] {
        assert_eq!(bench.decided(at(second)), Some(4), "{second}");
    }
    *lock(&bench.autoscaler.heard) = Some(at(50));
    assert_eq!(bench.decided(at(59)), Some(4));
    assert_eq!(bench.decided(at(60)), Some(0), "nobody asks for it");

    // Nobody is heard at all; and what was woken before it was looked at has what it had.
    let bench = Bench::new(|_| true);
    bench.cluster.deployments.apply(deployment("new", 4, None));
    let woken = bench.autoscaler.wake(at(0), &bench.function(), &bench.live);
    assert_eq!((woken, bench.decided(at(59))), (4, Some(4)));
    assert_eq!(bench.decided(at(60)), Some(0));
}

/// Would fail if pods that a quota refused were asked for only when the ReplicaSet tries next, or if those that are on their
/// way were ended for it.
#[tokio::test]
async fn pods_that_were_refused_are_asked_for_anew() {
    let bench = Bench::new(|_| false);
    let refused = deployment("new", 2, Some("2026-01-01T00:00:00Z"));
    bench.cluster.deployments.apply(refused);
    let ask = async || {
        let anew = (bench.autoscaler).ask_anew(&bench.id, &bench.live, "new", false);
        anew.await.unwrap();
        let asked = bench.asked().into_iter();
        asked
            .map(|(_, sent)| sent["spec"]["replicas"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(ask().await, [0, 2]);
    let refused = deployment("new", 2, Some("2026-01-01T00:00:00Z"));
    bench.cluster.deployments.apply(refused);
    bench.cluster.pods.apply(claimed("p", "new"));
    assert_eq!(ask().await, [0; 0]);
}

/// Would fail if it weren't seen that a quota has no room for the next revision beside the one that serves, if its pods were
/// asked for only when the ReplicaSet tries next, if those who ask waited in ever greater number for an API server that takes
/// long, or if one that is on its way were awaited by waking another.
#[tokio::test]
async fn one_that_serves_goes_for_each_of_the_next_where_a_quota_has_no_room() {
    let bench = Bench::new(|_| false);
    let plan = |serving: &str| Plan {
        latest: "new".into(),
        serving: serving.into(),
        scaled_at: None,
    };
    *lock(&bench.live.plan) = Some(plan("old"));
    let refused = deployment("new", 2, Some("2026-01-01T00:00:00Z"));
    bench.cluster.deployments.apply(refused);
    bench.cluster.deployments.apply(deployment("old", 2, None));
    lock(&bench.live.load).desired = Some(2);
    let changes = || bench.autoscaler.changes(&bench.id, &bench.live).deployments;
    assert_eq!(changes(), BTreeMap::new());
    bench.autoscaler.ask_for_room(&bench.id, &bench.live);
    Bench::quiet().await;
    assert_eq!(bench.asked(), []);

    let Event::Apply(mut ready) = claimed("p", "new") else {
        panic!("it is there")
    };
    ready
        .metadata
        .labels
        .as_mut()
        .unwrap()
        .remove("wisp.dev/claimed-from");
    bench.cluster.pods.apply(Event::Apply(ready));
    assert_eq!(changes(), BTreeMap::from([("old".to_owned(), 1)]));
    assert!(!bench.autoscaler.is_taken_over(&bench.live));
    let setting = bench.live.scaling.lock().await;
    bench.autoscaler.ask_for_room(&bench.id, &bench.live);
    Bench::quiet().await;
    drop(setting);
    Bench::quiet().await;
    assert_eq!(bench.asked(), []);
    for _ in 0..2 {
        bench.autoscaler.ask_for_room(&bench.id, &bench.live);
    }
    Bench::quiet().await;
    let asked = bench.asked().into_iter();
    let asked: Vec<_> = asked
        .map(|(what, sent)| (what, sent["spec"]["replicas"].clone()))
        .collect();
    let scale = "PATCH /apis/apps/v1/namespaces/n/deployments/new/scale";
    assert_eq!(
        asked,
        [1, 2].map(|replicas| (scale.to_owned(), json!(replicas)))
    );

    lock(&bench.live.load).desired = Some(1);
    assert!(bench.autoscaler.is_taken_over(&bench.live));
    *lock(&bench.live.plan) = Some(plan("new"));
    let _ = changes();
    assert!(!bench.autoscaler.is_taken_over(&bench.live));
}

/// What a gateway saw of a function that was asked for, with so many requests that wait.
fn seen(function: &str, queued: u32) -> FunctionStats {
    FunctionStats {
        function: function.parse().unwrap(),
        seconds: 1.0,
        concurrency: 0.0,
        queue: f64::from(queued),
        in_flight: 0,
        queued,
        requests: 7,
        answers: [0; 5],
        latency: Default::default(),
    }
}

fn report(urgent: bool, functions: Vec<FunctionStats>) -> Report {
    Report {
        gateway: "a".into(),
        urgent,
        is_last: false,
        functions,
    }
}

/// Would fail if one function whose queue grows had the operator look at all of them without a pause, or had to wait for its
/// second.
#[tokio::test]
async fn where_requests_wait_it_is_decided_at_once_and_of_others_later() {
    let mut bench = Bench::new(|_| true);
    let (other, now) = (bench.add("g"), Instant::now());
    let is_urgent = || bench.autoscaler.urgent.notified().now_or_never().is_some();
    let told = || vec![seen("n/f", 1), seen("n/g", 0)];
    bench.autoscaler.report(report(false, told()));
    bench.autoscaler.tick_waiting(now);
    let desired = || [&bench.live, &other].map(|live| lock(&live.load).desired);
    assert_eq!((is_urgent(), desired()), (false, [None, None]));
    bench.autoscaler.report(report(true, told()));
    bench.autoscaler.tick_waiting(now);
    assert_eq!((is_urgent(), desired()), (true, [Some(1), None]));
    bench.autoscaler.tick(now);
    assert!(desired()[1].is_some());
}

/// Would fail if requests for a function that is gone were kept for ever, and woke the next one of that name.
#[tokio::test]
async fn requests_are_forgotten_with_their_function() {
    let mut bench = Bench::new(|_| true);
    let start = Instant::now();
    let gone = vec![seen("n/g", 0)];
    bench.autoscaler.report(report(false, gone));
    bench.autoscaler.tick(start);
    let next = bench.add("g");
    bench.autoscaler.tick(start + TICK);
    assert_eq!(lock(&next.load).desired, Some(0));
}
