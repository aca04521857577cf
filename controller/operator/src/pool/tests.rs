use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use wisp_api::{Function, Place, RuntimePool, Values};
use wisp_contract::assignment::{Facts, Wasi};
use wisp_contract::keys::Root;

use super::status::{Candidate, Observed, status};
use super::*;
use crate::artifacts::{Code, Stored};
use crate::live::Plan;
use crate::reconcile::desired::desired;
use crate::reconcile::network::{Peers, pool_policy};
use crate::reconcile::pod::made_as;
use crate::resolve::{Bytes, Resolved};

fn settings() -> Settings {
    Settings {
        runtime_image: "wisp-runtime:1".into(),
        runtime_cuda_image: "wisp-runtime-cuda:1".into(),
        runtime_pull_policy: "IfNotPresent".into(),
        runtime_pull_secrets: Vec::new(),
        operator: "http://wisp-operator.wisp-system.svc.cluster.local.:8090".into(),
        direct: "http://10.0.0.9:8090".into(),
        gateway: "wisp-gateway.wisp-system.svc.cluster.local".into(),
        network: None,
        root: Root::new(&"k".repeat(64)).unwrap(),
    }
}

fn function(spec: Value) -> Function {
    serde_json::from_value(json!({
        "apiVersion": "wisp.dev/v1alpha1", "kind": "Function",
        "metadata": {"name": "digits", "namespace": "vision", "uid": "u-1"}, "spec": spec,
    }))
    .unwrap()
}

fn pool(spec: Value) -> RuntimePool {
    serde_json::from_value(json!({
        "apiVersion": "wisp.dev/v1alpha1", "kind": "RuntimePool",
        "metadata": {"name": "warm", "namespace": "vision", "uid": "p-1"}, "spec": spec,
    }))
    .unwrap()
}

fn resolved() -> Resolved {
    let component = Stored {
        source: "a".repeat(64),
        size: 1 << 20,
        sha256: "b".repeat(64),
        pinned: None,
        compiled: vec![Code {
            engine: "wasmtime-48".into(),
            sha256: "c".repeat(64),
            facts: Facts {
                wasi: Wasi::P2,
                core_instances: 3,
                memories: 1,
                tables: 1,
                asks_models: true,
            },
        }],
        memory: 17 << 16,
    };
    Resolved {
        component: Bytes::Stored(component),
        models: Vec::new(),
        values: Values::default(),
    }
}

fn claimable(spec: Value) -> Result<Claimable, Misfit> {
    claimable_of(spec, &resolved())
}

fn claimable_of(spec: Value, resolved: &Resolved) -> Result<Claimable, Misfit> {
    let (function, settings) = (function(spec), settings());
    let desired = desired(&function, resolved, &settings).unwrap();
    let (service, direct) = (&settings.operator, &settings.direct);
    Claimable::of(&function, resolved, &desired, service, direct)
}

/// Would fail if a pod were asked to become what it can't be.
#[test]
fn a_pod_of_a_pool_becomes_what_it_could_have_been_made_for() {
    let plain = json!({"component": {"image": "r/x:1"}});
    let on_gpu =
        json!({"component": {"image": "r/x:1"}, "pod": {"gpu": 1, "nodeSelector": {"gpu": "yes"}}});
    let large = json!({"component": {"image": "r/x:1"}, "limits": {"memory": "1Gi"}});
    let resized = json!({"component": {"image": "r/x:1"}, "pod": {"resources": {"requests": {"memory": "256Mi"}}}});
    let gpus = json!({"pod": {"gpu": 1, "nodeSelector": {"gpu": "yes"}}});
    let big = json!({"pod": {"resources": {"limits": {"memory": "2Gi"}}}});
    let asks = |resources: Value| json!({"component": {"image": "r/x:1"}, "pod": {"resources": resources}});
    let other = "pods of the pool have another pod.nodeSelector";
    let selector = json!({"pod": {"nodeSelector": {"gpu": "yes"}}});
    let gpus_differ = "pods of the pool have another amount of nvidia.com/gpu, which can't be changed of a pod that runs";
    let none = json!({"component": {"image": "r/x:1"}, "pod": {"gpu": 0}});
    let by_limits = asks(
        json!({"limits": {"nvidia.com/gpu": "1", "memory": "3Gi"}, "requests": {"memory": "64Mi"}}),
    );
    // The request is the limit, where there is none.
    let limited = asks(json!({"limits": {"memory": "1Gi"}}));
    let bursting = asks(json!({"limits": {"memory": "4Gi"}, "requests": {"memory": "16Mi"}}));
    let little = asks(json!({"limits": {"memory": "48Mi"}}));
    let small = json!({"pod": {"resources": {"limits": {"memory": "64Mi"}}}});
    let more = "it needs 1092Mi of memory from the start, pods of the pool are limited to 512Mi until they are a function's";
    let limit = "it needs 1024Mi of memory from the start, pods of the pool are limited to 512Mi until they are a function's";
    let unlimited =
        "it has no limit of memory, pods of the pool have one, which can't be taken away";
    let open = json!({"pod": {"resources": {"requests": {"memory": "32Mi"}}}});
    let guaranteed =
        asks(json!({"limits": {"memory": "128Mi", "cpu": "1"}, "requests": {"cpu": "1000m"}}));
    let class = "its pods have the QoS class Guaranteed, those of the pool have Burstable, which can't be changed of a pod that runs";
    let alike = json!({"pod": {"resources": {"limits": {"memory": "256Mi", "cpu": "100m"}}}});
    let no_cpu = "it has no limit of cpu, pods of the pool have one, which can't be taken away";
    let part = |count: &str| json!({"nvidia.com/mig-1g.5gb": count, "memory": "512Mi"});
    let sliced = asks(json!({"limits": part("1"), "requests": {"memory": "64Mi"}}));
    let parts = |count: &str| json!({"pod": {"resources": {"limits": part(count)}}});
    let slice = "pods of the pool have another amount of nvidia.com/mig-1g.5gb, which can't be changed of a pod that runs";
    let loading = "it needs 68Mi of memory from the start, pods of the pool are limited to 64Mi until they are a function's";
    for (spec, of_pool, misfit) in [
        (&plain, json!({}), None),
        (&plain, gpus.clone(), Some(other)),
        (&on_gpu, json!({}), Some(other)),
        (&on_gpu, gpus, None),
        (&on_gpu, selector, Some(gpus_differ)),
        // However it is written how many there are.
        (&none, json!({}), None),
        (&plain, json!({"pod": {"gpu": 0}}), None),
        (&by_limits, json!({"pod": {"gpu": 1}}), None),
        (&by_limits, json!({"pod": {"gpu": 2}}), Some(gpus_differ)),
        (&large, json!({}), Some(more)),
        (&large, big, None),
        (&resized, json!({}), Some(unlimited)),
        (&resized, open, None),
        (&guaranteed, json!({}), Some(class)),
        (&guaranteed, alike.clone(), None),
        (&bursting, alike, Some(no_cpu)),
        (&sliced, json!({}), Some(slice)),
        (&sliced, parts("2"), Some(slice)),
        (&sliced, parts("1"), None),
        (&plain, parts("1"), Some(slice)),
        (&limited, json!({}), Some(limit)),
        (&bursting, json!({}), None),
        (&bursting, small.clone(), Some(loading)),
        (&little, small, None),
    ] {
        let claimable = claimable(spec.clone()).unwrap();
        let fits = claimable.fits(&pool(of_pool.clone()), 0);
        let found = fits.err().map(|misfit| misfit.to_string());
        assert_eq!(found.as_deref(), misfit, "{spec} {of_pool}");
    }
    // What its models may take, it may need while it loads them.
    let mut with_model = resolved();
    let Bytes::Stored(stored) = with_model.component.clone() else {
        unreachable!()
    };
    let model = Stored {
        compiled: Vec::new(),
        ..stored
    };
    with_model.models = vec![("m".to_owned(), Bytes::Stored(model))];
    let mut spec = bursting;
    spec["models"] = json!([{"name": "m", "source": {"image": "r/m:1"}}]);
    let claimable_with = claimable_of(spec.clone(), &with_model).unwrap();
    let fits = claimable_with.fits(&pool(json!({})), 0);
    assert!(matches!(fits, Err(Misfit::Memory { needed, .. }) if needed == "4096Mi"));
    spec["pod"] = json!({});
    let claimable_with = claimable_of(spec, &with_model).unwrap();
    assert_eq!(claimable_with.fits(&pool(json!({})), 0), Ok(()));
    // Volumes, and requests that take longer than a pod is given to end.
    let stores = json!({"component": {"image": "r/x:1"}, "keyValue": [{"name": "a"}]});
    assert_eq!(claimable(stores), Err(Misfit::Volumes));
    let slow = json!({"component": {"image": "r/x:1"}, "limits": {"timeout": "10m"}});
    assert_eq!(claimable(slow), Err(Misfit::Grace(610)));
}

/// Would fail if a pool said of a function what is true of a revision that doesn't serve yet.
#[test]
fn the_revision_that_serves_is_what_fits() {
    let (live, warm) = (Live::default(), pool(json!({})));
    let fits = || live.fits(&warm, 0);
    let serve = |revision: &str| {
        *lock(&live.plan) = Some(Plan {
            latest: revision.to_owned(),
            serving: revision.to_owned(),
            scaled_at: None,
        });
    };
    live.remember("a", Err(Misfit::Volumes));
    assert_eq!(fits(), None);
    serve("a");
    assert_eq!(fits(), Some(Err(Misfit::Volumes)));
    let mut next = claimable(json!({"component": {"image": "r/x:1"}})).unwrap();
    next.revision = "b".to_owned();
    live.remember("b", Ok(next));
    assert_eq!(fits(), Some(Err(Misfit::Volumes)));
    serve("b");
    assert_eq!(fits(), Some(Ok(())));
    // Changes that never get to serve take nothing from the one that does.
    for revision in ["c", "d", "e"] {
        live.remember(revision, Err(Misfit::Volumes));
    }
    assert_eq!(fits(), Some(Ok(())));
    assert!(live.claimable("b").is_some());
    serve("e");
    assert_eq!(fits(), Some(Err(Misfit::Volumes)));
}

/// Would fail if a pool of which no function can take a pod looked as any other, or who can't, and why, stayed unsaid.
#[test]
fn a_pool_says_which_functions_can_take_its_pods() {
    let fits = |name: &str| (name.to_owned(), Ok(()));
    let volumes = |name: &str| (name.to_owned(), Err(Misfit::Volumes));
    let with = |pool: &RuntimePool, refused: Option<&str>, candidates: Option<Vec<Candidate>>| {
        status(&Observed {
            pool,
            before: pool.status.clone().unwrap_or_default(),
            not_applied: None,
            desired: 1,
            alive: 1,
            ready: 1,
            claims: 0,
            trouble: None,
            models: &State::Here(Arc::default()),
            refused: refused.map(str::to_owned),
            candidates,
            now: crate::autoscale::now(),
        })
    };
    let of = |pool: &RuntimePool, candidates| with(pool, None, candidates);
    let said = |candidates: Vec<Candidate>| {
        let status = of(&pool(json!({})), Some(candidates));
        let [ready, claimable] = <[_; 2]>::try_from(status.conditions).unwrap();
        assert_eq!((&*ready.type_, &*ready.status), ("Ready", "True"));
        assert_eq!(claimable.type_, "Claimable");
        let told = [claimable.status, claimable.reason, claimable.message];
        (status.functions, told.join("; "))
    };
    let nobody = "Unknown; NoFunctions; the namespace has no functions";
    assert_eq!(said(vec![]), (0, nobody.to_owned()));
    let all = "True; FunctionsFit; 2 of 2 functions of the namespace can take pods";
    assert_eq!(said(vec![fits("a"), fits("b")]), (2, all.to_owned()));
    let one = "True; FunctionsFit; 1 of 2 functions of the namespace can take pods; \
        b: its pods have volumes, those of pools have none";
    assert_eq!(said(vec![fits("a"), volumes("b")]), (1, one.to_owned()));
    let (count, none) = said(["a", "b", "c", "d", "e"].map(volumes).to_vec());
    assert_eq!(count, 0);
    assert!(none.starts_with("False; NoFunctionFits; 0 of 5"), "{none}");
    assert!(
        none.contains("; c: its") && !none.contains("; d: its"),
        "{none}"
    );
    assert!(none.ends_with("; and 2 more"), "{none}");

    // Who could take one isn't allowed to have it.
    let refused = with(&pool(json!({})), Some("denied"), Some(vec![fits("a")]));
    let claimable = &refused.conditions[1];
    assert_eq!(
        (&*claimable.status, &*claimable.reason),
        ("False", "AdoptionRefused")
    );
    assert!(claimable.message.ends_with(": denied"), "{claimable:?}");

    // What was known stays, until more is.
    let mut pool = pool(json!({}));
    let unknown = of(&pool, None);
    assert_eq!(unknown.functions, 0);
    assert_eq!(unknown.conditions[1].reason, "NotKnownYet");
    let known = of(&pool, Some(vec![fits("a")]));
    pool.status = Some(known.clone());
    assert_eq!(of(&pool, None), known);
}

#[test]
fn artifacts_come_straight_from_the_operator_that_assigns() {
    let claimable = claimable(json!({"component": {"image": "r/x:1"}})).unwrap();
    let text = serde_json::to_string(&claimable.assignment).unwrap();
    assert!(!text.contains("svc.cluster.local"), "{text}");
    assert_eq!(
        text.matches("http://10.0.0.9:8090/v1/artifacts/").count(),
        2,
        "{text}"
    );
}

/// Would fail if a pod that was taken stayed the pool's, or went to a function of another uid, or another pod were
/// patched in its place.
#[test]
fn a_pod_that_was_taken_is_the_functions_and_nobody_elses() {
    let function = function(json!({"component": {"image": "r/x:1"}}));
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "vision", "uid": "pod-1", "labels": {"wisp.dev/pool": "warm"}},
    }))
    .unwrap();
    let claimable = claimable(json!({"component": {"image": "r/x:1"}})).unwrap();
    let patch = adopt::patch(&function, &pod, "warm", &claimable);
    let metadata = &patch["metadata"];
    assert_eq!(metadata["uid"], "pod-1");
    let labels: BTreeMap<String, Value> =
        serde_json::from_value(metadata["labels"].clone()).unwrap();
    assert_eq!(labels["wisp.dev/function"], "digits");
    assert_eq!(labels["wisp.dev/revision"], claimable.revision.as_str());
    assert_eq!(labels["wisp.dev/claimed-from"], "warm");
    // What a merge patch removes.
    assert_eq!(
        (&labels["wisp.dev/pool"], &labels["pod-template-hash"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(metadata["ownerReferences"][0]["uid"], "u-1");
    assert_eq!(metadata["ownerReferences"][0]["kind"], "Function");
    assert_eq!(metadata["annotations"]["wisp.dev/concurrency"], "64");
    assert_eq!(metadata["annotations"]["wisp.dev/claimed-restarts"], "0");
    // Else a cluster autoscaler would never take its node away.
    let evicted = "cluster-autoscaler.kubernetes.io/safe-to-evict";
    assert_eq!(metadata["annotations"][evicted], "true");
}

/// Would fail if pods that stand by had none of their pool's labels and annotations, became a function's that has others, or lost
/// them when they are taken; or if a spec could say otherwise of what wisp knows its pods by.
#[test]
fn pods_have_the_labels_and_annotations_of_their_spec() {
    let own = json!({
        "labels": {"team": "vision"},
        "annotations": {"sidecar.istio.io/inject": "false", "prometheus.io/scrape": "false"},
    });
    let spec = |pod: Value| json!({"component": {"image": "r/x:1"}, "pod": pod});
    let of_pool = pool(json!({"pod": own}));
    let same = claimable(spec(own.clone())).unwrap();
    assert_eq!(same.fits(&of_pool, 0), Ok(()));
    let plain = claimable(spec(json!({}))).unwrap();
    let misfit = plain.fits(&of_pool, 0).unwrap_err().to_string();
    let both = "pods of the pool have another pod.annotations and pod.labels";
    assert_eq!(misfit, both);

    let made = keep::deployment(&of_pool, "{}", &[], &settings()).spec;
    let made = serde_json::to_value(made.template.metadata).unwrap();
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "uid": "1"}})).unwrap();
    let taken = adopt::patch(&function(spec(own.clone())), &pod, "warm", &same);
    let mut names = BTreeSet::new();
    for metadata in [&made, &taken["metadata"]] {
        for kind in ["labels", "annotations"] {
            let found = metadata[kind].as_object().unwrap();
            for (name, value) in own[kind].as_object().unwrap() {
                assert_eq!(found.get(name), Some(value), "{metadata}");
            }
            names.extend(found.keys().map(|name| (kind, name.clone())));
        }
    }
    for (kind, name) in names {
        let may_be_said = own[kind].get(&name).is_some() || name.starts_with("prometheus.io/");
        let mut said = json!({});
        said[kind] = json!({&name: "x"});
        let checked = function(spec(said)).validate_for(Place::Cluster);
        assert_eq!(checked.is_ok(), may_be_said, "{kind} {name}: {checked:?}");
    }
}

/// What users see of a pool: any change of it is to be looked at.
#[test]
fn the_objects_of_a_pool() {
    let pool = pool(json!({"pod": {"nodeSelector": {"zone": "edge"}}}));
    let deployment =
        serde_yaml_ng::to_string(&keep::deployment(&pool, "{}", &[], &settings())).unwrap();
    let secret = keep::secret(&pool, "{}", &settings());
    assert_eq!(secret.metadata.name.as_deref(), Some("wisp-pool-warm"));
    let peers = Peers {
        namespace: "wisp-system".to_owned(),
    };
    let policy = serde_yaml_ng::to_string(&pool_policy(&pool, &peers)).unwrap();
    insta::assert_snapshot!([deployment, policy].join("---\n"));
}

mod recovering;

mod claiming {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use kube::runtime::watcher::Event;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;
    use wisp_contract::operator::pod::CONTROL_PORT;

    use super::*;
    use crate::api_server::{self, refusal};
    use crate::live::Plan;
    use crate::pins::{PINNED_ANNOTATION, PINS_ANNOTATION};
    use crate::resolve::tests::Store;

    /// An API server that is never reached.
    fn nobody() -> Client {
        let uri = http::Uri::from_static("http://127.0.0.1:9");
        Client::try_from(kube::Config::new(uri)).unwrap()
    }

    /// What came to a host.
    #[derive(Default)]
    pub(super) struct Asked {
        connections: AtomicUsize,
        questions: AtomicUsize,
        assignments: AtomicUsize,
    }

    /// A host at an address of its own that answers every question in the same way.
    async fn host(address: &str, answer: &'static str) -> Arc<Asked> {
        host_by(address, move |_| answer.to_owned()).await
    }

    /// The same, which answers each by how many came before.
    pub(super) async fn host_by(
        address: &str,
        answer: impl Fn(usize) -> String + Send + Sync + 'static,
    ) -> Arc<Asked> {
        let listener = TcpListener::bind((address, CONTROL_PORT)).await.unwrap();
        let asked = Arc::new(Asked::default());
        let counted = Arc::clone(&asked);
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (counted, answer) = (Arc::clone(&counted), Arc::clone(&answer));
                counted.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut request = vec![0; 1 << 16];
                    while let Ok(length @ 1..) = stream.read(&mut request).await {
                        let begins = |text: &str| request[..length].starts_with(text.as_bytes());
                        if begins("POST /assign") {
                            counted.assignments.fetch_add(1, Ordering::SeqCst);
                        }
                        // A body may come by itself.
                        if begins("POST") || begins("GET") {
                            let before = counted.questions.fetch_add(1, Ordering::SeqCst);
                            let _ = stream.write_all(answer(before).as_bytes()).await;
                        }
                    }
                });
            }
        });
        asked
    }

    const SERVES: &str = "HTTP/1.1 200 OK\r\ncontent-length: 46\r\n\r\n{\"phase\": \"ready\", \"inFlight\": 0, \"queued\": 0}";

    fn refuses(status: u16, reason: &str) -> &'static str {
        let body = format!(
            r#"{{"type":"about:blank","title":"t","status":{status},"detail":"d","reason":"{reason}","fault":"client","retryable":false,"requestId":"r"}}"#
        );
        let length = body.len();
        Box::leak(format!("HTTP/1.1 {status} X\r\ncontent-type: application/problem+json\r\ncontent-length: {length}\r\n\r\n{body}").into_boxed_str())
    }

    fn of_replica_set(name: &str) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": "r-1", "controller": true})
    }

    /// A pod of the pool is there, and the kubelet says whether it is ready.
    fn stand_by(cluster: &Cluster, index: usize, address: &str, is_ready: &str) {
        let pod = json!({
            "metadata": {
                "name": format!("p-{index}"), "namespace": "vision", "uid": format!("pod-{index}"),
                "labels": {"wisp.dev/pool": "warm"},
                "annotations": {"wisp.dev/pool-uid": "p-1", "wisp.dev/template": made_as(&pool(json!({})), &settings())},
                "ownerReferences": [of_replica_set("wisp-pool-warm-5c8d9f")],
            },
            "status": {"phase": "Running", "podIP": address, "conditions": [{"type": "Ready", "status": is_ready}]},
        });
        let pod = serde_json::from_value(pod).unwrap();
        cluster.warm.apply(Event::Apply(pod));
    }

    pub(super) struct Bench {
        pub(super) pools: Arc<Pools>,
        pub(super) live: Arc<Live>,
        pub(super) id: FunctionId,
        pub(super) feed: crate::cluster::Feed,
        store: Arc<Store>,
    }

    impl Bench {
        /// A function and a pool with a ready pod at each of these addresses.
        fn new(addresses: &[&str]) -> Self {
            Self::with(nobody(), addresses)
        }

        /// The same, whose API server is reached by `client`.
        pub(super) fn with(client: Client, addresses: &[&str]) -> Self {
            Self::over(client, addresses, None)
        }

        /// The same, whose store answers by `gate`.
        fn over(client: Client, addresses: &[&str], gate: Option<Arc<Semaphore>>) -> Self {
            let (cluster, mut feed) = Cluster::new();
            let function = function(json!({"component": {"image": "r/x:1"}}));
            feed.store().apply_watcher_event(&Event::Apply(function));
            feed.pools()
                .apply_watcher_event(&Event::Apply(pool(json!({}))));
            for (index, address) in addresses.iter().enumerate() {
                stand_by(&cluster, index, address, "True");
            }
            let (functions, metrics) =
                (Arc::new(Functions::default()), Arc::new(Metrics::default()));
            let id: FunctionId = "vision/digits".parse().unwrap();
            let live = functions.enter(&id, "u-1");
            let claimable = claimable(json!({"component": {"image": "r/x:1"}})).unwrap();
            let revision = claimable.revision.clone();
            live.remember(&revision, Ok(claimable));
            *lock(&live.plan) = Some(Plan {
                latest: revision.clone(),
                serving: revision,
                scaled_at: None,
            });
            let autoscaler = Arc::new(Autoscaler::new(
                client.clone(),
                Arc::clone(&cluster),
                Arc::clone(&functions),
                Arc::clone(&metrics),
            ));
            let store = Arc::new(Store {
                gate,
                ..Store::default()
            });
            let artifacts: Arc<dyn Artifacts> = Arc::clone(&store) as _;
            let levels = Levels::new(
                Arc::clone(&artifacts),
                Arc::clone(&cluster),
                Arc::clone(&functions),
            );
            let around = Around {
                client,
                cluster,
                live: functions,
                autoscaler,
                artifacts,
                levels,
                metrics,
            };
            let defaults = Defaults {
                min: 1,
                max: 5,
                pod: None,
            };
            let pools = Pools::new(around, settings(), defaults);
            Self {
                pools,
                live,
                id,
                feed,
                store,
            }
        }

        /// Has something that makes pods, and somebody who waits for one.
        async fn begin_to_wait(&self) -> JoinHandle<Option<Replica>> {
            let mut deployment = keep::deployment(&pool(json!({})), "{}", &[], &settings());
            deployment.metadata.namespace = Some("vision".to_owned());
            let deployments = &self.pools.cluster.warm_deployments;
            deployments.apply(Event::Apply(deployment));
            let (pools, id) = (Arc::clone(&self.pools), self.id.clone());
            let waiting = tokio::spawn(async move { pools.claim(&id, &Span::default()).await });
            let mut queued = self.pools.queue.waiting.subscribe();
            queued.wait_for(|waiting| *waiting == 1).await.unwrap();
            waiting
        }
    }

    /// Would fail if a pod that is about to be replaced were given out as if it were what the pool's spec says by now, or
    /// one of an operator that didn't say what its pods are.
    #[tokio::test]
    async fn pods_that_are_about_to_be_replaced_are_not_taken() {
        let mut bench = Bench::new(&["127.78.8.1"]);
        let current = |bench: &Bench, spec: Value| bench.pools.current(&pool(spec)).len();
        assert_eq!(current(&bench, json!({})), 1);
        let changed = json!({"pod": {"runtimeClassName": "gvisor"}});
        assert_eq!(current(&bench, changed.clone()), 0);
        let claimable = claimable(json!({"component": {"image": "r/x:1"}})).unwrap();
        let taken = |bench: &Bench| {
            let pools = bench.pools.cluster.pools().state();
            bench.pools.take(&pools, &claimable)
        };
        bench
            .feed
            .pools()
            .apply_watcher_event(&Event::Apply(pool(changed)));
        assert!(taken(&bench).is_none());
        // How many there should be is no matter.
        let more = pool(json!({"minReplicas": 3}));
        bench.feed.pools().apply_watcher_event(&Event::Apply(more));
        assert!(taken(&bench).is_some());
        let mut old = bench
            .pools
            .cluster
            .warm
            .of(&pool_id(&pool(json!({}))).unwrap())[0]
            .as_ref()
            .clone();
        old.annotations_mut().remove("wisp.dev/template");
        bench.pools.cluster.warm.apply(Event::Apply(old));
        assert_eq!(current(&bench, json!({})), 0);
    }

    /// Would fail if pods that nobody takes kept the room that those which come in their place need, as the only GPU, or those
    /// that can be taken went before others are there.
    #[tokio::test]
    async fn pods_that_are_about_to_be_replaced_go_at_once() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let remembered = Arc::clone(&told);
        let client = api_server::client(move |asked, mut sent| {
            let strategy = &sent["spec"]["strategy"]["rollingUpdate"];
            if strategy.is_object() {
                lock(&remembered).push(strategy["maxUnavailable"].clone());
            }
            match asked.starts_with("GET") {
                true => refusal(404),
                false => {
                    if asked.ends_with("/status") {
                        sent["spec"] = json!({});
                    }
                    (200, sent)
                }
            }
        });
        let mut bench = Bench::with(client, &["127.78.14.1"]);
        let id = pool_id(&pool(json!({}))).unwrap();
        let mut pod = bench.pools.cluster.warm.of(&id)[0].as_ref().clone();
        let changed = pool(json!({"pod": {"runtimeClassName": "gvisor"}}));
        let applied = async |bench: &Bench, expected: &[Value]| {
            let applied = async {
                while lock(&told).len() < expected.len() {
                    bench.pools.tick(Instant::now(), Duration::ZERO);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let applied = tokio::time::timeout(Duration::from_secs(20), applied).await;
            assert_eq!(*lock(&told), expected, "{applied:?}");
        };
        applied(&bench, &[json!(0)]).await;
        let event = Event::Apply(changed.clone());
        bench.feed.pools().apply_watcher_event(&event);
        applied(&bench, &[json!(0), json!("100%")]).await;
        // The next is there.
        let made_as = made_as(&changed, &settings());
        pod.annotations_mut()
            .insert("wisp.dev/template".to_owned(), made_as);
        bench.pools.cluster.warm.apply(Event::Apply(pod));
        applied(&bench, &[json!(0), json!("100%"), json!(0)]).await;
    }

    /// Would fail if a tenant were told the key of another tenant's pool for a pod that says it is one of it, or any pod were
    /// asked what it is for having a pool's label.
    #[tokio::test]
    async fn a_pod_gets_no_key_for_what_it_says_it_is() {
        let asked = host("127.78.12.1", SERVES).await;
        let mut bench = Bench::new(&[]);
        let mut theirs = pool(json!({}));
        theirs.metadata.namespace = Some("mallory".to_owned());
        theirs.metadata.uid = Some("m-1".to_owned());
        let event = Event::Apply(theirs.clone());
        bench.feed.pools().apply_watcher_event(&event);
        let theirs_made = made_as(&theirs, &settings());
        assert_ne!(theirs_made, made_as(&pool(json!({})), &settings()));
        let cluster = Arc::clone(&bench.pools.cluster);
        let there = |uid: &str, owners: Value| {
            let pod = json!({
                "metadata": {
                    "name": "p", "namespace": "mallory", "uid": "pod", "labels": {"wisp.dev/pool": "warm"},
                    "annotations": {"wisp.dev/pool-uid": uid, "wisp.dev/template": theirs_made},
                    "ownerReferences": owners,
                },
                "status": {"phase": "Running", "podIP": "127.78.12.1", "conditions": [{"type": "Ready", "status": "True"}]},
            });
            let pod: Pod = serde_json::from_value(pod).unwrap();
            cluster.warm.apply(Event::Apply(pod.clone()));
            pod
        };
        let made = json!([of_replica_set("wisp-pool-warm-5c8d9f")]);
        let others = json!([of_replica_set("wisp-pool-warmer-5c8d9f")]);
        for (uid, owners) in [
            // Of another namespace's pool, and of one of this namespace that had its name before.
            ("p-1", &made),
            ("m-0", &made),
            ("m-1", &json!([])),
            ("m-1", &others),
        ] {
            there(uid, owners.clone());
            bench.pools.recover_all().await;
            assert_eq!(bench.pools.current(&theirs).len(), 0, "{uid} {owners}");
            assert_eq!(asked.connections.load(Ordering::SeqCst), 0);
        }
        let root = settings().root;
        let own = there("m-1", made.clone());
        bench.pools.recover_all().await;
        assert_eq!(bench.pools.current(&theirs).len(), 1);
        assert_eq!(asked.connections.load(Ordering::SeqCst), 1);
        let key = control::pool_key(&root, &own);
        assert_eq!(key, Some(root.pool("mallory", "m-1")));
        // What says that it was taken from the pool gets a key, and that key opens nothing.
        let mut taken = there("p-1", made);
        let labels = [
            ("wisp.dev/function", "f"),
            ("wisp.dev/claimed-from", "warm"),
        ];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        taken.metadata.labels = Some(labels.into());
        let secret = keep::secret(&pool(json!({})), "{}", &settings());
        let victims = secret.data.unwrap()["control-key"].0.clone();
        let id = "mallory/f".parse().unwrap();
        let key = control::key(&root, &taken, &id, "u-2");
        assert_ne!(key.0.into_bytes(), victims);
    }

    /// Would fail if a pod that was given another key were taken for one that can be told something.
    #[test]
    fn pods_with_another_key_are_made_of_another_template() {
        let other = Settings {
            root: Root::new(&"l".repeat(64)).unwrap(),
            ..settings()
        };
        let warm = pool(json!({}));
        assert_ne!(made_as(&warm, &other), made_as(&warm, &settings()));
    }

    /// Would fail if a function were given a pod in which it can't be loaded, because the pool's next ones will have more
    /// memory.
    #[tokio::test]
    async fn pods_that_have_less_memory_than_the_next_are_taken_by_who_needs_no_more() {
        let bench = Bench::new(&["127.78.11.1"]);
        let id = pool_id(&pool(json!({}))).unwrap();
        let mut pod = bench.pools.cluster.warm.of(&id)[0].as_ref().clone();
        let limited = json!({"containers": [
            {"name": "beside", "resources": {"limits": {"memory": "8Mi"}}},
            {"name": "function", "resources": {"limits": {"memory": "512Mi"}}},
        ]});
        pod.spec = Some(serde_json::from_value(limited).unwrap());
        bench.pools.cluster.warm.apply(Event::Apply(pod));
        let pools = bench.pools.cluster.pools().state();
        let take = |memory: &str| {
            let asked = json!({"component": {"image": "r/x:1"}, "limits": {"memory": memory}});
            bench.pools.take(&pools, &claimable(asked).unwrap())
        };
        assert!(take("1Gi").is_none());
        assert!(take("64Mi").is_some());
    }

    /// Would fail if two who claim at once were given one pod, or a pod were given away twice.
    #[tokio::test]
    async fn a_pod_is_given_to_one_function_once() {
        let addresses = ["127.78.0.1", "127.78.0.2"];
        let mut asked = Vec::new();
        for address in addresses {
            asked.push(host(address, SERVES).await);
        }
        let bench = Bench::new(&addresses);
        let span = Span::default();
        let claims = (0..5).map(|_| bench.pools.claim(&bench.id, &span));
        let all = futures::future::join_all(claims).await;
        let mut given: Vec<_> = all
            .into_iter()
            .flatten()
            .map(|replica| replica.address)
            .collect();
        given.sort();
        assert_eq!(
            given,
            [
                "127.78.0.1:8080".parse().unwrap(),
                "127.78.0.2:8080".parse().unwrap()
            ]
        );
        for count in asked {
            assert_eq!(count.assignments.load(Ordering::SeqCst), 1);
        }
        // Nothing is written to the cluster yet, and both count as the function's.
        let claims = lock(&bench.live.claims).clone();
        assert_eq!(claims.len(), 2);
        assert!(claims.values().all(|claim| claim.replica.is_some()));
    }

    /// Would fail if a function that is made anew became the owner of a pod that has the key of the one before, or a pod that was
    /// taken were told to stand by.
    #[tokio::test]
    async fn a_pod_of_a_function_that_was_made_anew_meanwhile_is_ended() {
        host("127.78.9.1", SERVES).await;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let remembered = Arc::clone(&asked);
        let client = api_server::client(move |asked, _| {
            lock(&remembered).push(asked.to_owned());
            refusal(404)
        });
        let mut bench = Bench::with(client, &["127.78.9.1"]);
        let ready = |bench: &Bench| bench.pools.ready(&pool(json!({})));
        assert_eq!(ready(&bench), 1);
        let replica = bench.pools.claim(&bench.id, &Span::default()).await;
        assert!(replica.is_some());
        // Nothing is written of it yet, and nobody else can take it.
        assert_eq!(ready(&bench), 0);
        let mut anew = function(json!({"component": {"image": "r/x:1"}}));
        anew.metadata.uid = Some("u-2".to_owned());
        let functions = bench.feed.store();
        functions.apply_watcher_event(&Event::Apply(anew));
        while !lock(&bench.live.claims).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let asked = lock(&asked).clone();
        assert_eq!(asked, ["DELETE /api/v1/namespaces/vision/pods/p-0"]);
    }

    /// Would fail if a pod that an admission policy lets nobody have were nobody's for ever, or if others were lost after it;
    /// or if an API server that says nothing were taken for one that refuses.
    #[tokio::test]
    async fn a_pod_that_may_not_become_a_functions_is_ended_and_no_other_is_taken() {
        for (code, is_refused) in [(403, true), (409, true), (422, true), (500, false)] {
            let asked = Arc::new(Mutex::new(Vec::new()));
            let remembered = Arc::clone(&asked);
            let client = api_server::client(move |asked, _| {
                let mut all = lock(&remembered);
                all.push(asked.split(' ').next().unwrap_or_default().to_owned());
                // It is gone in the end.
                refusal(if all.len() < 4 { code } else { 404 })
            });
            let bench = Bench::with(client, &["127.78.13.1"]);
            let pools = bench.pools.cluster.pools().state();
            let claimable = claimable(json!({"component": {"image": "r/x:1"}})).unwrap();
            let (_, pod) = bench.pools.take(&pools, &claimable).unwrap();
            let claim = Claim {
                revision: claimable.revision.clone(),
                replica: None,
            };
            lock(&bench.live.claims).insert(pod.name_any(), claim);
            let (id, live, pools) = (&bench.id, &bench.live, &bench.pools);
            let patience = Duration::from_millis(60);
            let adopted = pools.adopt(id, live, "warm", &pod, &claimable, patience);
            assert!(!adopted.await);
            let asked = lock(&asked).join(" ");
            let expected = if is_refused {
                "PATCH PATCH PATCH DELETE"
            } else {
                "PATCH PATCH PATCH PATCH"
            };
            assert_eq!(asked, expected, "{code}");
            assert_eq!(lock(&live.claims).is_empty(), is_refused);
            let why = pools.refusals.why("vision", Instant::now());
            assert_eq!(why.is_some(), is_refused, "{why:?}");
            if is_refused {
                stand_by(&pools.cluster, 1, "127.78.13.2", "True");
                assert_eq!(pools.claim(id, &Span::default()).await, None);
                assert!(!lock(&pools.taken).contains_key("pod-1"));
            }
        }
    }

    /// Would fail if a pod were nobody's for ever, and never ended, because somebody else wrote to it at the same time; or if
    /// another were marked that has its name by now, or one asked for for ever that is gone.
    #[tokio::test]
    async fn a_pod_that_somebody_else_wrote_to_is_marked_nevertheless() {
        for (is_there, expected) in [(true, 2), (false, 1)] {
            let tried = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&tried);
            let client =
                api_server::client(move |_, _| match counted.fetch_add(1, Ordering::SeqCst) {
                    0 => refusal(409),
                    _ => (200, json!({"metadata": {"name": "p-0"}})),
                });
            let bench = Bench::with(client, &["127.78.16.1"]);
            let (id, live, pools) = (&bench.id, &bench.live, &bench.pools);
            let claimable = claimable(json!({"component": {"image": "r/x:1"}})).unwrap();
            let all = pools.cluster.pools().state();
            let (_, pod) = pools.take(&all, &claimable).unwrap();
            if !is_there {
                let mut anew = pod.as_ref().clone();
                anew.metadata.uid = Some("another".to_owned());
                pools.cluster.warm.apply(Event::Apply(anew));
            }
            let patience = Duration::from_secs(60);
            let adopted = pools.adopt(id, live, "warm", &pod, &claimable, patience);
            assert_eq!(adopted.await, is_there);
            assert_eq!(tried.load(Ordering::SeqCst), expected);
            assert_eq!(pools.refusals.why("vision", Instant::now()), None);
        }
    }

    /// Would fail if a pool whose objects are refused said nothing of it, or were tried each time that pools are looked at;
    /// or if it were told again and again what the cluster doesn't keep.
    #[tokio::test]
    async fn a_pool_whose_objects_are_refused_says_so_and_is_tried_ever_less_often() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let tried = Arc::new(AtomicUsize::new(0));
        let (remembered, counted) = (Arc::clone(&told), Arc::clone(&tried));
        let client = api_server::client(move |asked, mut sent| {
            if asked.ends_with("/runtimepools/warm/status") {
                let ready = &sent["status"]["conditions"][0];
                lock(&remembered).push(format!("{}: {}", ready["reason"], ready["message"]));
                sent["spec"] = json!({});
                return (200, sent);
            }
            counted.fetch_add(1, Ordering::SeqCst);
            refusal(500)
        });
        let bench = Bench::with(client, &[]);
        let says_so = || lock(&told).iter().any(|told| told.contains("NotApplied"));
        let began = Instant::now();
        while tried.load(Ordering::SeqCst) == 0 {
            bench.pools.tick(began, Duration::ZERO);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let later = began + keep::SAID_EVERY;
        while !says_so() {
            bench.pools.tick(later, Duration::ZERO);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        for _ in 0..20 {
            bench.pools.tick(later, Duration::ZERO);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(tried.load(Ordering::SeqCst), 1);
        let told = lock(&told).clone();
        assert!(told.len() <= 2, "{told:?}");
        let why = "\"the NetworkPolicy wisp-pool.warm can't be removed: ";
        assert!(told.last().unwrap().contains(why), "{told:?}");
    }

    /// Would fail if a pool's status were written for each pod that comes and goes, or its last were not.
    #[tokio::test]
    async fn what_changes_often_is_told_once_a_second() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let remembered = Arc::clone(&told);
        let client = api_server::client(move |asked, mut sent| {
            if !asked.ends_with("/runtimepools/warm/status") {
                return refusal(404);
            }
            lock(&remembered).push(sent["status"]["readyReplicas"].clone());
            sent["spec"] = json!({});
            (200, sent)
        });
        let bench = Bench::with(client, &[]);
        let (pools, began) = (&bench.pools, Instant::now());
        for (index, millis) in [0, 500, 999, 1000].into_iter().enumerate() {
            stand_by(&pools.cluster, index, "127.78.15.1", "True");
            let now = began + Duration::from_millis(millis);
            // Time enough for what is not to be.
            for _ in 0..100 {
                pools.tick(now, Duration::ZERO);
                tokio::task::yield_now().await;
            }
            let told = async {
                while lock(&told).last() != Some(&json!(index + 1)) {
                    pools.tick(now, Duration::ZERO);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            if millis % 1000 == 0 {
                let told = tokio::time::timeout(Duration::from_secs(20), told).await;
                told.expect("it is told");
            }
        }
        assert_eq!(*lock(&told), [1, 4]);
    }

    /// Would fail if a pod that another operator assigned were taken for this function's, or the next weren't tried.
    #[tokio::test]
    async fn a_pod_that_is_anothers_already_is_left_and_the_next_is_taken() {
        host("127.78.1.1", refuses(409, "assigned")).await;
        host("127.78.1.2", SERVES).await;
        let bench = Bench::new(&["127.78.1.1", "127.78.1.2"]);
        let replica = bench
            .pools
            .claim(&bench.id, &Span::default())
            .await
            .unwrap();
        assert_eq!(replica.address, "127.78.1.2:8080".parse().unwrap());
        assert_eq!(lock(&bench.live.claims).len(), 1);
    }

    /// Would fail if a function that can't start used up all pods that stand by.
    #[tokio::test]
    async fn a_function_that_cannot_start_takes_one_pod() {
        host("127.78.2.1", refuses(422, "failed")).await;
        let second = host("127.78.2.2", SERVES).await;
        let bench = Bench::new(&["127.78.2.1", "127.78.2.2"]);
        assert_eq!(bench.pools.claim(&bench.id, &Span::default()).await, None);
        assert_eq!(second.assignments.load(Ordering::SeqCst), 0);
        assert!(lock(&bench.live.claims).is_empty());
    }

    /// Would fail if a function that kills the pods it is loaded in were given one after the other until none stands by.
    #[tokio::test]
    async fn a_function_that_loses_a_pod_takes_no_other() {
        // It answers with what is no answer, and that is the end of the connection.
        host("127.78.7.1", "gone").await;
        let second = host("127.78.7.2", SERVES).await;
        let bench = Bench::new(&["127.78.7.1", "127.78.7.2"]);
        assert_eq!(bench.pools.claim(&bench.id, &Span::default()).await, None);
        assert_eq!(second.assignments.load(Ordering::SeqCst), 0);
        assert!(lock(&bench.live.claims).is_empty());
    }

    /// Would fail if a pod whose assignment was broken off went on counting as the function's, or were given to another:
    /// nobody knows what became of it.
    #[tokio::test]
    async fn a_pod_that_is_being_assigned_when_its_wake_up_ends_is_nobodys() {
        let silent = TcpListener::bind(("127.78.5.1", CONTROL_PORT)).await;
        let bench = Bench::new(&["127.78.5.1"]);
        let (pools, id) = (Arc::clone(&bench.pools), bench.id.clone());
        let waking = tokio::spawn(async move { pools.claim(&id, &Span::default()).await });
        let (connection, _) = silent.unwrap().accept().await.unwrap();
        assert_eq!(lock(&bench.live.claims).len(), 1);
        waking.abort();
        assert!(waking.await.unwrap_err().is_cancelled());
        assert!(lock(&bench.live.claims).is_empty());
        assert_eq!(bench.pools.claim(&bench.id, &Span::default()).await, None);
        drop(connection);
    }

    /// Would fail if a wake-up waited for a node that lost its power for as long as TCP does.
    #[tokio::test]
    async fn a_pod_whose_node_is_gone_is_left_soon() {
        let gone = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let gone = gone.unwrap();
        let address: SocketAddr = ([127, 78, 6, 1], CONTROL_PORT).into();
        gone.bind(&address.into()).unwrap();
        gone.listen(0).unwrap();
        // With this one its queue is full: the kernel answers nobody any more.
        let _first = std::net::TcpStream::connect(address).unwrap();
        host("127.78.6.2", SERVES).await;
        let bench = Bench::new(&["127.78.6.1", "127.78.6.2"]);
        let span = Span::default();
        let claim = bench.pools.claim(&bench.id, &span);
        let replica = tokio::time::timeout(PATIENCE / 2, claim).await.unwrap();
        assert_eq!(replica.unwrap().address, "127.78.6.2:8080".parse().unwrap());
    }

    /// Would fail if who finds no pod had one made although the pool's next is on its way, or waited for the kubelet's
    /// word, or waited where no pod will come.
    #[tokio::test]
    async fn who_finds_no_pod_gets_the_next_that_comes_up() {
        let warm = "HTTP/1.1 200 OK\r\ncontent-length: 46\r\n\r\n{\"phase\": \"ready\", \"inFlight\": 0, \"queued\": 0}";
        host("127.78.3.1", warm).await;
        let bench = Bench::new(&[]);
        // There is nothing that would make pods.
        assert_eq!(bench.pools.claim(&bench.id, &Span::default()).await, None);
        let cluster = &bench.pools.cluster;
        let waiting = bench.begin_to_wait().await;
        stand_by(cluster, 0, "127.78.3.1", "False");
        bench.pools.ask_new_pods(&cluster.pools().state());
        let replica = waiting.await.unwrap().unwrap();
        assert_eq!(replica.address, "127.78.3.1:8080".parse().unwrap());
        assert_eq!(*bench.pools.queue.waiting.borrow(), 0);
    }

    /// Would fail if who is broken off counted as one who waits for ever: nothing would be held or resized any more.
    #[tokio::test]
    async fn who_is_broken_off_waits_no_more() {
        let bench = Bench::new(&[]);
        let (queue, id) = (&bench.pools.queue, pool_id(&pool(json!({}))).unwrap());
        let waiting = bench.begin_to_wait().await;
        assert!(queue.is_awaited(&id));
        waiting.abort();
        let mut queued = queue.waiting.subscribe();
        queued.wait_for(|waiting| *waiting == 0).await.unwrap();
        assert!(!queue.is_awaited(&id));
    }

    /// Would fail if a wake-up waited for a connection that is there already, or relied on one that is closed.
    #[tokio::test]
    async fn a_pod_is_assigned_over_the_connection_that_was_kept() {
        for (address, is_kept, expected) in [("127.78.4.1", true, 1), ("127.78.4.2", false, 2)] {
            let asked = host(address, SERVES).await;
            let bench = Bench::new(&[address]);
            let wanted = ["a".to_owned()].into();
            assert!(bench.pools.holds.begin("pod-0/0", &wanted, Instant::now()));
            let connection = Connection::open(address.parse().unwrap()).await.unwrap();
            while !connection.is_open() {
                tokio::task::yield_now().await;
            }
            if is_kept {
                bench.pools.holds.keep("pod-0/0", connection);
            }
            let replica = bench.pools.claim(&bench.id, &Span::default()).await;
            assert!(replica.is_some());
            assert_eq!(asked.connections.load(Ordering::SeqCst), expected);
        }
    }

    /// Would fail if a function took a pod without its models while one stands by that has them, or one without models
    /// took a pod from those who need them.
    #[tokio::test]
    async fn pools_that_keep_the_functions_models_come_first() {
        let bench = Bench::new(&[]);
        let mut with_models =
            pool(json!({"models": [{"name": "m", "source": {"image": "r/m:1"}}]}));
        with_models.metadata.name = Some("models".to_owned());
        let id = pool_id(&with_models).unwrap();
        let plain = claimable(json!({"component": {"image": "r/x:1"}})).unwrap();
        let mut asking = plain.clone();
        let model: wisp_contract::config::Model =
            serde_json::from_value(json!({"name": "mine", "file": "artifact:aa"})).unwrap();
        asking.assignment.as_mut().unwrap().config.models = vec![model.clone()];
        let kept = [models::Kept {
            model: wisp_contract::config::Model {
                name: "theirs".to_owned(),
                ..model
            },
            stored: Stored {
                source: "aa".to_owned(),
                size: 600 << 20,
                sha256: "aa".to_owned(),
                pinned: None,
                compiled: Vec::new(),
                memory: 0,
            },
        }];
        assert_eq!(asking.mismatch(&kept), (0, 0));
        assert_eq!(asking.mismatch(&[]), (1, 0));
        assert_eq!(plain.mismatch(&kept), (0, 1));
        assert_eq!(plain.mismatch(&[]), (0, 0));
        // The pods of the pool have room for the models that it keeps.
        assert_eq!(plain.fits(&with_models, models::bytes(&kept)), Ok(()));
        assert!(matches!(
            bench.pools.models(Instant::now(), &id, &with_models),
            State::Working
        ));
    }

    /// Would fail if a tag that moved replaced all pods of a pool once another operator leads, or a change of the models took
    /// what another tag meant.
    #[tokio::test]
    async fn another_operator_takes_the_same_models() {
        let of = |image: &str| pool(json!({"models": [{"name": "m", "source": {"image": image}}]}));
        let first = Bench::new(&[]);
        let pool = of("r/m:1");
        let kept = models_of(&first, &pool).await;
        let mut deployment = keep::deployment(&pool, "{}", &kept, &settings());
        deployment.metadata.namespace = Some("vision".to_owned());

        let second = Bench::new(&[]);
        let deployments = &second.pools.cluster.warm_deployments;
        deployments.apply(Event::Apply(deployment));
        let asked = || second.store.asked.lock().unwrap().clone();
        assert_eq!(models_of(&second, &pool).await, kept);
        let pinned = kept[0].stored.pinned.clone().unwrap();
        let source = kept[0].stored.source.clone();
        assert_eq!(asked(), [(pinned, Some(source.clone()))]);
        assert_eq!(
            second.store.held("pool/vision/warm"),
            [source.clone(), source]
        );
        // One that only keeps more pods is as it was.
        let mut more = pool.clone();
        more.spec.min_replicas = 3;
        more.metadata.generation = Some(2);
        models_of(&second, &more).await;
        assert_eq!(asked().len(), 1);
        models_of(&second, &of("r/m:2")).await;
        assert_eq!(asked()[1], ("r/m:2".to_owned(), None));
    }

    /// Would fail if who may write Deployments had a pool get, by its digest, what the store has of others.
    #[tokio::test]
    async fn what_others_note_on_a_deployment_pins_nothing() {
        let pool = pool(json!({"models": [{"name": "m", "source": {"image": "r/m:1"}}]}));
        let noting = Bench::new(&[]);
        let kept = models_of(&noting, &pool).await;
        let noted = keep::deployment(&pool, "{}", &kept, &settings());
        let forged = |key: &str, value: Option<&str>| {
            let mut deployment = noted.clone();
            deployment.metadata.namespace = Some("vision".to_owned());
            let notes = deployment.metadata.annotations.as_mut().unwrap();
            notes.remove(key);
            notes.extend(value.map(|value| (key.to_owned(), value.to_owned())));
            deployment
        };
        let others = format!(
            r#"{{"models": {{"m": {{"sha256": "{}"}}}}}}"#,
            "b".repeat(64)
        );
        for deployment in [
            forged(PINS_ANNOTATION, Some(&others)),
            forged(PINNED_ANNOTATION, None),
            forged(PINNED_ANNOTATION, Some("")),
            forged(PINNED_ANNOTATION, Some(&"0".repeat(64))),
        ] {
            let bench = Bench::new(&[]);
            let deployments = &bench.pools.cluster.warm_deployments;
            deployments.apply(Event::Apply(deployment));
            models_of(&bench, &pool).await;
            let asked = bench.store.asked.lock().unwrap().clone();
            assert_eq!(asked, [("r/m:1".to_owned(), None)]);
        }
    }

    /// Would fail if a pool whose image was pushed anew, and is gone as it was, had no models until its spec changes, or had
    /// others, too, for what their tags mean by now.
    #[tokio::test]
    async fn a_pool_whose_pin_is_gone_takes_what_that_tag_means() {
        let model = |name: &str| json!({"name": name, "source": {"image": format!("r/{name}:1")}});
        let pool = pool(json!({"models": [model("l"), model("m")]}));
        let kept = models_of(&Bench::new(&[]), &pool).await;
        let mut gone = kept.to_vec();
        gone[1].stored.pinned = Some("r/missing@sha256:m".to_owned());
        let mut deployment = keep::deployment(&pool, "{}", &gone, &settings());
        deployment.metadata.namespace = Some("vision".to_owned());
        let bench = Bench::new(&[]);
        let deployments = &bench.pools.cluster.warm_deployments;
        deployments.apply(Event::Apply(deployment));
        assert_eq!(models_of(&bench, &pool).await, kept);
        let (other, missing) = ("r/l:1@sha256:m", "r/missing@sha256:m");
        assert_eq!(bench.store.asked(), [other, missing, other, "r/m:1"]);
    }

    /// Would fail if a pool's model could go, or didn't count as its namespace's, while the next is fetched.
    #[tokio::test]
    async fn a_pools_model_stays_while_the_next_is_fetched() {
        let gate = Arc::new(Semaphore::new(1));
        let bench = Bench::over(nobody(), &[], Some(Arc::clone(&gate)));
        let model = |name: &str| json!({"name": name, "source": {"image": format!("r/{name}:1")}});
        let pool = pool(json!({"models": [model("l"), model("m")]}));
        let id = pool_id(&pool).unwrap();
        bench.pools.models(Instant::now(), &id, &pool);
        while bench.store.asked().len() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(bench.store.held_by("/vision/warm"), ["aa"]);
        gate.add_permits(1);
        models_of(&bench, &pool).await;
        assert_eq!(bench.store.held("pool/vision/warm")[0], "aa");
    }

    /// Would fail if a pull secret that was mended, or what somebody asks for, waited for the next attempt in its time.
    #[tokio::test]
    async fn what_changes_beside_a_pool_is_tried_at_once() {
        let login = json!({
            "metadata": {"name": "login", "namespace": "vision", "resourceVersion": "1"},
            "type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "e30="},
        });
        let reads = AtomicUsize::new(0);
        let client = api_server::client(move |asked, _| match asked {
            "GET /api/v1/namespaces/vision/secrets/login" => {
                match reads.fetch_add(1, Ordering::Relaxed) {
                    0 => refusal(404),
                    _ => (200, login.clone()),
                }
            }
            // What the watch begins with is what was made since.
            "GET /api/v1/namespaces/vision/secrets" => (
                200,
                json!({"metadata": {"resourceVersion": "1"}, "items": [login.clone()]}),
            ),
            other => panic!("{other}"),
        });
        let bench = Bench::with(client, &[]);
        let mut pool = pool(json!({
            "pullSecrets": [{"name": "login"}],
            "models": [{"name": "m", "source": {"image": "r/m:1"}}],
        }));
        // No time passes.
        let (id, began) = (pool_id(&pool).unwrap(), Instant::now());
        let now = |pool: &RuntimePool| bench.pools.models(began, &id, pool);
        let here = async {
            while !matches!(now(&pool), State::Here(_)) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let here = tokio::time::timeout(Duration::from_secs(20), here).await;
        here.expect("it is tried again");
        assert_eq!(bench.store.asked(), ["r/m:1"]);

        // What is here stays meanwhile, and means the same.
        for requested in [None, Some("1")] {
            let asked = bench.store.asked().len();
            match requested {
                None => bench.pools.inputs_changed(&id),
                Some(at) => pool
                    .annotations_mut()
                    .extend([("wisp.dev/requested-at".to_owned(), at.to_owned())]),
            }
            for _ in 0..100 {
                assert!(matches!(now(&pool), State::Here(_)));
                tokio::task::yield_now().await;
            }
            assert_eq!(bench.store.asked()[asked], "r/m:1@sha256:m");
        }
        // Nobody asks for anything by that.
        let asked = bench.store.asked().len();
        pool.annotations_mut().clear();
        for _ in 0..100 {
            now(&pool);
            tokio::task::yield_now().await;
        }
        assert_eq!(bench.store.asked().len(), asked);
    }

    /// Would fail if a pool forgot what its pods have because that can't be fetched anew: it told them smaller limits, no functions
    /// with models fitted any more, and its objects stayed as they were.
    #[tokio::test]
    async fn what_a_pools_pods_have_stays_where_it_cannot_be_fetched_anew() {
        let login = json!({
            "metadata": {"name": "login", "namespace": "vision", "resourceVersion": "1"},
            "type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "e30="},
        });
        let is_gone = Arc::new(AtomicBool::new(false));
        let gone = Arc::clone(&is_gone);
        let client = api_server::client(move |asked, _| match asked {
            "GET /api/v1/namespaces/vision/secrets/login" if gone.load(Ordering::Relaxed) => {
                refusal(404)
            }
            "GET /api/v1/namespaces/vision/secrets/login" => (200, login.clone()),
            _ => refusal(500),
        });
        let bench = Bench::with(client, &[]);
        let pool = pool(json!({
            "pullSecrets": [{"name": "login"}],
            "models": [{"name": "m", "source": {"image": "r/m:1"}}],
        }));
        let (id, began) = (pool_id(&pool).unwrap(), Instant::now());
        let now = || bench.pools.models(began, &id, &pool);
        let kept = models_of(&bench, &pool).await;
        is_gone.store(true, Ordering::Relaxed);
        bench.pools.inputs_changed(&id);
        let State::Failed(error, retry_at, _) = until(now, |now| !is_here(now)).await else {
            panic!("it can't be fetched");
        };
        assert_eq!(error.reason, "PullSecretNotFound");
        assert_eq!(now().kept(), Some(&kept));
        assert_eq!(bench.pools.kept(&id), kept);

        // The error is told until it is known whether it goes on; what is mended is taken as it was.
        is_gone.store(false, Ordering::Relaxed);
        let again = bench.pools.models(retry_at, &id, &pool);
        assert!(matches!(again, State::Failed(..)));
        assert_eq!(again.kept(), Some(&kept));
        until(now, is_here).await;
        assert_eq!(bench.store.asked(), ["r/m:1", "r/m:1@sha256:m"]);
    }

    /// Would fail if a URL that has no model any more were asked twice, as if there were a tag that means another by now.
    #[tokio::test]
    async fn a_url_that_has_no_model_is_asked_once() {
        let url = "https://example.com/missing";
        let source = json!({"url": url, "sha256": "c".repeat(64)});
        let pool = pool(json!({"models": [{"name": "m", "source": source}]}));
        let image = json!({"models": [{"name": "m", "source": {"image": "r/m:1"}}]});
        let mut kept = models_of(&Bench::new(&[]), &super::pool(image))
            .await
            .to_vec();
        kept[0].stored.pinned = None;
        let mut deployment = keep::deployment(&pool, "{}", &kept, &settings());
        deployment.metadata.namespace = Some("vision".to_owned());
        let bench = Bench::new(&[]);
        let deployments = &bench.pools.cluster.warm_deployments;
        deployments.apply(Event::Apply(deployment));
        let (id, began) = (pool_id(&pool).unwrap(), Instant::now());
        let now = || bench.pools.models(began, &id, &pool);
        until(now, |now| matches!(now, State::Failed(..))).await;
        assert_eq!(bench.store.asked(), [url]);
    }

    /// Would fail if an attempt that is of no use any more ended the one of the same models that goes on, so that two did at once.
    #[tokio::test]
    async fn an_attempt_ends_itself_alone() {
        let of = |image: &str| pool(json!({"models": [{"name": "m", "source": {"image": image}}]}));
        let (one, other) = (of("r/m:1"), of("r/m:2"));
        let gate = Arc::new(Semaphore::new(0));
        let bench = Bench::over(nobody(), &[], Some(Arc::clone(&gate)));
        let (id, now) = (pool_id(&one).unwrap(), Instant::now());
        for (count, pool) in [&one, &other, &one].into_iter().enumerate() {
            bench.pools.models(now, &id, pool);
            while bench.store.asked().len() <= count {
                tokio::task::yield_now().await;
            }
        }
        for is_last in [false, false, true] {
            gate.add_permits(1);
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            assert_eq!(is_here(&bench.pools.models(now, &id, &one)), is_last);
        }
        assert_eq!(bench.store.asked(), ["r/m:1", "r/m:2", "r/m:1"]);
    }

    fn is_here(state: &State) -> bool {
        matches!(state, State::Here(_))
    }

    /// The state, once it is so.
    async fn until(now: impl Fn() -> State, is_so: impl Fn(&State) -> bool) -> State {
        let so = async {
            loop {
                let state = now();
                if is_so(&state) {
                    return state;
                }
                tokio::task::yield_now().await;
            }
        };
        let so = tokio::time::timeout(Duration::from_secs(20), so).await;
        so.expect("it becomes so")
    }

    /// The pool's models, once they are there.
    async fn models_of(bench: &Bench, pool: &RuntimePool) -> Arc<[Kept]> {
        let id = pool_id(pool).unwrap();
        loop {
            match bench.pools.models(Instant::now(), &id, pool) {
                State::Here(kept) => return kept,
                State::Working => tokio::task::yield_now().await,
                State::Failed(error, ..) => panic!("{error}"),
            }
        }
    }
}
