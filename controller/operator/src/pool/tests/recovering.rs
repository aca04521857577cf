//! What becomes of pods that another operator assigned.

use kube::runtime::watcher::Event;
use wisp_contract::operator::pod::{CLAIMED_FROM, FUNCTION};

use super::claiming::{Bench, host_by};
use super::*;
use crate::api_server::{self, refusal};

/// Longer than anything takes here.
const ENOUGH: Duration = Duration::from_secs(60);

/// What was asked of the API server, and which function's a pod was said to be thereby.
type Asked = Arc<Mutex<Vec<String>>>;

/// A host at that address that says so of itself when it is asked, one after the other, and the last from then on.
async fn host(address: &str, says: Vec<Value>) {
    let answer = move |before: usize| {
        let body = says[before.min(says.len() - 1)].to_string();
        format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    host_by(address, answer).await;
}

/// A bench with a pod at that address, whose API server takes what it is told.
fn bench(address: &str) -> (Bench, Asked) {
    let asked = Asked::default();
    let remembered = Arc::clone(&asked);
    let client = api_server::client(move |asked, sent| {
        let function = sent["metadata"]["labels"][FUNCTION].as_str();
        let told = [Some(asked), function].into_iter().flatten();
        lock(&remembered).push(told.collect::<Vec<_>>().join(" "));
        match asked.starts_with("DELETE") {
            true => refusal(404),
            false => (200, json!({"metadata": {"name": "p-0"}})),
        }
    });
    (Bench::with(client, &[address]), asked)
}

/// The pod of the bench.
fn pod(bench: &Bench) -> Arc<Pod> {
    let pools = &bench.pools;
    let all = pools.cluster.warm.of(&pool_id(&pool(json!({}))).unwrap());
    all.into_iter().next().unwrap()
}

fn serving(bench: &Bench) -> String {
    bench.live.plan().unwrap().serving
}

fn said(function: &str, uid: &str, revision: &str, phase: &str) -> Value {
    json!({"function": function, "uid": uid, "revision": revision, "phase": phase, "inFlight": 0, "queued": 0})
}

/// Waits until it is so.
async fn until(is_so: impl Fn() -> bool) {
    let so = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let so = tokio::time::timeout(ENOUGH, so).await;
    so.expect("it becomes so");
}

/// What is asked of the API server where a pod becomes the function's.
const ADOPTED: [&str; 2] = [
    "PATCH /api/v1/namespaces/vision/pods/p-0 digits",
    "PATCH /api/v1/namespaces/vision/pods/p-0/resize",
];

/// Whether nobody can take the pod of the bench any more.
fn is_taken(bench: &Bench) -> bool {
    let pools = bench.pools.cluster.pools().state();
    let claimable = claimable(json!({"component": {"image": "r/x:1"}})).unwrap();
    bench.pools.take(&pools, &claimable).is_none()
}

/// Would fail if a pod whose operator died before it was marked as its function's weren't that function's, were another's, too,
/// or were ended while it loads.
#[tokio::test]
async fn a_pod_that_was_assigned_is_its_functions() {
    let (bench, asked) = bench("127.78.20.1");
    let of = |phase| said("vision/digits", "u-1", &serving(&bench), phase);
    host("127.78.20.1", vec![of("loading"), of("ready")]).await;
    let pod = pod(&bench);
    let ready = || bench.pools.ready(&pool(json!({})));
    assert_eq!(ready(), 1);
    bench.pools.recover(&pod, ENOUGH).await;
    // It looks like one that stands by until it is marked.
    assert_eq!(ready(), 0);
    let claim = Claim {
        revision: serving(&bench),
        replica: Some(Replica {
            address: "127.78.20.1:8080".parse().unwrap(),
            concurrency: 64,
        }),
    };
    let claims = || lock(&bench.live.claims).clone();
    assert_eq!(claims(), [("p-0".to_owned(), claim)].into());
    assert!(is_taken(&bench));
    until(|| lock(&asked).len() == ADOPTED.len()).await;
    assert_eq!(*lock(&asked), ADOPTED);
    assert_eq!(lock(&bench.live.load).desired, Some(1));

    // It counts by that until the cluster shows whose it is.
    assert_eq!(claims().len(), 1);
    let mut shown = pod.as_ref().clone();
    shown.metadata.labels = Some([(FUNCTION.to_owned(), "digits".to_owned())].into());
    bench.pools.cluster.pods.apply(Event::Apply(shown));
    bench.pools.cluster.notify(&bench.id);
    until(|| claims().is_empty()).await;
    assert_eq!(*lock(&asked), ADOPTED);
}

/// Would fail if a pod whose operator died before it was resized, or could not, had what the pool gave it for as long as it lives;
/// or if one that has what it should were written to again and again.
#[tokio::test]
async fn a_pod_that_was_not_resized_is_later() {
    let (bench, asked) = bench("127.78.22.1");
    let claimable = bench.live.claimable(&serving(&bench)).unwrap();
    let mut shown = pod(&bench).as_ref().clone();
    let mut labels = claimable.labels.clone();
    labels.insert(CLAIMED_FROM.to_owned(), "warm".to_owned());
    shown.metadata.labels = Some(labels);
    bench.pools.cluster.pods.apply(Event::Apply(shown.clone()));
    let now = Instant::now();
    bench.pools.resize_missed(now);
    until(|| lock(&asked).len() == 1).await;
    assert_eq!(lock(&asked)[0], ADOPTED[1]);
    // The watch may not show it yet.
    bench.pools.resize_missed(now);
    let container = json!({"name": "function", "resources": claimable.resources});
    let spec = serde_json::from_value(json!({"containers": [container]}));
    shown.spec = Some(spec.unwrap());
    bench.pools.cluster.pods.apply(Event::Apply(shown));
    // It would be written to by now, in this task's turn.
    bench.pools.resize_missed(now + 2 * ENOUGH);
    tokio::task::yield_now().await;
    assert_eq!(lock(&asked).len(), 1);
}

/// Would fail if a pod counted for what it isn't, or nobody could have it and it stayed: it is believed of functions of its own
/// namespace alone.
#[tokio::test]
async fn a_pod_that_is_of_no_use_to_whose_it_says_it_is_is_ended() {
    for (address, function, uid, revision, phase) in [
        // One that was made anew, one of another tenant's, one that is gone.
        ("127.78.21.1", "vision/digits", "u-2", None, "ready"),
        ("127.78.21.2", "mallory/digits", "m-1", None, "ready"),
        ("127.78.21.3", "vision/gone", "u-1", None, "ready"),
        // A revision that was replaced.
        ("127.78.21.4", "vision/digits", "u-1", Some("old"), "ready"),
        // It may wait for what nobody gives it.
        ("127.78.21.5", "vision/digits", "u-1", None, "loading"),
        ("127.78.21.6", "vision/digits", "u-1", None, "draining"),
    ] {
        let (mut bench, asked) = bench(address);
        let mut theirs = super::function(json!({"component": {"image": "r/x:1"}}));
        theirs.metadata.namespace = Some("mallory".to_owned());
        theirs.metadata.uid = Some("m-1".to_owned());
        let functions = bench.feed.store();
        functions.apply_watcher_event(&Event::Apply(theirs));
        let serving = serving(&bench);
        let says = said(function, uid, revision.unwrap_or(&serving), phase);
        host(address, vec![says]).await;
        bench.pools.recover(&pod(&bench), Duration::ZERO).await;
        until(|| !lock(&asked).is_empty()).await;
        let ended = "DELETE /api/v1/namespaces/vision/pods/p-0";
        assert_eq!(*lock(&asked), [ended], "{address}");
        assert!(lock(&bench.live.claims).is_empty(), "{address}");
        let theirs = bench.pools.live.get(&"mallory/digits".parse().unwrap());
        assert!(theirs.is_none_or(|theirs| lock(&theirs.claims).is_empty()));
        assert!(is_taken(&bench), "{address}");
    }
}

/// Would fail if a pod were lost, or marked as what isn't known yet, because its function isn't resolved yet.
#[tokio::test]
async fn a_pod_is_its_functions_once_its_revision_is_known() {
    let (bench, asked) = bench("127.78.22.1");
    let plan = lock(&bench.live.plan).take().unwrap();
    let says = said("vision/digits", "u-1", &plan.serving, "ready");
    host("127.78.22.1", vec![says]).await;
    bench.pools.recover(&pod(&bench), ENOUGH).await;
    // It serves whoever asks for the function meanwhile.
    let serves = |claim: &Claim| claim.replica.is_some();
    assert!(lock(&bench.live.claims).get("p-0").is_some_and(serves));
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(*lock(&asked), [""; 0]);
    *lock(&bench.live.plan) = Some(plan);
    bench.pools.cluster.notify(&bench.id);
    until(|| lock(&asked).len() == ADOPTED.len()).await;
    assert_eq!(*lock(&asked), ADOPTED);
}

/// Would fail if what this operator is doing with a pod were begun once more.
#[tokio::test]
async fn a_pod_that_this_operator_took_is_left_to_it() {
    let (bench, asked) = bench("127.78.23.1");
    let says = said("vision/digits", "u-1", &serving(&bench), "ready");
    host("127.78.23.1", vec![says]).await;
    let claim = Claim {
        revision: serving(&bench),
        replica: None,
    };
    lock(&bench.live.claims).insert("p-0".to_owned(), claim.clone());
    bench.pools.recover(&pod(&bench), ENOUGH).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let claims = lock(&bench.live.claims).clone();
    assert_eq!(claims, [("p-0".to_owned(), claim)].into());
    assert_eq!(*lock(&asked), [""; 0]);
}
