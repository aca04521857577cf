use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::{Request, Response, StatusCode};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpSocket;
use tokio::sync::mpsc;
use wisp_gateway::Options;

use crate::support::{
    Bed, Client, Never, Upstream, empty, endpoint, full, id, route, until, written,
};

/// An address where nobody listens yet, and nobody else can.
fn reserved() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// An address where nobody listens, as long as the tests run: another's listener would get it otherwise.
fn nobody() -> SocketAddr {
    let (socket, address) = reserved();
    Box::leak(Box::new(socket));
    address
}

/// Never answers; counts what it holds.
async fn holding() -> (Upstream, Arc<AtomicUsize>) {
    let count = Arc::<AtomicUsize>::default();
    let held = Arc::clone(&count);
    let upstream = Upstream::new(move |_| {
        held.fetch_add(1, Ordering::SeqCst);
        std::future::pending::<Response<crate::support::Body>>()
    })
    .await;
    (upstream, count)
}

#[tokio::test]
async fn requests_spread_and_no_replica_gets_more_than_it_takes() {
    let (first, first_holds) = holding().await;
    let (second, second_holds) = holding().await;
    let bed = Arc::new(Bed::new());
    bed.gateway.insert_route(route("a/b", &[]));
    bed.gateway
        .insert_endpoint(&id("a/b"), &endpoint(first.address, 3));
    bed.gateway
        .insert_endpoint(&id("a/b"), &endpoint(second.address, 5));
    let asked: Vec<_> = (0..10)
        .map(|_| {
            tokio::spawn({
                let bed = Arc::clone(&bed);
                async move { bed.get("/a/b/").await.status }
            })
        })
        .collect();
    until(|| {
        bed.gateway
            .metrics()
            .1
            .contains("wisp_gateway_queued{namespace=\"a\",function=\"b\"} 2")
    })
    .await;
    until(|| first_holds.load(Ordering::SeqCst) + second_holds.load(Ordering::SeqCst) == 8).await;
    assert_eq!(
        (
            first_holds.load(Ordering::SeqCst),
            second_holds.load(Ordering::SeqCst)
        ),
        (3, 5)
    );
    asked.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_replica_that_cannot_be_reached_fails_no_request() {
    let good = Upstream::saying("good").await;
    let bed = Bed::new();
    bed.gateway.insert_route(route("a/b", &[]));
    bed.gateway
        .insert_endpoint(&id("a/b"), &endpoint(nobody(), 64));
    bed.gateway
        .insert_endpoint(&id("a/b"), &endpoint(good.address, 64));
    bed.gateway
        .insert_endpoint(&id("a/b"), &endpoint(nobody(), 64));
    for _ in 0..20 {
        let answer = bed
            .send(Request::post("/a/b/").body(full("body")).unwrap())
            .await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (StatusCode::OK, "good")
        );
    }
}

#[tokio::test]
async fn where_none_can_be_reached_that_is_said_in_the_end() {
    let options = Options {
        connect_patience: Duration::from_millis(20),
        ..Options::default()
    };
    let bed = Bed::with(Arc::new(Never), options);
    bed.gateway.insert_route(route("a/b", &[]));
    bed.gateway
        .insert_endpoint(&id("a/b"), &endpoint(nobody(), 64));
    let answer = bed.get("/a/b/").await;
    assert_eq!(
        (answer.status, answer.reason().as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "unreachable")
    );
}

/// Would fail if a request were given up, or kept a place that there isn't, because a replica can't be reached while
/// another is merely full.
#[tokio::test]
async fn while_one_is_full_and_the_other_cannot_be_reached_requests_wait() {
    let (busy, mut announced) = written().await;
    let options = Options {
        connect_patience: Duration::from_millis(20),
        ..Options::default()
    };
    let bed = Arc::new(Bed::with(Arc::new(Never), options));
    bed.gateway.insert_route(route("a/b", &[]));
    for address in [busy.address, nobody()] {
        bed.gateway
            .insert_endpoint(&id("a/b"), &endpoint(address, 1));
    }
    let first = bed.open(Request::get("/a/b/").body(empty()).unwrap()).await;
    let running = announced.recv().await.unwrap();
    let second = tokio::spawn({
        let bed = Arc::clone(&bed);
        async move { bed.get("/a/b/").await.status }
    });
    // In the queue, not for a place that there isn't.
    until(|| {
        bed.gateway
            .metrics()
            .1
            .contains("wisp_gateway_queued{namespace=\"a\",function=\"b\"} 1")
    })
    .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!second.is_finished(), "it waits");
    drop(running);
    first.read().await;
    drop(announced.recv().await.unwrap());
    assert_eq!(second.await.unwrap(), StatusCode::OK);
}

/// Would fail if the time that a request may wait began anew whenever it got a place in vain.
#[tokio::test]
async fn a_place_in_vain_lets_nobody_wait_for_longer() {
    // What can't be reached is tried at once, and again after a second and after two. Now and then a busy machine takes as long.
    let mut took = Vec::new();
    while took.len() < 10 {
        let (busy, held) = holding().await;
        let bed = Arc::new(Bed::new());
        let mut limited = route("a/b", &[]);
        limited.limits.timeout = Duration::from_secs(60);
        bed.gateway.insert_route(limited.clone());
        bed.gateway
            .insert_endpoint(&id("a/b"), &endpoint(busy.address, 1));
        let mut client = Client::connect(bed.address).await;
        let first = tokio::spawn(async move { client.get("/a/b/").await.status });
        until(|| held.load(Ordering::SeqCst) == 1).await;
        // Of who asks from here on.
        limited.limits.timeout = Duration::from_millis(1100);
        bed.gateway.insert_route(limited);
        bed.gateway
            .insert_endpoint(&id("a/b"), &endpoint(nobody(), 1));
        let since = Instant::now();
        let answer = bed.get("/a/b/").await;
        assert_eq!(answer.reason(), "queue-deadline");
        took.push(since.elapsed());
        first.abort();
        if took.last() < Some(&Duration::from_millis(1950)) {
            return;
        }
    }
    panic!("they waited for {took:?}");
}

/// Would fail if the places of a replica that couldn't be reached once were lost for good.
#[tokio::test]
async fn a_replica_that_can_be_reached_again_gets_requests_while_the_other_is_full() {
    let (busy, held) = holding().await;
    let (socket, address) = reserved();
    let bed = Arc::new(Bed::new());
    bed.gateway.insert_route(route("a/b", &[]));
    for address in [busy.address, address] {
        bed.gateway
            .insert_endpoint(&id("a/b"), &endpoint(address, 1));
    }
    let get = || {
        let bed = Arc::clone(&bed);
        tokio::spawn(async move { bed.get("/a/b/").await.body })
    };
    let first = get();
    until(|| held.load(Ordering::SeqCst) == 1).await;
    let second = get();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let listener = socket.listen(1).unwrap();
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nback";
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await;
    });
    assert_eq!(second.await.unwrap(), "back");
    serving.await.unwrap();
    first.abort();
}

#[tokio::test]
async fn a_request_outlasts_a_replica_that_is_replaced() {
    let good = Upstream::saying("new").await;
    let bed = Arc::new(Bed::new());
    bed.gateway.insert_route(route("a/b", &[]));
    let dead = nobody();
    bed.gateway.insert_endpoint(&id("a/b"), &endpoint(dead, 1));
    let asked = tokio::spawn({
        let bed = Arc::clone(&bed);
        async move { bed.get("/a/b/").await }
    });
    until(|| {
        bed.gateway
            .metrics()
            .1
            .contains("wisp_gateway_requests_total{namespace=\"a\",function=\"b\"} 1")
    })
    .await;
    bed.gateway
        .insert_endpoint(&id("a/b"), &endpoint(good.address, 1));
    let _ = bed.gateway.remove_endpoint(&id("a/b"), dead);
    assert_eq!(asked.await.unwrap().body, "new");
}

/// Reads what a request is made of, then closes without a word. Counts the requests.
async fn silent() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            if stream.read(&mut head).await.is_ok_and(|length| length > 0) {
                counted.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    (address, count)
}

#[tokio::test]
async fn a_request_that_reached_a_replica_is_sent_once() {
    let (address, count) = silent().await;
    let (other, other_count) = silent().await;
    let bed = Bed::new();
    bed.gateway.insert_route(route("a/b", &[]));
    bed.gateway
        .insert_endpoint(&id("a/b"), &endpoint(address, 64));
    bed.gateway
        .insert_endpoint(&id("a/b"), &endpoint(other, 64));
    for request in [
        Request::post("/a/b/").body(full("pay")).unwrap(),
        Request::delete("/a/b/").body(empty()).unwrap(),
        Request::get("/a/b/").body(full("odd")).unwrap(),
    ] {
        let answer = bed.send(request).await;
        assert_eq!(
            (answer.status, answer.reason().as_str()),
            (StatusCode::BAD_GATEWAY, "connection-broken")
        );
    }
    assert_eq!(
        count.load(Ordering::SeqCst) + other_count.load(Ordering::SeqCst),
        3
    );
}

#[tokio::test]
async fn a_safe_request_whose_replica_dies_is_asked_of_another_once() {
    let (address, count) = silent().await;
    let good = Upstream::saying("good").await;
    let bed = Bed::new();
    bed.gateway.insert_route(route("a/b", &[]));
    bed.gateway
        .insert_endpoint(&id("a/b"), &endpoint(address, 64));
    bed.gateway
        .insert_endpoint(&id("a/b"), &endpoint(good.address, 64));
    for method in ["GET", "HEAD", "GET"] {
        let request = Request::builder().method(method).uri("/a/b/");
        let answer = bed.send(request.body(empty()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    assert!(count.load(Ordering::SeqCst) >= 1, "it was asked, too");

    // Where the other one dies as well, that is the answer.
    let (other, other_count) = silent().await;
    bed.gateway.remove_endpoint(&id("a/b"), good.address);
    bed.gateway
        .insert_endpoint(&id("a/b"), &endpoint(other, 64));
    let before = count.load(Ordering::SeqCst);
    let answer = bed.get("/a/b/").await;
    assert_eq!(answer.reason(), "connection-broken");
    assert_eq!(count.load(Ordering::SeqCst) - before, 1);
    assert_eq!(other_count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_idle_connection_that_the_replica_closed_fails_no_request() {
    // Answers one request on each connection, and closes it without having said so.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (closed, mut was_closed) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let _ = tokio::io::AsyncWriteExt::write_all(
                &mut stream,
                b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            )
            .await;
            drop(stream);
            let _ = closed.send(());
        }
    });
    let bed = Bed::new();
    bed.gateway.insert_route(route("a/b", &[]));
    bed.gateway
        .insert_endpoint(&id("a/b"), &endpoint(address, 64));
    let mut client = Client::connect(bed.address).await;
    for _ in 0..10 {
        assert_eq!(client.get("/a/b/").await.body, "ok");
        was_closed.recv().await.unwrap();
    }
}

#[tokio::test]
async fn a_removed_replica_finishes_and_what_it_holds_keeps_nobody_from_the_next() {
    let (old, mut announced) = written().await;
    let new = Upstream::saying("new").await;
    let bed = Bed::new();
    bed.gateway.insert_route(route("a/b", &[]));
    bed.gateway
        .insert_endpoint(&id("a/b"), &endpoint(old.address, 1));
    let mut stream = bed.open(Request::get("/a/b/").body(empty()).unwrap()).await;
    let events = announced.recv().await.unwrap();

    bed.gateway
        .insert_endpoint(&id("a/b"), &endpoint(new.address, 1));
    let drained = bed.gateway.remove_endpoint(&id("a/b"), old.address);
    assert_eq!(drained.outstanding(), 1);
    assert_eq!(bed.gateway.endpoints(&id("a/b")), [new.address]);
    for _ in 0..3 {
        assert_eq!(bed.get("/a/b/").await.body, "new");
    }
    events.send(Ok("still here".into())).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), "still here");
    drop(events);
    assert!(stream.next().await.is_none());
    drained.wait().await;
    assert_eq!(bed.get("/a/b/").await.body, "new");
}

/// Would fail if who reached no replica, and then waited in the queue for longer than one is tried, were refused before the
/// replica was asked that has a place for it.
#[tokio::test]
async fn who_waited_in_the_queue_tries_the_replica_that_came_meanwhile() {
    let options = Options {
        connect_patience: Duration::from_millis(500),
        ..Options::default()
    };
    let bed = Arc::new(Bed::with(Arc::new(Never), options));
    bed.gateway.insert_route(route("a/b", &[]));
    let dead = nobody();
    bed.gateway.insert_endpoint(&id("a/b"), &endpoint(dead, 1));
    let asked: Vec<_> = (0..8)
        .map(|_| {
            tokio::spawn({
                let bed = Arc::clone(&bed);
                async move { bed.get("/a/b/").await.status }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let slow = Upstream::new(|_| async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        Response::new(full("late"))
    })
    .await;
    let _ = bed.gateway.remove_endpoint(&id("a/b"), dead);
    bed.gateway
        .insert_endpoint(&id("a/b"), &endpoint(slow.address, 1));
    for asked in asked {
        assert_eq!(asked.await.unwrap(), StatusCode::OK);
    }
}
