use std::sync::Mutex;

use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::runtime::watcher::Event;
use serde_json::json;
use tokio::sync::Semaphore;

use super::*;
use crate::api_server;
use crate::cluster::Feed;
use crate::live::Functions;
use crate::names;
use crate::pins::{self, PINNED_ANNOTATION, PINS_ANNOTATION};
use crate::reconcile::desired::ARTIFACTS_ANNOTATION;
use crate::references::{Kind, Reference};
use crate::resolve::tests::Store;
use crate::resolve::{Pin, Pins};

/// A function whose component takes until `gate` opens, and whose variable is what the ConfigMap has.
struct Bench {
    resolver: Arc<Resolver>,
    live: Arc<Live>,
    feed: Feed,
    store: Arc<Store>,
    gate: Arc<Semaphore>,
    level: Arc<Mutex<&'static str>>,
    /// What the annotation says by which another attempt is asked for.
    requested: Option<&'static str>,
    id: FunctionId,
}

fn root() -> Root {
    Root::new(&"k".repeat(64)).unwrap()
}

impl Bench {
    fn new() -> Self {
        let (cluster, feed) = Cluster::new();
        let gate = Arc::new(Semaphore::new(0));
        let store = Arc::new(Store {
            gate: Some(Arc::clone(&gate)),
            ..Store::default()
        });
        let level = Arc::new(Mutex::new("1"));
        let told = Arc::clone(&level);
        let client = api_server::client(move |asked, _| {
            assert_eq!(asked, "GET /api/v1/namespaces/n/configmaps/settings");
            let level = *lock(&told);
            let metadata = json!({"name": "settings", "namespace": "n", "resourceVersion": level});
            (200, json!({"metadata": metadata, "data": {"level": level}}))
        });
        let artifacts: Arc<dyn Artifacts> = Arc::clone(&store) as _;
        let resolver = Resolver::new(client, cluster, artifacts, Arc::default(), root());
        Self {
            resolver: Arc::new(resolver),
            live: Arc::default(),
            feed,
            store,
            gate,
            level,
            requested: None,
            id: "n/f".parse().unwrap(),
        }
    }

    /// Has the function's component at `url`, and resolves it.
    async fn outcome(&mut self, generation: i64, url: &str) -> Outcome {
        let requested = self.requested.map(|at| json!({REQUESTED_AT: at}));
        let function: Function = serde_json::from_value(json!({
            "apiVersion": "wisp.dev/v1alpha1", "kind": "Function",
            "metadata": {"name": "f", "namespace": "n", "generation": generation, "annotations": requested},
            "spec": {
                "component": {"url": url, "sha256": "a".repeat(64)},
                "env": [{"name": "LEVEL", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "level"}}}],
            },
        }))
        .unwrap();
        let store = self.feed.store();
        store.apply_watcher_event(&Event::Apply(function.clone()));
        self.resolver.outcome(&self.id, &function, &self.live).await
    }

    /// Until all that can be done without the component is done.
    async fn quiet() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
}

/// Would fail if a long download began anew whenever something else changed, if what had changed were lost, or if one went
/// on that nobody needs any more.
#[tokio::test]
async fn a_fetch_goes_on_as_long_as_it_is_what_is_needed() {
    let mut bench = Bench::new();
    let (first, second) = ("https://a.example/x.wasm", "https://b.example/x.wasm");
    assert!(matches!(bench.outcome(1, first).await, Outcome::Working));
    assert_eq!(bench.store.asked(), [first]);
    assert_eq!(lock(&bench.live.resolution).stage, Stage::Preparing);

    *lock(&bench.level) = "2";
    bench.live.inputs_changed();
    assert!(matches!(bench.outcome(1, first).await, Outcome::Working));
    Bench::quiet().await;
    assert_eq!(bench.store.asked(), [first]);

    assert!(matches!(bench.outcome(2, second).await, Outcome::Working));
    Bench::quiet().await;
    assert_eq!(bench.store.asked(), [first, second]);

    // The one that was in vain is gone: it takes no permit.
    *lock(&bench.level) = "3";
    bench.live.inputs_changed();
    assert!(matches!(bench.outcome(2, second).await, Outcome::Working));
    Bench::quiet().await;
    bench.gate.add_permits(2);
    Bench::quiet().await;
    assert_eq!(bench.store.asked(), [first, second, second]);
    let Outcome::Resolved(resolved) = bench.outcome(2, second).await else {
        panic!("it is there");
    };
    let level = serde_json::to_value(&resolved.values.env).unwrap();
    assert!(level.to_string().contains("\"3\""), "{level}");
    let versions = lock(&bench.live.resolution).versions.clone();
    assert_eq!(
        versions.into_values().collect::<Vec<_>>(),
        [Some("3".to_owned())]
    );
    assert_eq!(bench.store.asked().len(), 3);
    // What came stays, by then as what the function needs.
    assert_eq!(bench.store.held("n/f"), ["a".repeat(64)]);
    assert!(bench.store.held_by("/n/f").is_empty());
}

#[test]
fn attempts_are_made_ever_less_often_and_never_stop() {
    let pauses =
        |is_transient| [0, 1, 5, 40].map(|failures| back_off(failures, is_transient).as_secs());
    assert_eq!(pauses(true), [1, 2, 30, 30]);
    assert_eq!(pauses(false), [5, 10, 160, 300]);
}

/// Would fail if what somebody mends, in the spec or in what it names, were found only by the next attempt in its time.
#[tokio::test]
async fn what_changes_is_tried_at_once_and_often_anew() {
    let mut bench = Bench::new();
    bench.gate.add_permits(100);
    let url = "https://a.example/missing.wasm";
    for attempt in 1..=4 {
        bench.outcome(1, url).await;
        Bench::quiet().await;
        let mut resolution = lock(&bench.live.resolution);
        assert_eq!(resolution.failures, attempt);
        let last = resolution.last.as_mut().unwrap();
        last.retry_at = Some(Instant::now());
    }
    bench.live.inputs_changed();
    for generation in [1, 2] {
        bench.outcome(generation, url).await;
        Bench::quiet().await;
        assert_eq!(lock(&bench.live.resolution).failures, 1);
        let asked = bench.store.asked().len();
        bench.outcome(generation, url).await;
        Bench::quiet().await;
        assert_eq!(bench.store.asked().len(), asked, "in its time");
    }
}

/// Would fail if who mended what is outside of the cluster had to wait for the next attempt in its time, weren't told that there
/// is another, or had it again and again; or if what was resolved were taken for something else meanwhile.
#[tokio::test]
async fn who_asks_for_another_attempt_has_it_at_once() {
    let mut bench = Bench::new();
    let missing = "https://a.example/missing.wasm";
    bench.gate.add_permits(1);
    for requested in [None, Some("1"), Some("2")] {
        bench.requested = requested;
        let asked = bench.store.asked().len();
        if requested.is_some() {
            let outcome = bench.outcome(1, missing).await;
            assert!(matches!(outcome, Outcome::Working), "{outcome:?}");
            bench.gate.add_permits(1);
            Bench::quiet().await;
        }
        for _ in 0..2 {
            let outcome = bench.outcome(1, missing).await;
            assert!(matches!(outcome, Outcome::Failed(..)), "{outcome:?}");
        }
        assert_eq!(bench.store.asked().len(), asked + 1);
        assert_eq!(lock(&bench.live.resolution).failures, 1);
    }

    let there = "https://a.example/x.wasm";
    bench.gate.add_permits(1);
    let Outcome::Resolved(before) = bench.outcome(2, there).await else {
        panic!("it is there");
    };
    bench.requested = Some("3");
    let Outcome::Resolved(meanwhile) = bench.outcome(2, there).await else {
        panic!("it was there");
    };
    assert_eq!(meanwhile, before);
}

/// Would fail if a function were reconciled again and again while its registry is asked once more, or never again once
/// an attempt ended without a word.
#[tokio::test]
async fn what_is_being_tried_again_has_no_time_at_which_to_try() {
    let (live, mut function) = (Live::default(), Function::new("f", Default::default()));
    function.metadata.generation = Some(1);
    let inputs = Inputs {
        generation: 1,
        change: 0,
        requested: None,
    };
    let retry_at = Instant::now();
    let error = ResolveError {
        part: crate::resolve::Part::Component,
        reason: "Unreachable",
        message: "m".to_owned(),
        is_transient: true,
        retry_after: None,
        model: None,
    };
    lock(&live.resolution).last = Some(Settled {
        inputs,
        outcome: Err(error),
        retry_at: Some(retry_at),
    });
    let at = || match known(&function, &live) {
        Outcome::Failed(_, at) => at,
        other => panic!("{other:?}"),
    };
    assert_eq!(at(), Some(retry_at));
    let attempt = tokio::spawn(std::future::pending::<()>());
    lock(&live.resolution).running = Some(attempt.abort_handle());
    assert_eq!(at(), None);
    attempt.abort();
    assert!(attempt.await.is_err());
    assert_eq!(at(), Some(retry_at));
}

/// A function, and its revision, by which its tag meant `image` for the operator with `noting`.
fn pinned(image: &str, noting: &Root) -> (Function, ControllerRevision) {
    let function: Function = serde_json::from_value(json!({
        "apiVersion": "wisp.dev/v1alpha1", "kind": "Function",
        "metadata": {"name": "f", "namespace": "n", "uid": "u", "generation": 1},
        "spec": {"component": {"image": "r/x:1"}},
    }))
    .unwrap();
    let pin = Pin {
        image: Some(image.to_owned()),
        sha256: "a".repeat(64),
    };
    let pins = Pins {
        component: Some(pin),
        ..Pins::default()
    };
    let mut metadata = names::owned(&function, "f-1", names::revision_labels("f", "f-1"));
    let notes = pins::notes(noting, "u", resolve::spec_digest(&function), &pins);
    metadata.annotations = Some(notes.unwrap());
    let record = ControllerRevision {
        metadata,
        revision: Some(1),
        ..ControllerRevision::default()
    };
    (function, record)
}

impl Bench {
    /// Resolves `function`, of which there is the revision `record`.
    async fn outcome_of(&mut self, function: &Function, record: ControllerRevision) -> Outcome {
        self.gate.add_permits(2);
        let revisions = &self.resolver.cluster.revisions;
        revisions.apply(Event::Apply(record));
        let store = self.feed.store();
        store.apply_watcher_event(&Event::Apply(function.clone()));
        let live = Functions::default().enter(&self.id, "u");
        self.resolver.outcome(&self.id, function, &live).await
    }
}

/// Would fail if a function whose tag was pushed anew, and whose image is gone as it was, weren't resolved until its spec changes;
/// or if what it runs from then on weren't another revision's.
#[tokio::test]
async fn a_tag_whose_meaning_is_gone_is_resolved_anew() {
    let (function, record) = pinned("r/missing@sha256:m", &root());
    let mut bench = Bench::new();
    let Outcome::Resolved(resolved) = bench.outcome_of(&function, record).await else {
        panic!("the tag is there");
    };
    assert_eq!(bench.store.asked(), ["r/missing@sha256:m", "r/x:1"]);
    let pin = resolved.pins().component.unwrap();
    assert_eq!(pin.image.as_deref(), Some("r/x:1@sha256:m"));
    assert_eq!(pin.sha256, "aa");
}

/// Would fail if who may write ControllerRevisions had a function get, by its digest, what the store has of others, or run what
/// the signature policy was not asked about.
#[tokio::test]
async fn what_others_note_on_a_revision_pins_nothing() {
    let noted = |noting: &Root| pinned("r/x:1@sha256:m", noting);
    let (function, ours) = noted(&root());
    let forged = |key: &str, value: Option<&str>| {
        let mut record = ours.clone();
        let notes = record.metadata.annotations.as_mut().unwrap();
        notes.remove(key);
        notes.extend(value.map(|value| (key.to_owned(), value.to_owned())));
        record
    };
    let others = format!(r#"{{"component": {{"sha256": "{}"}}}}"#, "b".repeat(64));
    let anew = ("r/x:1".to_owned(), None);
    for (record, expected) in [
        (
            ours.clone(),
            ("r/x:1@sha256:m".to_owned(), Some("a".repeat(64))),
        ),
        (noted(&Root::new(&"o".repeat(64)).unwrap()).1, anew.clone()),
        (forged(PINS_ANNOTATION, Some(&others)), anew.clone()),
        // As of an operator of an older version.
        (forged(PINNED_ANNOTATION, None), anew.clone()),
        (forged(PINNED_ANNOTATION, Some("")), anew),
    ] {
        let mut bench = Bench::new();
        let outcome = bench.outcome_of(&function, record).await;
        assert!(matches!(outcome, Outcome::Resolved(_)));
        assert_eq!(*lock(&bench.store.asked), [expected]);
    }
}

/// Would fail if a revision that serves although another was resolved, or does again if that can't, weren't fetched anew after
/// the store was lost, never again after the first failure, or again and again, also where all of it is there.
#[tokio::test]
async fn what_an_older_revision_is_made_of_is_fetched_until_it_is_there() {
    let mut bench = Bench::new();
    bench.gate.add_permits(100);
    let function: Function = serde_json::from_value(json!({
        "apiVersion": "wisp.dev/v1alpha1", "kind": "Function",
        "metadata": {"name": "f", "namespace": "n"}, "spec": {"component": {"image": "r/x:2"}},
    }))
    .unwrap();
    // As when the latest was resolved.
    bench
        .resolver
        .hold(&bench.id, &bench.live, vec!["latest".to_owned()]);
    let record = |name: &str, image: &str| {
        let pins = json!({"component": {"image": image, "sha256": name}});
        let notes = [
            (PINS_ANNOTATION, pins.to_string()),
            (ARTIFACTS_ANNOTATION, format!("{name},code-of-{name}")),
        ];
        let mut metadata = names::owned(&function, name, names::revision_labels("f", name));
        metadata.annotations = Some(notes.map(|(key, value)| (key.to_owned(), value)).into());
        Arc::new(ControllerRevision {
            metadata,
            ..ControllerRevision::default()
        })
    };
    let (resolver, live) = (Arc::clone(&bench.resolver), Arc::clone(&bench.live));
    let id = bench.id.clone();
    let keep = async |record: &Arc<ControllerRevision>| {
        let again = resolver.keep(&id, &function, &live, Arc::clone(record));
        Bench::quiet().await;
        again
    };
    let first = record("f-1", "r/x@sha256:m");
    for _ in 0..2 {
        assert_eq!(keep(&first).await, None);
    }
    assert_eq!(bench.store.asked(), ["r/x@sha256:m"]);
    assert_eq!(bench.store.held("n/f"), ["f-1", "latest"]);

    let gone = record("f-0", "r/missing@sha256:m");
    let began = Instant::now();
    assert_eq!(keep(&gone).await, None);
    assert!(
        bench.feed.dirty.try_recv().is_ok(),
        "to know when it is again"
    );
    let again = keep(&gone).await.unwrap();
    assert!(again >= began + LONGEST_FOR_PEOPLE, "somebody must mend it");
    assert_eq!(bench.store.asked().len(), 2);
    // As when a Secret is another.
    lock(&bench.live.resolution).versions.insert(
        Reference {
            kind: Kind::Secret,
            namespace: "n".to_owned(),
            name: "login".to_owned(),
        },
        Some("2".to_owned()),
    );
    assert_eq!(keep(&gone).await, None);
    assert_eq!(bench.store.asked().len(), 3);

    let here = ["f-here", "code-of-f-here"].map(str::to_owned);
    bench.store.here.lock().unwrap().extend(here);
    assert_eq!(keep(&record("f-here", "r/missing@sha256:m")).await, None);
    assert_eq!(bench.store.asked().len(), 3, "it has all of it");
    let held = bench.store.held("n/f");
    assert_eq!(held, ["code-of-f-here", "f-1", "f-here", "latest"]);
}
