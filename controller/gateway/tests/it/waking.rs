use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::StatusCode;
use tokio::sync::Semaphore;
use wisp_contract::FunctionId;
use wisp_contract::problem::Fault;
use wisp_gateway::{ActivateError, Activator, Gateway, Options};
use wisp_traces::Context;

use crate::support::{Bed, Upstream, endpoint, id, route, until};

/// Inserts an endpoint when it is let, or fails as it is told.
struct Waker {
    gateway: OnceLock<Arc<Gateway>>,
    address: SocketAddr,
    concurrency: u32,
    calls: AtomicUsize,
    let_go: Semaphore,
    failures: Mutex<Vec<ActivateError>>,
}

impl Waker {
    fn new(address: SocketAddr, concurrency: u32, failures: Vec<ActivateError>) -> Arc<Self> {
        let (calls, let_go) = (AtomicUsize::new(0), Semaphore::new(0));
        Arc::new(Self {
            gateway: OnceLock::new(),
            address,
            concurrency,
            calls,
            let_go,
            failures: Mutex::new(failures),
        })
    }

    fn bed(self: &Arc<Self>, options: Options) -> Bed {
        let bed = Bed::with(self.clone(), options);
        self.gateway.set(Arc::clone(&bed.gateway)).unwrap();
        bed.gateway.insert_route(route("a/b", &[]));
        bed
    }
}

impl Activator for Waker {
    fn ensure<'a>(
        &'a self,
        function: &'a FunctionId,
        _: Option<Context>,
    ) -> BoxFuture<'a, Result<(), ActivateError>> {
        Box::pin(async move {
            self.calls.fetch_add(1, Ordering::SeqCst);
            self.let_go.acquire().await.unwrap().forget();
            let failure = self.failures.lock().unwrap().pop();
            if let Some(error) = failure {
                return Err(error);
            }
            assert!(
                self.gateway
                    .get()
                    .unwrap()
                    .insert_endpoint(function, &endpoint(self.address, self.concurrency))
            );
            Ok(())
        })
    }
}

#[tokio::test]
async fn two_hundred_requests_wake_a_function_once_and_are_all_answered() {
    let upstream = Upstream::saying("awake").await;
    let waker = Waker::new(upstream.address, 4, Vec::new());
    let bed = Arc::new(waker.bed(Options::default()));
    let asked: Vec<_> = (0..200)
        .map(|_| {
            tokio::spawn({
                let bed = Arc::clone(&bed);
                async move { bed.get("/a/b/").await }
            })
        })
        .collect();
    // All of them wait before it begins to wake.
    until(|| {
        bed.gateway
            .metrics()
            .1
            .contains("wisp_gateway_queued{namespace=\"a\",function=\"b\"} 200")
    })
    .await;
    let grew = || bed.gateway.queue_growth().now_or_never().is_some();
    assert!(!grew(), "the wake-up itself tells that they wait");
    waker.let_go.add_permits(1);
    for answer in asked {
        let answer = answer.await.unwrap();
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (StatusCode::OK, "awake")
        );
        assert!(
            answer.header("server-timing").contains("activate;dur=")
                && !answer.header("server-timing").contains("activate;dur=0,")
        );
    }
    assert!(grew(), "one replica has room for four");
    assert_eq!(waker.calls.load(Ordering::SeqCst), 1);
    assert_eq!(upstream.requests.load(Ordering::SeqCst), 200);
    let stats = bed.gateway.stats(std::time::Instant::now());
    assert!(
        stats[0].requests == 200 && stats[0].queue > 0.0 && stats[0].queued == 0,
        "{stats:?}"
    );
}

#[tokio::test]
async fn a_failed_wake_up_tells_everyone_why_and_the_next_one_may_succeed() {
    let upstream = Upstream::saying("awake").await;
    let failure = ActivateError::new(Fault::Function, "the component exports no HTTP handler");
    let waker = Waker::new(upstream.address, 4, vec![failure]);
    let bed = Arc::new(waker.bed(Options::default()));
    let asked: Vec<_> = (0..5)
        .map(|_| {
            tokio::spawn({
                let bed = Arc::clone(&bed);
                async move { bed.get("/a/b/").await }
            })
        })
        .collect();
    until(|| {
        bed.gateway
            .metrics()
            .1
            .contains("wisp_gateway_queued{namespace=\"a\",function=\"b\"} 5")
    })
    .await;
    waker.let_go.add_permits(1);
    for answer in asked {
        let answer = answer.await.unwrap();
        assert_eq!(
            (answer.status, answer.reason().as_str()),
            (StatusCode::SERVICE_UNAVAILABLE, "activation-failed")
        );
        assert_eq!(
            answer.json()["detail"],
            "a/b could not be started: the component exports no HTTP handler"
        );
        assert_eq!(answer.json()["fault"], "function");
    }
    waker.let_go.add_permits(1);
    assert_eq!(bed.get("/a/b/").await.body, "awake");
    assert_eq!(waker.calls.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn while_another_attempt_is_pointless_none_is_made() {
    let upstream = Upstream::saying("awake").await;
    let failure = ActivateError::new(Fault::Platform, "no pod is free")
        .with_retry_after(Duration::from_secs(3600));
    let waker = Waker::new(upstream.address, 4, vec![failure]);
    let bed = waker.bed(Options::default());
    waker.let_go.add_permits(10);
    for _ in 0..3 {
        let answer = bed.get("/a/b/").await;
        assert_eq!(
            (answer.reason().as_str(), answer.header("retry-after")),
            ("activation-failed", "3600")
        );
    }
    assert_eq!(waker.calls.load(Ordering::SeqCst), 1);
    // The function changed: that is worth another attempt.
    bed.gateway.insert_route(route("a/b", &[]));
    assert_eq!(bed.get("/a/b/").await.body, "awake");
}

#[tokio::test]
async fn nobody_waits_for_ever() {
    let waker = Waker::new("127.0.0.1:9".parse().unwrap(), 4, Vec::new());
    let bed = waker.bed(Options {
        activate_timeout: Duration::from_millis(50),
        ..Options::default()
    });
    let mut quick = route("a/b", &[]);
    quick.limits.timeout = Duration::from_millis(50);
    bed.gateway.insert_route(quick);
    let answer = bed.get("/a/b/").await;
    assert_eq!(
        (answer.status, answer.reason().as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "not-ready")
    );
}

fn too_slow() -> ActivateError {
    ActivateError::new(Fault::Platform, "the pod is Pending")
        .with_retry_after(Duration::from_secs(3600))
        .unfinished()
}

/// Would fail if who may wait longer than a wake-up takes were refused with it.
#[tokio::test]
async fn a_wake_up_that_took_too_long_is_made_anew_for_who_can_still_wait() {
    let upstream = Upstream::saying("awake").await;
    let waker = Waker::new(upstream.address, 4, vec![too_slow()]);
    let bed = waker.bed(Options::default());
    waker.let_go.add_permits(2);
    assert_eq!(bed.get("/a/b/").await.body, "awake");
    assert_eq!(waker.calls.load(Ordering::SeqCst), 2);
}

/// Would fail if a wake-up that ends at once, and says that it only took too long, were made anew again and again.
#[tokio::test]
async fn a_wake_up_that_took_too_long_is_not_made_anew_while_that_is_pointless() {
    let failures = (0..100).map(|_| too_slow()).collect();
    let waker = Waker::new("127.0.0.1:9".parse().unwrap(), 4, failures);
    let bed = Arc::new(waker.bed(Options::default()));
    waker.let_go.add_permits(100);
    let asked = tokio::spawn({
        let bed = Arc::clone(&bed);
        async move { bed.get("/a/b/").await }
    });
    until(|| waker.calls.load(Ordering::SeqCst) > 0).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(waker.calls.load(Ordering::SeqCst), 1);
    asked.abort();
}

/// Would fail if a reason that comes as late as the wake-up may end were not waited for.
#[tokio::test]
async fn who_waited_in_vain_is_told_what_the_last_wake_up_came_to() {
    for is_late in [false, true] {
        let waker = Waker::new("127.0.0.1:9".parse().unwrap(), 4, vec![too_slow()]);
        let bed = Arc::new(waker.bed(Options {
            activate_timeout: Duration::from_millis(50),
            ..Options::default()
        }));
        let mut quick = route("a/b", &[]);
        quick.limits.timeout = Duration::from_millis(50);
        bed.gateway.insert_route(quick);
        let asked = tokio::spawn({
            let bed = Arc::clone(&bed);
            async move { bed.get("/a/b/").await }
        });
        if is_late {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        waker.let_go.add_permits(1);
        let answer = asked.await.unwrap();
        assert_eq!(answer.reason(), "activation-failed", "{is_late}");
        assert_eq!(
            answer.json()["detail"],
            "a/b could not be started: the pod is Pending"
        );
    }
}

#[tokio::test]
async fn a_function_that_takes_no_queue_still_wakes() {
    let upstream = Upstream::saying("awake").await;
    let waker = Waker::new(upstream.address, 4, Vec::new());
    let bed = waker.bed(Options::default());
    let mut none = route("a/b", &[]);
    (none.limits.queue, none.limits.queue_bytes) = (0, 0);
    bed.gateway.insert_route(none);
    waker.let_go.add_permits(1);
    let request = http::Request::post("/a/b/")
        .body(crate::support::full("body"))
        .unwrap();
    assert_eq!(bed.send(request).await.body, "awake");
}

#[tokio::test]
async fn a_function_whose_last_replica_goes_is_woken_again() {
    let upstream = Upstream::saying("awake").await;
    let waker = Waker::new(upstream.address, 4, Vec::new());
    let bed = waker.bed(Options::default());
    waker.let_go.add_permits(2);
    assert_eq!(bed.get("/a/b/").await.body, "awake");
    bed.gateway
        .remove_endpoint(&id("a/b"), upstream.address)
        .wait()
        .await;
    assert_eq!(bed.get("/a/b/").await.body, "awake");
    assert_eq!(waker.calls.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn removing_a_function_refuses_those_who_wait_for_it() {
    let waker = Waker::new("127.0.0.1:9".parse().unwrap(), 4, Vec::new());
    let bed = Arc::new(waker.bed(Options::default()));
    let asked = tokio::spawn({
        let bed = Arc::clone(&bed);
        async move { bed.get("/a/b/").await }
    });
    until(|| waker.calls.load(Ordering::SeqCst) == 1).await;
    bed.gateway.remove_route(&id("a/b"));
    assert_eq!(asked.await.unwrap().reason(), "function-removed");
    assert_eq!(bed.get("/a/b/").await.status, StatusCode::NOT_FOUND);
}
