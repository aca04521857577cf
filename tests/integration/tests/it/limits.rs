//! What a host does with guests and clients that go too far. After each of them, the next request is served.
#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails is a test that fails"
)]

use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use wisp_contract::FunctionConfig;
use wisp_contract::problem::Fault;
use wisp_integration::{Host, component, refused, request};

async fn p2(change: impl FnOnce(&mut FunctionConfig)) -> Host {
    Host::ready(&component("fixture-p2"), change).await.unwrap()
}

fn in_time(config: &mut FunctionConfig) {
    config.limits.timeout = Duration::from_millis(300);
}

#[tokio::test]
async fn guests_that_break_are_told_apart_and_their_backtrace_stays_in_the_log() {
    for package in ["fixture-p2", "fixture-p3"] {
        let host = Host::ready(&component(package), |_| {}).await.unwrap();
        for (path, reason) in [
            ("/trap", "trapped"),
            ("/panic", "trapped"),
            ("/error-code", "error-code"),
            ("/allocate", "memory-exceeded"),
        ] {
            let answer = host.client().get(path).await.unwrap();
            let problem = refused(&host, &answer, 502, reason, Fault::Function).await;
            let of_request = |line: &wisp_contract::log::Line<'_>| {
                line.request_id.as_deref() == Some(&*problem.request_id)
                    && line.target.starts_with("wisp_runtime")
                    && line.event.is_none()
            };
            let line = host.line(path, of_request).await.unwrap();
            let details = format!("{line:?}");
            assert!(
                details.contains(if path == "/error-code" {
                    "not for clients"
                } else {
                    "wasm backtrace"
                }),
                "{details}"
            );
            assert!(
                !answer.text().contains("backtrace") && !answer.text().contains("not for clients"),
                "{}",
                answer.text()
            );
        }
    }
}

#[tokio::test]
async fn every_way_a_wasi_0_2_guest_can_break_has_its_reason() {
    let host = p2(|config| config.limits.handles = NonZeroUsize::new(200).unwrap()).await;
    for (path, reason) in [
        ("/recurse", "stack-exhausted"),
        ("/no-response", "no-response"),
        ("/exit?3", "exited"),
        ("/exit?0", "no-response"),
        ("/answer-exit?3", "exited"),
        ("/answer-trap", "trapped"),
        ("/handles?1000", "handles-exceeded"),
        ("/status?101", "invalid-status"),
        ("/status?999", "invalid-status"),
    ] {
        let answer = host.client().get(path).await.unwrap();
        refused(&host, &answer, 502, reason, Fault::Function).await;
    }
    assert_eq!(
        host.client().get("/answer-exit?0").await.unwrap().text(),
        "before the end\n"
    );
    assert_eq!(
        host.client().get("/handles?100").await.unwrap().text(),
        "100"
    );
}

#[tokio::test]
async fn a_refused_allocation_is_the_guest_s_to_handle() {
    let host = p2(|config| config.limits.memory = NonZeroU64::new(8 << 20).unwrap()).await;
    assert_eq!(
        host.client()
            .get("/try-allocate?4000000")
            .await
            .unwrap()
            .text(),
        "true"
    );
    assert_eq!(
        host.client()
            .get("/try-allocate?9000000")
            .await
            .unwrap()
            .text(),
        "false"
    );
    // What it dealt with isn't what breaks it later.
    let answer = host.client().get("/try-allocate-recurse").await.unwrap();
    refused(&host, &answer, 502, "stack-exhausted", Fault::Function).await;
    let answer = host.client().get("/allocate").await.unwrap();
    let problem = refused(&host, &answer, 502, "memory-exceeded", Fault::Function).await;
    assert!(
        problem
            .detail
            .contains("8388608 are allowed (limits.memory)"),
        "{}",
        problem.detail
    );
}

#[tokio::test]
async fn time_is_up_for_guests_that_compute_and_for_guests_that_wait() {
    for package in ["fixture-p2", "fixture-p3"] {
        let host = Host::ready(&component(package), in_time).await.unwrap();
        for path in ["/loop", "/sleep?3600000"] {
            let answer = host.client().get(path).await.unwrap();
            let problem = refused(&host, &answer, 504, "timeout", Fault::Function).await;
            assert!(problem.detail.contains("300 ms"), "{}", problem.detail);
        }
    }
}

#[tokio::test]
async fn time_is_up_in_shared_instances_too() {
    let share = |config: &mut FunctionConfig| {
        in_time(config);
        config.instances = wisp_contract::config::Instances::Reuse {
            max_requests: NonZeroU32::new(1000).unwrap(),
            max_concurrent: NonZeroU32::new(8).unwrap(),
            idle_timeout: Duration::from_secs(600),
        };
    };
    let host = Host::ready(&component("fixture-p3"), share).await.unwrap();
    for path in ["/sleep?3600000", "/loop"] {
        let answer = host.client().get(path).await.unwrap();
        refused(&host, &answer, 504, "timeout", Fault::Function).await;
    }
    assert!(host.client().get("/stream?100000").await.is_err());
    assert_eq!(
        host.client().get("/hello").await.unwrap().status,
        StatusCode::OK
    );
}

/// Would fail if a place were only given back by a body that somebody asks for more: nobody does while its client reads nothing.
#[tokio::test]
async fn a_client_that_reads_nothing_has_its_place_until_its_time_is_up() {
    let share = |config: &mut FunctionConfig| {
        in_time(config);
        config.limits.request_body = 1 << 36;
        config.instances = wisp_contract::config::Instances::Reuse {
            max_requests: NonZeroU32::new(1000).unwrap(),
            max_concurrent: NonZeroU32::new(8).unwrap(),
            idle_timeout: Duration::from_secs(600),
        };
    };
    let host = Host::ready(&component("fixture-p3"), share).await.unwrap();
    let stream = TcpStream::connect(host.data()).await.unwrap();
    let (_unread, mut write) = stream.into_split();
    let head = "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 60000000000\r\n\r\n";
    write.write_all(head.as_bytes()).await.unwrap();
    let uploads = tokio::spawn(async move {
        // Until nothing more is taken.
        while write.write_all(&[b'x'; 65_536]).await.is_ok() {}
    });
    host.until(|status| status.in_flight == 1).await.unwrap();
    host.until_idle().await.unwrap();
    assert_eq!(host.client().get("/hello").await.unwrap().text(), "hello\n");
    uploads.abort();
}

/// A clean end of the body would make half a response look whole.
#[tokio::test]
async fn a_response_that_breaks_off_is_not_mistaken_for_a_whole_one() {
    for package in ["fixture-p2", "fixture-p3"] {
        let host = Host::ready(&component(package), |_| {}).await.unwrap();
        for client in [host.client(), host.client().http2()] {
            assert!(client.get("/stream-trap").await.is_err());
        }
        assert_eq!(
            host.client().get("/hello").await.unwrap().status,
            StatusCode::OK
        );
    }
    let host = p2(in_time).await;
    assert!(host.client().get("/stream-hang").await.is_err());
    assert!(host.client().get("/stream-forever").await.is_err());
    let line = host
        .line("request", |line| {
            line.fields
                .get("path")
                .is_some_and(|path| path == "/stream-hang")
        })
        .await
        .unwrap();
    assert_eq!(line.fields["reason"], "timeout");
    assert_eq!(
        host.client().get("/hello").await.unwrap().status,
        StatusCode::OK
    );
}

/// Would fail if a host whose guests wait for their next request woke up again and again for none, or if the next one that
/// computes were not interrupted after that.
#[tokio::test]
async fn nothing_ticks_while_no_guest_computes() {
    let kept = |concurrent: u32| {
        move |config: &mut FunctionConfig| {
            in_time(config);
            config.instances = wisp_contract::config::Instances::Reuse {
                max_requests: NonZeroU32::new(1000).unwrap(),
                max_concurrent: NonZeroU32::new(concurrent).unwrap(),
                idle_timeout: Duration::from_secs(600),
            };
        }
    };
    for (package, concurrent) in [("fixture-p2", 0), ("fixture-p2", 1), ("fixture-p3", 8)] {
        let host = match concurrent {
            0 => p2(in_time).await,
            many => Host::ready(&component(package), kept(many)).await.unwrap(),
        };
        for _ in 0..2 {
            assert_eq!(host.client().get("/hello").await.unwrap().status, 200);
            let began = std::time::Instant::now();
            let mut before = host.ticks().unwrap();
            loop {
                tokio::time::sleep(Duration::from_millis(200)).await;
                let now = host.ticks().unwrap();
                if now == before {
                    break;
                }
                before = now;
                assert!(
                    began.elapsed() < Duration::from_secs(60),
                    "{package} {concurrent}"
                );
            }
            let answer = host.client().get("/loop").await.unwrap();
            refused(&host, &answer, 504, "timeout", Fault::Function).await;
        }
    }
}

/// A guest that ends itself, or forgets what it began, means no more to send its response than one that traps.
#[tokio::test]
async fn a_response_that_is_left_unfinished_is_not_mistaken_for_a_whole_one() {
    for (package, path, reason, status) in [
        ("fixture-p2", "/stream-exit?0", "exited", None),
        ("fixture-p3", "/stream-exit", "exited", None),
        ("fixture-p2", "/stream-forget?20", "no-response", None),
        // Before anything of it is sent.
        (
            "fixture-p2",
            "/stream-forget?0",
            "no-response",
            Some(StatusCode::BAD_GATEWAY),
        ),
    ] {
        let host = Host::ready(&component(package), |_| {}).await.unwrap();
        for client in [host.client(), host.client().http2()] {
            let answer = client.get(path).await;
            let answered = answer.as_ref().ok().map(|answer| answer.status);
            assert_eq!(answered, status, "{package} {path}: {answer:?}");
        }
        let line = host
            .line("request", |line| line.event.as_deref() == Some("request"))
            .await
            .unwrap();
        assert_eq!(line.fields["reason"], reason, "{package} {path}");
        let answer = host.client().get("/hello").await.unwrap();
        assert_eq!(answer.text(), "hello\n");
    }
}

#[tokio::test]
async fn the_log_tells_how_long_a_refusal_is() {
    let host = p2(|_| {}).await;
    let answer = host.client().get("/trap").await.unwrap();
    let line = host
        .line("request", |line| line.event.as_deref() == Some("request"))
        .await
        .unwrap();
    assert_eq!(line.fields["bytes"], answer.body.len());
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_whether_or_not_its_length_was_declared() {
    let host = p2(|config| config.limits.request_body = 1000).await;
    let chunked = |bytes: usize| {
        let pieces = (0..bytes / 100)
            .map(|_| Ok::<_, std::io::Error>(Frame::data(Bytes::from(vec![b'x'; 100]))));
        Request::post("/length")
            .body(StreamBody::new(futures::stream::iter(pieces)).boxed())
            .unwrap()
    };
    for client in [host.client(), host.client().http2()] {
        assert_eq!(
            client
                .post("/length", vec![b'x'; 1000])
                .await
                .unwrap()
                .text(),
            "1000"
        );
        assert_eq!(client.fetch(chunked(1000)).await.unwrap().text(), "1000");
        let answer = client.post("/length", vec![b'x'; 1001]).await.unwrap();
        let problem = refused(&host, &answer, 413, "body-too-large", Fault::Client).await;
        assert!(problem.detail.contains("1000 bytes"), "{}", problem.detail);
        let answer = client.fetch(chunked(1100)).await.unwrap();
        refused(&host, &answer, 413, "body-too-large", Fault::Client).await;
    }
}

/// Would fail if the function were blamed for a client that stops sending.
#[tokio::test]
async fn a_body_that_never_ends_is_the_clients_fault() {
    let host = p2(in_time).await;
    for client in [host.client(), host.client().http2()] {
        let begun = futures::stream::iter([Ok::<_, std::io::Error>(Frame::data(
            Bytes::from_static(b"x"),
        ))]);
        let unending = futures::StreamExt::chain(begun, futures::stream::pending());
        let body = StreamBody::new(unending).boxed();
        let request = Request::post("/length").body(body).unwrap();
        let answer = client.fetch(request).await.unwrap();
        let problem = refused(&host, &answer, 408, "body-too-slow", Fault::Client).await;
        assert!(problem.detail.contains("300 ms"), "{}", problem.detail);
    }
}

/// Would fail if who looked for more once, before it was sent, were taken to wait for it ever after.
#[tokio::test]
async fn a_body_that_has_come_is_not_what_a_guest_waits_for() {
    // Time enough for the body to come where the machine is busy.
    let host = p2(|config| config.limits.timeout = Duration::from_secs(3)).await;
    let mut stream = TcpStream::connect(host.data()).await.unwrap();
    let head =
        "POST /glance-hang HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 5\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    host.line("a look", |line| line.message == "found 0 bytes")
        .await
        .unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
}

#[tokio::test]
async fn who_finds_no_place_waits_and_who_finds_no_room_is_sent_away() {
    let host = p2(|config| {
        config.limits.concurrency = NonZeroUsize::MIN;
        config.limits.queue = 1;
    })
    .await;
    let client = host.client();
    // One runs, one waits; both end when their clients leave.
    let running = tokio::spawn(async move { client.get("/sleep?3600000").await });
    host.until(|status| status.in_flight == 1).await.unwrap();
    let waiting = tokio::spawn(async move { client.get("/hello").await });
    host.until(|status| status.queued == 1).await.unwrap();
    let answer = client.get("/hello").await.unwrap();
    let problem = answer.problem();
    assert_eq!(
        (answer.status.as_u16(), &*problem.reason, problem.fault),
        (503, "queue-full", Fault::Platform)
    );
    assert!(problem.retryable);
    assert_eq!(answer.headers["retry-after"], "1");
    running.abort();
    assert_eq!(waiting.await.unwrap().unwrap().text(), "hello\n");
}

/// Would fail if an instance that is made ahead served twice, or its making or its predecessor's end took a place.
#[tokio::test]
async fn instances_made_ahead_are_fresh_and_take_nobodys_place() {
    let host = p2(|config| {
        config.limits.timeout = Duration::from_secs(3);
        config.limits.concurrency = NonZeroUsize::new(2).unwrap();
        config.limits.queue = 0;
    })
    .await;
    let client = host.client();
    for _ in 0..100 {
        assert_eq!(client.get("/count").await.unwrap().text(), "1");
    }
    // Longer than a request may take.
    tokio::time::sleep(Duration::from_millis(3100)).await;
    let (one, two) = futures::join!(client.get("/sleep?200"), client.get("/sleep?200"));
    for answer in [one, two] {
        assert_eq!(answer.unwrap().text(), "slept\n");
    }
    assert_eq!(client.get("/count").await.unwrap().text(), "1");
}

#[tokio::test]
async fn a_flood_of_output_is_dropped_and_counted() {
    for package in ["fixture-p2", "fixture-p3"] {
        let component = component(package);
        let host = Host::ready(&component, |config| {
            config.limits.log_rate = NonZeroU64::new(10_000).unwrap();
        });
        let host = host.await.unwrap();
        assert_eq!(
            host.client().get("/flood?20000").await.unwrap().text(),
            "flooded\n"
        );
        host.line("dropped", |line| line.fields.contains_key("droppedBytes"))
            .await
            .unwrap();
        let written: usize = host
            .log()
            .iter()
            .filter(|line| line.contains("of a flood"))
            .map(String::len)
            .sum();
        assert!(
            written < 400_000,
            "{package}: {written} bytes of the flood were written"
        );
        let metrics = host.control().get("/metrics").await.unwrap().text();
        let dropped = metrics
            .lines()
            .find_map(|line| line.strip_prefix("wisp_host_dropped_log_bytes_total "))
            .unwrap();
        assert!(dropped.parse::<u64>().unwrap() > 1_000_000, "{dropped}");
    }
}

#[tokio::test]
async fn requests_without_a_host_are_refused() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let host = p2(|_| {}).await;
    let mut stream = tokio::net::TcpStream::connect(host.data()).await.unwrap();
    stream
        .write_all(b"GET /hello HTTP/1.1\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(
        text.starts_with("HTTP/1.1 400 ") && text.contains("invalid-host"),
        "{text}"
    );
    let ok = host
        .client()
        .fetch(request(Method::GET, "/hello", "").unwrap())
        .await
        .unwrap();
    assert_eq!(ok.status, StatusCode::OK);
}
