use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use wisp_contract::assignment::Key;
use wisp_gateway::{Endpoint, Options};

use crate::support::{
    Bed, Body, Client, Never, Upstream, channel, echoed, empty, endpoint, full, http2, id, raw,
    read, route, until, written,
};

#[tokio::test]
async fn a_body_that_says_it_is_too_large_reaches_nobody() {
    let upstream = Upstream::echo().await;
    let bed = Bed::serving(&upstream);
    let mut small = route("a/b", &[]);
    small.limits.request_body = 10;
    bed.gateway.insert_route(small);
    let answer = bed
        .send(Request::post("/a/b/").body(full("elevenbytes")).unwrap())
        .await;
    assert_eq!(
        (answer.status, answer.reason().as_str()),
        (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large")
    );
    assert_eq!(
        answer.json()["detail"],
        "the body of 11 bytes is larger than the 10 bytes that a/b takes"
    );
    assert_eq!(upstream.requests.load(Ordering::SeqCst), 0);
    assert_eq!(
        bed.send(Request::post("/a/b/").body(full("ten bytes!")).unwrap())
            .await
            .json()["body"],
        "ten bytes!"
    );
}

#[tokio::test]
async fn a_body_that_grows_too_large_is_cut() {
    let upstream = Upstream::new(|request: Request<hyper::body::Incoming>| async move {
        match request.into_body().collect().await {
            Ok(body) => Response::new(full(format!("{}", body.to_bytes().len()))),
            Err(_) => Response::builder()
                .status(400)
                .body(full("broke off"))
                .unwrap(),
        }
    })
    .await;
    let bed = Bed::serving(&upstream);
    let mut small = route("a/b", &[]);
    small.limits.request_body = 10;
    bed.gateway.insert_route(small);
    let (sender, body) = channel();
    for _ in 0..3 {
        sender.send(Ok("six by".into())).await.unwrap();
    }
    drop(sender);
    let answer = bed.send(Request::post("/a/b/").body(body).unwrap()).await;
    assert_eq!(
        (answer.status, answer.reason().as_str()),
        (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large")
    );
    // And the next request is served.
    assert_eq!(
        bed.send(Request::post("/a/b/").body(full("ten bytes!")).unwrap())
            .await
            .body,
        "10"
    );
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_says_when_to_come_again() {
    let (upstream, mut announced) = written().await;
    let bed = Arc::new(Bed::new());
    let mut narrow = route("a/b", &[]);
    narrow.limits.queue = 1;
    bed.gateway.insert_route(narrow);
    bed.gateway
        .insert_endpoint(&id("a/b"), &endpoint(upstream.address, 1));
    let first = bed.open(Request::get("/a/b/").body(empty()).unwrap()).await;
    let running = announced.recv().await.unwrap();
    let second = tokio::spawn({
        let bed = Arc::clone(&bed);
        async move { bed.get("/a/b/").await }
    });
    bed.gateway.queue_growth().await;
    until(|| {
        bed.gateway
            .metrics()
            .1
            .contains("wisp_gateway_queued{namespace=\"a\",function=\"b\"} 1")
    })
    .await;
    let third = bed.get("/a/b/").await;
    assert_eq!(
        (
            third.status,
            third.reason().as_str(),
            third.header("retry-after")
        ),
        (StatusCode::SERVICE_UNAVAILABLE, "queue-full", "1")
    );
    assert_eq!(third.json()["detail"], "a/b: the queue is full: 1 may wait");
    drop(running);
    first.read().await;
    drop(announced.recv().await.unwrap());
    assert_eq!(second.await.unwrap().status, StatusCode::OK);
}

/// Would fail if uploads that don't say how long they are could wait in any number, each with what it sends unread.
#[tokio::test]
async fn an_upload_of_unknown_length_counts_as_what_it_may_send_unread() {
    const WINDOW: u64 = 256 << 10;
    for (allowed, request_body, may_wait) in [
        (2 * WINDOW - 1, 2 * WINDOW, 1),
        (2 * WINDOW, 2 * WINDOW, 2),
        // It has no more than that to send.
        (2 * WINDOW - 1, WINDOW / 2, 3),
    ] {
        let (upstream, mut announced) = written().await;
        let bed = Bed::new();
        let mut narrow = route("a/b", &[]);
        (narrow.limits.queue_bytes, narrow.limits.request_body) = (allowed, request_body);
        bed.gateway.insert_route(narrow);
        bed.gateway
            .insert_endpoint(&id("a/b"), &endpoint(upstream.address, 1));
        let _first = bed.open(Request::get("/a/b/").body(empty()).unwrap()).await;
        let _running = announced.recv().await.unwrap();
        let mut client = http2(bed.address).await;
        let (_unended, waiting): (Vec<_>, Vec<_>) = (0..may_wait)
            .map(|_| {
                let (unended, body) = channel();
                let request = Request::post("http://x/a/b/").body(body).unwrap();
                (unended, client.send_request(request))
            })
            .unzip();
        let waiting = tokio::spawn(futures::future::join_all(waiting));
        let queued = format!("wisp_gateway_queued{{namespace=\"a\",function=\"b\"}} {may_wait}");
        until(|| bed.gateway.metrics().1.contains(&queued)).await;
        // Over HTTP/1.1 it is the same.
        let (_unended, body) = channel();
        let refused = bed.send(Request::post("/a/b/").body(body).unwrap()).await;
        assert_eq!(
            (refused.status, refused.reason().as_str()),
            (StatusCode::SERVICE_UNAVAILABLE, "queue-bytes-full")
        );
        waiting.abort();
    }
}

/// Would fail if requests that wait could take all of the gateway's memory, whatever their functions allow, or those for one
/// function kept others from waiting, or what one held weren't given back.
#[tokio::test]
async fn all_who_wait_share_the_gateways_memory() {
    // Room for three uploads of unknown length.
    let options = Options {
        queue_memory: 3 * (280 << 10),
        ..Options::default()
    };
    let bed = Bed::with(Arc::new(Never), options);
    for name in ["a/b", "a/c"] {
        bed.gateway.insert_route(route(name, &[]));
    }
    let upload = |name: &str| {
        let (unended, body) = channel();
        let request = Request::post(format!("http://x/{name}/")).body(body);
        (unended, request.unwrap())
    };
    let are_waiting = async |b: usize, c: usize| {
        let queued = |function, waiting| {
            format!("wisp_gateway_queued{{namespace=\"a\",function=\"{function}\"}} {waiting}\n")
        };
        let lines = [queued("b", b), queued("c", c)];
        until(|| {
            let metrics = bed.gateway.metrics().1;
            lines.iter().all(|line| metrics.contains(line))
        })
        .await;
    };
    let mut client = http2(bed.address).await;
    let (_unended, request) = upload("a/b");
    let first = tokio::spawn(client.send_request(request));
    are_waiting(1, 0).await;
    let (_unended, request) = upload("a/b");
    let refused = read(client.send_request(request).await.unwrap()).await;
    assert_eq!(
        (
            refused.status,
            refused.reason().as_str(),
            refused.header("retry-after")
        ),
        (StatusCode::SERVICE_UNAVAILABLE, "queues-full", "1")
    );
    let (_unended, request) = upload("a/c");
    let _other = tokio::spawn(client.send_request(request));
    are_waiting(1, 1).await;
    first.abort();
    are_waiting(0, 1).await;
    let (_unended, request) = upload("a/b");
    let _next = tokio::spawn(client.send_request(request));
    are_waiting(1, 1).await;
}

/// Would fail if one of them were lost, or more waited than may, or with more bytes.
#[tokio::test]
async fn ten_times_more_clients_than_there_are_places_are_all_answered() {
    const PLACES: usize = 4;
    const QUEUE: usize = 12;
    // They are sent before there is an answer.
    const BODY: usize = 8 << 10;
    for (may_wait, bytes, reason) in [
        (QUEUE, u64::MAX, "queue-full"),
        (6, 6 * BODY as u64, "queue-bytes-full"),
    ] {
        let (answer, is_answering) = watch::channel(false);
        let upstream = Upstream::new(move |request: Request<hyper::body::Incoming>| {
            let mut is_answering = is_answering.clone();
            async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                is_answering.wait_for(|answers| *answers).await.unwrap();
                Response::new(full(body.len().to_string()))
            }
        })
        .await;
        let bed = Arc::new(Bed::new());
        let mut narrow = route("a/b", &[]);
        narrow.limits.queue = QUEUE;
        narrow.limits.queue_bytes = bytes;
        narrow.limits.timeout = Duration::from_secs(60);
        bed.gateway.insert_route(narrow);
        let places = u32::try_from(PLACES).unwrap();
        bed.gateway
            .insert_endpoint(&id("a/b"), &endpoint(upstream.address, places));
        let clients = 10 * (PLACES + QUEUE);
        let asked: Vec<_> = (0..clients)
            .map(|_| {
                let bed = Arc::clone(&bed);
                tokio::spawn(async move {
                    let body = full(vec![b'x'; BODY]);
                    bed.send(Request::post("/a/b/").body(body).unwrap()).await
                })
            })
            .collect();
        // All but those who are served and those who wait are sent away meanwhile.
        let served = PLACES + may_wait;
        let is_over = |asked: &&JoinHandle<_>| asked.is_finished();
        until(|| asked.iter().filter(is_over).count() == clients - served).await;
        answer.send(true).unwrap();
        let mut sizes = Vec::new();
        for answer in asked {
            let answer = answer.await.unwrap();
            if answer.status == StatusCode::OK {
                sizes.push(answer.body);
                continue;
            }
            assert_eq!(
                (answer.status, answer.reason().as_str()),
                (StatusCode::SERVICE_UNAVAILABLE, reason)
            );
            assert_eq!(answer.header("retry-after"), "1");
        }
        assert_eq!(sizes, vec![BODY.to_string(); served]);
    }
}

/// A function that has a moment to answer.
fn impatient(upstream: &Upstream, timeout: Duration) -> Bed {
    let bed = Bed::with(
        Arc::new(Never),
        Options {
            grace: Duration::ZERO,
            ..Options::default()
        },
    );
    let mut quick = route("a/b", &[]);
    quick.limits.timeout = timeout;
    bed.gateway.insert_route(quick);
    bed.gateway
        .insert_endpoint(&id("a/b"), &endpoint(upstream.address, 1));
    bed
}

#[tokio::test]
async fn a_replica_that_does_not_answer_in_time_is_given_up() {
    let upstream =
        Upstream::new(|_| std::future::pending::<Response<crate::support::Body>>()).await;
    let bed = impatient(&upstream, Duration::from_millis(50));
    for _ in 0..2 {
        let answer = bed.get("/a/b/").await;
        assert_eq!(
            (answer.status, answer.reason().as_str()),
            (StatusCode::GATEWAY_TIMEOUT, "timeout")
        );
    }
}

/// Would fail if the function were blamed for a client that stops sending.
#[tokio::test]
async fn a_body_that_does_not_come_is_the_clients_fault() {
    let upstream = Upstream::new(async |request| {
        let _ = request.into_body().collect().await;
        Response::new(empty())
    })
    .await;
    // Time enough for the body's beginning to reach the replica where the machine is busy.
    let bed = impatient(&upstream, Duration::from_secs(1));
    let (sender, body) = channel();
    sender.send(Ok("begun".into())).await.unwrap();
    let answer = bed.send(Request::post("/a/b/").body(body).unwrap()).await;
    assert_eq!(
        (answer.status, answer.reason().as_str()),
        (StatusCode::REQUEST_TIMEOUT, "body-too-slow")
    );
    drop(sender);
}

/// A function that has a while to answer, with more than fits between it and a client that doesn't read; on the path
/// `/small`, with less.
async fn lavish() -> (Upstream, Bed) {
    let upstream = Upstream::new(|request: Request<hyper::body::Incoming>| async move {
        Response::new(full(match request.uri().path() {
            "/small" => Bytes::from_static(b"small"),
            _ => Bytes::from(vec![0; 64 << 20]),
        }))
    })
    .await;
    let bed = impatient(&upstream, Duration::from_secs(2));
    (upstream, bed)
}

/// Who asks now has a minute: that of who asked before is over by then.
async fn next(bed: &Bed) -> crate::support::Answer {
    let mut patient = route("a/b", &[]);
    patient.limits.timeout = Duration::from_secs(60);
    bed.gateway.insert_route(patient);
    bed.get("/a/b/small").await
}

/// Would fail if a response's deadline were minded only while its client reads: the function's only place would be
/// taken for ever.
#[tokio::test]
async fn a_client_that_reads_nothing_keeps_its_place_no_longer_than_allowed() {
    let (_upstream, bed) = lavish().await;
    let mut client = TcpStream::connect(bed.address).await.unwrap();
    client
        .write_all(b"GET /a/b/ HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    // The response has begun, and nobody reads on.
    let mut start = [0; 12];
    client.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    let next = next(&bed).await;
    assert_eq!((next.status, next.body.as_str()), (StatusCode::OK, "small"));
}

/// A client over HTTP/2 that takes so many bytes of each response unasked, and what ends with its connection.
async fn with_window(
    address: SocketAddr,
    bytes: u32,
) -> (SendRequest<Body>, JoinHandle<hyper::Result<()>>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(bytes)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    (sender, tokio::spawn(connection))
}

/// The same over HTTP/2. Would fail if a client's window of 0 kept the stream's task, and with it the place, for ever.
#[tokio::test]
async fn a_client_without_a_window_keeps_its_place_no_longer_than_allowed() {
    for path in ["/a/b/", "/a/b/small"] {
        let (_upstream, bed) = lavish().await;
        let (mut sender, connection) = with_window(bed.address, 0).await;
        let request = Request::get(format!("http://x{path}"))
            .body(empty())
            .unwrap();
        let unread = sender.send_request(request).await.unwrap();
        assert_eq!(unread.status(), StatusCode::OK, "{path}");
        let next = next(&bed).await;
        assert_eq!((next.status, next.body.as_str()), (StatusCode::OK, "small"));
        // The stream was reset; the connection serves on.
        assert!(unread.into_body().collect().await.is_err(), "{path}");
        let request = Request::get("http://x/a/b/small").body(empty()).unwrap();
        let again = sender.send_request(request).await.unwrap();
        assert_eq!(again.status(), StatusCode::OK, "{path}");
        connection.abort();
    }
}

/// Would fail if what h2 keeps of a response that has ended were nobody's: a client that takes a byte of each would have as many
/// of them kept as it likes, for as long as it answers pings, and on a connection that it uses.
#[tokio::test]
async fn a_client_with_hardly_a_window_keeps_neither_place_nor_connection() {
    let upstream = Upstream::new(|request: Request<hyper::body::Incoming>| async move {
        if request.uri().path() == "/slow" {
            std::future::pending::<()>().await;
        }
        Response::new(full("small"))
    })
    .await;
    let idle_timeout = Duration::from_secs(1);
    let (short, long) = (Duration::from_secs(2), Duration::from_secs(600));
    for (path, used_for) in [
        ("/a/b/", None),
        ("/a/b/", Some(short)),
        ("/a/b/", Some(long)),
        ("/nowhere", Some(short)),
    ] {
        let options = Options {
            idle_timeout,
            ..Options::default()
        };
        let bed = Bed::with(Arc::new(Never), options);
        let allow = |timeout| {
            let mut allowed = route("a/b", &[]);
            allowed.limits.timeout = timeout;
            bed.gateway.insert_route(allowed);
        };
        allow(short);
        bed.gateway
            .insert_endpoint(&id("a/b"), &endpoint(upstream.address, 2));
        let (mut sender, connection) = with_window(bed.address, 1).await;
        let mut ask = |path: &str| {
            let uri = format!("http://x{path}");
            sender.send_request(Request::get(uri).body(empty()).unwrap())
        };
        let unread = ask(path).await.unwrap();
        let used = used_for.map(|timeout| {
            allow(timeout);
            tokio::spawn(ask("/a/b/slow"))
        });
        // Its connection ends, and with it all that it held.
        let ended = tokio::time::timeout(Duration::from_secs(60), connection);
        ended.await.unwrap().unwrap().ok();
        assert!(unread.into_body().collect().await.is_err(), "{path}");
        if let Some(used) = used {
            let status = used.await.unwrap().ok().map(|answer| answer.status());
            let in_time = (used_for == Some(short)).then_some(StatusCode::GATEWAY_TIMEOUT);
            assert_eq!(status, in_time, "{path}");
        }
        // Both places are free.
        let (one, other) = tokio::join!(bed.get("/a/b/"), bed.get("/a/b/"));
        assert_eq!((&*one.body, &*other.body), ("small", "small"));
    }
}

/// Would fail if a connection were left whose client takes what it is sent, however slowly: what h2 is given at once of a
/// response must not be more than such a client takes in the time that it has for the last of it.
#[tokio::test]
async fn a_client_that_reads_slowly_is_sent_all_of_it() {
    const LENGTH: usize = 1000 << 10;
    const PER_SECOND: f64 = 12e3;
    let upstream = Upstream::new(|_| async { Response::new(full(vec![7; LENGTH])) }).await;
    let options = Options {
        idle_timeout: Duration::from_secs(2),
        ..Options::default()
    };
    let bed = Bed::with(Arc::new(Never), options);
    let mut patient = route("a/b", &[]);
    patient.limits.timeout = Duration::from_secs(600);
    bed.gateway.insert_route(patient);
    bed.gateway
        .insert_endpoint(&id("a/b"), &endpoint(upstream.address, 1));
    let (mut sender, _connection) = with_window(bed.address, 16 << 10).await;
    let request = Request::get("http://x/a/b/").body(empty()).unwrap();
    let mut body = sender.send_request(request).await.unwrap().into_body();
    let mut taken = 0;
    while let Some(frame) = body.frame().await {
        let length = frame.unwrap().into_data().unwrap().len();
        taken += length;
        // As much as this may have come from the replica at once.
        if taken >= LENGTH - (128 << 10) {
            tokio::time::sleep(Duration::from_secs_f64(length as f64 / PER_SECOND)).await;
        }
    }
    assert_eq!(taken, LENGTH);
}

/// Would fail if responses that have ended, and that a client leaves unread, were in others' way.
#[tokio::test]
async fn a_client_that_leaves_its_answer_unread_keeps_nobody_waiting() {
    let upstream = Upstream::saying("small").await;
    let bed = Bed::new();
    bed.gateway.insert_route(route("a/b", &[]));
    bed.gateway
        .insert_endpoint(&id("a/b"), &endpoint(upstream.address, 1));
    let (mut sender, _connection) = with_window(bed.address, 1).await;
    for _ in 0..3 {
        let request = Request::get("http://x/a/b/").body(empty()).unwrap();
        let unread = sender.send_request(request).await.unwrap();
        assert_eq!(unread.status(), StatusCode::OK);
        let others = tokio::time::timeout(Duration::from_secs(10), bed.get("/a/b/"));
        assert_eq!(others.await.unwrap().body, "small");
        std::mem::forget(unread);
    }
}

/// The same of what the gateway itself answers, to a client without a window.
#[tokio::test]
async fn a_client_that_takes_no_problem_is_not_waited_for() {
    let options = Options {
        idle_timeout: Duration::from_millis(200),
        ..Options::default()
    };
    let bed = Bed::with(Arc::new(Never), options);
    let (mut sender, _connection) = with_window(bed.address, 0).await;
    let request = Request::get("http://x/nowhere").body(empty()).unwrap();
    let unread = sender.send_request(request).await.unwrap();
    assert_eq!(unread.status(), StatusCode::NOT_FOUND);
    assert!(unread.into_body().collect().await.is_err());
}

/// Would fail if a request tried each of many replicas that take no connection, a second each, before it gave up.
#[tokio::test]
async fn many_replicas_that_swallow_connections_take_no_longer_than_one() {
    let options = Options {
        connect_patience: Duration::from_millis(100),
        ..Options::default()
    };
    let bed = Bed::with(Arc::new(Never), options);
    bed.gateway.insert_route(route("a/b", &[]));
    let mut held = Vec::new();
    for _ in 0..40 {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(any).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        // Its queue is full with that.
        held.push((listener, TcpStream::connect(address).await.unwrap()));
        bed.gateway
            .insert_endpoint(&id("a/b"), &endpoint(address, 10));
    }
    let answer = tokio::time::timeout(Duration::from_secs(30), bed.get("/a/b/")).await;
    assert_eq!(answer.unwrap().reason(), "unreachable");
}

/// Would fail if clients that open connections could take more of the gateway than it has, or who is there already suffered, or
/// a place were not given back.
#[tokio::test]
async fn who_connects_beyond_the_most_is_turned_away() {
    let upstream = Upstream::saying("here").await;
    let bed = Bed::with(
        Arc::new(Never),
        Options {
            max_connections: NonZeroU32::new(2).unwrap(),
            ..Options::default()
        },
    );
    bed.gateway.insert_route(route("a/b", &[]));
    bed.gateway
        .insert_endpoint(&id("a/b"), &endpoint(upstream.address, 10));
    let mut first = Client::connect(bed.address).await;
    let mut second = Client::connect(bed.address).await;
    assert_eq!(first.get("/a/b/").await.body, "here");
    assert_eq!(second.get("/a/b/").await.body, "here");
    let mut third = TcpStream::connect(bed.address).await.unwrap();
    assert!(matches!(third.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    assert_eq!(first.get("/a/b/").await.body, "here");
    let metrics = bed.gateway.metrics().1;
    for line in [
        "wisp_gateway_connections 2",
        "wisp_gateway_refused_connections_total 1",
        "wisp_gateway_held_bytes{what=\"requests\"} 0",
        "wisp_gateway_held_limit_bytes{what=\"answers\"} 67108864",
    ] {
        assert!(metrics.lines().any(|other| other == line), "{metrics}");
    }
    drop(second);
    let line = "wisp_gateway_connections 1";
    until(|| bed.gateway.metrics().1.lines().any(|other| other == line)).await;
    assert_eq!(bed.get("/a/b/").await.body, "here");
}

/// Would fail if HTTP/2 connections were kept for as long as their clients like, or ended while they are used.
#[tokio::test]
async fn http2_connections_end_when_nothing_is_asked_on_them() {
    let upstream = Upstream::saying("here").await;
    let bed = Bed::with(
        Arc::new(Never),
        Options {
            idle_timeout: Duration::from_secs(2),
            ..Options::default()
        },
    );
    bed.gateway.insert_route(route("a/b", &[]));
    bed.gateway
        .insert_endpoint(&id("a/b"), &endpoint(upstream.address, 10));
    let mut sender = http2(bed.address).await;
    let asked = Request::get("http://x/a/b/").body(empty()).unwrap();
    let answer = sender.send_request(asked).await.unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "here");
    until(|| sender.is_closed()).await;
}

/// Would fail if a replica were sent more header fields than it takes, whose refusal says nothing.
#[tokio::test]
async fn too_many_header_fields_are_refused_by_name() {
    let upstream = Upstream::saying("here").await;
    let bed = Bed::serving(&upstream);
    let asked = |fields: usize| {
        let names = (0..fields).map(|index| format!("x-{index}"));
        let request = names.fold(Request::get("/a/b/"), |request, name| {
            request.header(name, "1")
        });
        bed.send(request.body(empty()).unwrap())
    };
    // The client adds its host.
    assert_eq!(asked(90).await.body, "here");
    let refused = asked(91).await;
    assert_eq!(
        (refused.status, refused.reason().as_str()),
        (
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "too-many-header-fields"
        )
    );
    assert_eq!(
        refused.json()["detail"],
        "the request has 92 header fields, of 91 that it may have"
    );
}

/// Would fail if a request gained more fields on its way than are left for that.
#[tokio::test]
async fn no_request_has_more_fields_than_its_replica_takes_and_does_not_say_so() {
    let upstream = Upstream::saying("here").await;
    let bed = Bed::new();
    bed.gateway.insert_route(route("a/b", &[]));
    let keyed = Endpoint {
        key: Some(Key("k".repeat(43))),
        ..endpoint(upstream.address, 64)
    };
    bed.gateway.insert_endpoint(&id("a/b"), &keyed);
    let mut sender = http2(bed.address).await;
    let mut statuses = Vec::new();
    for fields in 90..94 {
        let request = (0..fields).fold(Request::post("http://x/a/b/"), |request, index| {
            request.header(format!("x-{index}"), "1")
        });
        let (_unended, body) = channel();
        let answer = sender.send_request(request.body(body).unwrap()).await;
        let answer = crate::support::read(answer.unwrap()).await;
        if answer.status != StatusCode::OK {
            assert_eq!(answer.reason(), "too-many-header-fields", "{fields}");
        }
        statuses.push(answer.status.as_u16());
    }
    assert_eq!(statuses, [200, 200, 431, 431]);
}

/// Would fail if the pieces that HTTP/2 makes of cookies, so that they compress well, were counted one by one.
#[tokio::test]
async fn cookies_in_pieces_are_one_field() {
    let upstream = Upstream::echo().await;
    let bed = Bed::serving(&upstream);
    let mut sender = http2(bed.address).await;
    let request = (0..95).fold(Request::get("http://x/a/b/"), |request, index| {
        request.header("cookie", format!("c{index}=1"))
    });
    let answer = sender.send_request(request.body(empty()).unwrap()).await;
    let answer = crate::support::read(answer.unwrap()).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    let json = answer.json();
    let cookies = echoed(&json, "cookie");
    assert_eq!(cookies.len(), 1);
    assert!(cookies[0].starts_with("c0=1; c1=1; ") && cookies[0].ends_with("; c94=1"));
}

/// Would fail if a connection with a body under way were closed at once: the reset that follows takes the answer from
/// whoever still sends.
#[tokio::test]
async fn who_is_refused_may_send_the_rest_of_the_body() {
    const LENGTH: usize = 4_000_000;
    let upstream = Upstream::echo().await;
    let bed = Bed::serving(&upstream);
    let mut small = route("a/b", &[]);
    small.limits.request_body = 10;
    bed.gateway.insert_route(small);
    for (path, status) in [("/a/b/", "413"), ("/no/such/", "404")] {
        let mut client = TcpStream::connect(bed.address).await.unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {LENGTH}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&[b'x'; 100_000]).await.unwrap();
        let mut start = [0; 12];
        client.read_exact(&mut start).await.unwrap();
        assert_eq!(start, format!("HTTP/1.1 {status}").as_bytes());
        client
            .write_all(&vec![b'x'; LENGTH - 100_000])
            .await
            .unwrap();
        // The connection serves on.
        let next = b"GET /a/b/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        client.write_all(next).await.unwrap();
        let mut rest = String::new();
        client.read_to_string(&mut rest).await.unwrap();
        assert!(rest.contains("HTTP/1.1 200"), "{rest}");
    }
}

/// Would fail if a refusal asked for the body that its client holds back.
#[tokio::test]
async fn who_is_refused_before_sending_is_not_asked_to_send() {
    let bed = Bed::new();
    let text =
        "POST /no/such/ HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n";
    let answer = raw(bed.address, text.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}
