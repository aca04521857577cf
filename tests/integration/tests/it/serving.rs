//! What a host does with requests that are all right.
#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails is a test that fails"
)]

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;
use wisp_contract::FunctionConfig;
use wisp_contract::config::Instances;
use wisp_integration::{Client, Host, component, request};

async fn p2() -> Host {
    Host::ready(&component("fixture-p2"), |_| {}).await.unwrap()
}

async fn p3() -> Host {
    Host::ready(&component("fixture-p3"), |_| {}).await.unwrap()
}

#[tokio::test]
async fn both_wasi_versions_answer_over_both_http_versions() {
    for host in [p2().await, p3().await] {
        for client in [host.client(), host.client().http2()] {
            let answer = client.get("/hello").await.unwrap();
            assert_eq!(
                (answer.status, answer.text().as_str()),
                (StatusCode::OK, "hello\n")
            );
            let timing = answer.headers["server-timing"].to_str().unwrap();
            assert!(
                timing.contains("queue;dur=") && timing.contains("instance;dur="),
                "{timing}"
            );
        }
    }
}

#[tokio::test]
async fn the_guest_sees_the_request_as_it_was_sent_and_its_id() {
    let host = p2().await;
    let mut sent = request(Method::PUT, "/request?a=b", "").unwrap();
    sent.headers_mut()
        .insert("host", "digits.example.com:81".parse().unwrap());
    sent.headers_mut()
        .insert("x-request-id", "from-the-client".parse().unwrap());
    sent.headers_mut().insert(
        "traceparent",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
            .parse()
            .unwrap(),
    );
    let answer = host.client().fetch(sent).await.unwrap();
    let text = answer.text();
    for line in [
        "Method::Put Some(Scheme::Http) digits.example.com:81 /request?a=b",
        "x-request-id: from-the-client",
        "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is missing in\n{text}"
        );
    }
    assert_eq!(answer.headers["x-request-id"], "from-the-client");

    let made = host.client().get("/request").await.unwrap();
    let id = made.headers["x-request-id"].to_str().unwrap().to_owned();
    assert!(
        made.text().contains(&format!("x-request-id: {id}")),
        "{}",
        made.text()
    );

    let mut sent = request(Method::GET, "/request", "").unwrap();
    sent.headers_mut()
        .insert("host", "digits.example.com".parse().unwrap());
    let text = p3().await.client().fetch(sent).await.unwrap().text();
    assert_eq!(
        text,
        "Method::Get Some(Scheme::Http) digits.example.com /request\n"
    );
}

/// The echo would never answer the first piece if either direction were collected before it is passed on.
#[tokio::test]
async fn bodies_stream_both_ways_at_once() {
    for host in [p2().await, p3().await] {
        for client in [host.client(), host.client().http2()] {
            let (send, pieces) = tokio::sync::mpsc::channel::<Bytes>(1);
            let stream = futures::stream::unfold(pieces, async |mut pieces| {
                let piece = pieces.recv().await?;
                Some((Ok::<_, std::io::Error>(Frame::data(piece)), pieces))
            });
            let body = StreamBody::new(stream).boxed();
            let sent = Request::post("/echo").body(body).unwrap();
            let answering = tokio::spawn(async move { client.send(sent).await });
            send.send("one".into()).await.unwrap();
            let mut answer = answering.await.unwrap().unwrap().into_body();
            assert_eq!(
                answer.frame().await.unwrap().unwrap().into_data().unwrap(),
                "one"
            );
            send.send("two".into()).await.unwrap();
            assert_eq!(
                answer.frame().await.unwrap().unwrap().into_data().unwrap(),
                "two"
            );
            drop(send);
            assert!(answer.collect().await.unwrap().to_bytes().is_empty());
        }
    }
}

#[tokio::test]
async fn a_guest_that_streams_is_heard_piece_by_piece_to_its_end() {
    for host in [p2().await, p3().await] {
        let answer = host.client().get("/stream?5").await.unwrap();
        assert_eq!(
            answer.text(),
            "chunk 0\nchunk 1\nchunk 2\nchunk 3\nchunk 4\n"
        );
    }
    let large = p2().await.client().get("/large?3000000").await.unwrap();
    assert_eq!(large.body.len(), 3_000_000);
}

#[tokio::test]
async fn answers_without_a_body_end_well() {
    for host in [p2().await, p3().await] {
        for client in [host.client(), host.client().http2()] {
            let empty = client.get("/empty").await.unwrap();
            assert_eq!(
                (empty.status, empty.body.len()),
                (StatusCode::NO_CONTENT, 0)
            );
            let asked = request(Method::HEAD, "/hello", "").unwrap();
            let head = client.fetch(asked).await.unwrap();
            assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
            // So does a problem, of which a client over HTTP/2 would take a body for an error.
            let asked = request(Method::HEAD, "/trap", "").unwrap();
            let head = client.fetch(asked).await.unwrap();
            assert_eq!((head.status, head.body.len()), (StatusCode::BAD_GATEWAY, 0));
            assert_eq!(head.headers["content-type"], "application/problem+json");
            let length = head.headers["content-length"].to_str().unwrap();
            assert!(length.parse::<usize>().unwrap() > 0, "{length}");
        }
        for path in ["/empty", "/hello"] {
            assert_ended_well(&host, path).await;
        }
    }
}

/// hyper asks no more of a body that says that it has ended: would fail if that were taken for a client that is gone.
#[tokio::test]
async fn answers_of_no_declared_length_end_well() {
    let host = p3().await;
    for client in [host.client(), host.client().http2()] {
        for (path, sent) in [
            ("/hello", ""),
            ("/echo", ""),
            ("/echo", "some"),
            ("/stream?3", ""),
        ] {
            let asked = request(Method::POST, path, sent).unwrap();
            client.fetch(asked).await.unwrap();
        }
    }
    for path in ["/hello", "/echo", "/stream"] {
        assert_ended_well(&host, path).await;
    }
}

/// Every request of that path is logged without a reason.
async fn assert_ended_well(host: &Host, path: &str) {
    host.until_idle().await.unwrap();
    let is_of = |line: &wisp_contract::log::Line<'_>| {
        line.fields.get("path").is_some_and(|found| found == path)
    };
    host.line(path, is_of).await.unwrap();
    for text in host.log() {
        let line: wisp_contract::log::Line<'_> = serde_json::from_str(&text).unwrap();
        assert!(
            !is_of(&line) || !line.fields.contains_key("reason"),
            "{line:?}"
        );
    }
}

#[tokio::test]
async fn every_request_gets_a_fresh_instance_unless_the_function_asks_for_reuse() {
    for package in ["fixture-p2", "fixture-p3"] {
        let component = component(package);
        let count = async |host: &Host| {
            let count = host.client().get("/count").await.unwrap().text();
            // The instance is back only when its call is over, a moment after the client has its answer.
            host.until_idle().await.unwrap();
            count
        };

        let fresh = Host::ready(&component, |_| {}).await.unwrap();
        assert_eq!([count(&fresh).await, count(&fresh).await], ["1", "1"]);

        let reuse = |config: &mut wisp_contract::FunctionConfig| {
            config.instances = Instances::Reuse {
                max_requests: NonZeroU32::new(3).unwrap(),
                max_concurrent: NonZeroU32::MIN,
                idle_timeout: Duration::from_secs(600),
            };
        };
        let reused = Host::ready(&component, reuse).await.unwrap();
        let mut counts = Vec::new();
        for _ in 0..7 {
            counts.push(count(&reused).await);
        }
        assert_eq!(counts, ["1", "2", "3", "1", "2", "3", "1"], "{package}");
    }
}

/// A request that waits for another can only end where both are in one instance.
#[tokio::test]
async fn a_wasi_0_3_instance_serves_several_requests_at_once_where_the_function_asks_for_it() {
    let share = |config: &mut wisp_contract::FunctionConfig| {
        config.limits.timeout = Duration::from_secs(30);
        config.instances = Instances::Reuse {
            max_requests: NonZeroU32::new(1000).unwrap(),
            max_concurrent: NonZeroU32::new(3).unwrap(),
            idle_timeout: Duration::from_secs(600),
        };
    };
    let host = Host::ready(&component("fixture-p3"), share).await.unwrap();
    let client = host.client();
    // Whichever instance the others come to: it goes on until one comes to that of the first.
    let named = async move |path: &str, id: &str| {
        let mut request = request(Method::GET, path, "").unwrap();
        let id = id.parse().unwrap();
        request.headers_mut().insert("x-request-id", id);
        client.fetch(request).await
    };
    let first = tokio::spawn(async move { named("/meet?2", "first").await });
    host.until(|status| status.in_flight == 1).await.unwrap();
    let mut others = 0;
    while !first.is_finished() {
        others += 1;
        let answer = named("/arrive", &format!("other-{others}")).await.unwrap();
        assert_eq!(answer.text(), "here\n");
    }
    assert_eq!(first.await.unwrap().unwrap().text(), "met\n");
    host.until_idle().await.unwrap();

    // What each of them says is its own, though they took turns in one instance.
    let last = format!("other-{others}");
    for (message, id) in [
        ("waiting", "first"),
        ("arrived", &*last),
        ("not alone", "first"),
    ] {
        host.line(message, |line| {
            line.message == message && line.request_id.as_deref() == Some(id)
        })
        .await
        .unwrap();
    }

    // One that traps takes its instance along, and not the function.
    assert_eq!(
        client.get("/trap").await.unwrap().problem().reason,
        "trapped"
    );
    assert_eq!(
        client.get("/error-code").await.unwrap().problem().reason,
        "error-code"
    );
    assert_eq!(client.get("/hello").await.unwrap().text(), "hello\n");
    let counts = [
        client.get("/count").await.unwrap().text(),
        client.get("/count").await.unwrap().text(),
    ];
    assert_eq!(counts, ["1", "2"]);
    assert_eq!(client.post("/echo", "abc").await.unwrap().text(), "abc");
    assert_eq!(
        client.get("/stream?3").await.unwrap().text(),
        "chunk 0\nchunk 1\nchunk 2\n"
    );
}

#[tokio::test]
async fn environment_and_output_reach_the_guest_and_the_log() {
    let change = |config: &mut wisp_contract::FunctionConfig| {
        config.env.0.insert("GREETING".into(), "servus".into());
    };
    let host = Host::ready(&component("fixture-p2"), change).await.unwrap();
    assert_eq!(
        host.client().get("/env?GREETING").await.unwrap().text(),
        "servus"
    );
    assert_eq!(
        host.client().get("/env?PATH").await.unwrap().text(),
        "",
        "the host's own environment is not the guest's"
    );

    let mut sent = request(Method::GET, "/stdout?tick", "").unwrap();
    sent.headers_mut()
        .insert("x-request-id", "r-1".parse().unwrap());
    host.client().fetch(sent).await.unwrap();
    for (target, message) in [
        ("guest.stdout", "to stdout: tick"),
        ("guest.stderr", "to stderr: tick"),
    ] {
        let line = host
            .line(message, |line| line.target == target)
            .await
            .unwrap();
        assert_eq!(
            (&*line.message, line.request_id.as_deref()),
            (message, Some("r-1"))
        );
        assert_eq!(line.function.as_deref(), Some("tests/fixture"));
    }
    let line = host
        .line("request", |line| {
            line.request_id.as_deref() == Some("r-1") && line.event.is_some()
        })
        .await
        .unwrap();
    assert_eq!(
        (&line.fields["status"], &line.fields["path"]),
        (&200.into(), &"/stdout".into())
    );
}

/// The guest's instance would be dropped with the response if its call were tied to it.
#[tokio::test]
async fn a_guest_may_go_on_after_its_answer() {
    for host in [p2().await, p3().await] {
        assert_eq!(
            host.client().get("/after?30").await.unwrap().text(),
            "answered\n"
        );
        host.line("went on", |line| line.message == "went on after the answer")
            .await
            .unwrap();
    }
}

/// Would fail if requests were refused for want of the instances that still do what they have left to do.
#[tokio::test]
async fn what_goes_on_after_its_answer_is_waited_for_where_it_has_all_instances() {
    let host = Host::ready(&component("fixture-p3"), few).await.unwrap();
    for nth in 1..=10 {
        let answer = host.client().get("/after?3000").await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{nth}: {}", answer.text());
    }
}

/// Would fail if who leaves while it waits for an instance kept its place until there is one.
#[tokio::test]
async fn who_waits_for_an_instance_and_leaves_gives_its_place_back() {
    let file = component("fixture-p3");
    let host = Host::ready(&file, |config| {
        few(config);
        config.limits.timeout = Duration::from_secs(30);
    });
    let host = host.await.unwrap();
    let mut answered = 0;
    let left = loop {
        let client = host.client();
        let asked = client.get("/after?20000");
        match tokio::time::timeout(Duration::from_secs(1), asked).await {
            Ok(answer) => assert_eq!(answer.unwrap().status, StatusCode::OK),
            Err(_) => break Instant::now(),
        }
        answered += 1;
        assert!(answered < 20, "there are always more");
    };
    host.until_idle().await.unwrap();
    assert!(left.elapsed() < Duration::from_secs(10));
}

/// Would fail if a body whose guest keeps it, beyond the request that it is of, passed for whole where its instance ends: when
/// that has served as many requests as it may, or nobody asked it for a while.
#[tokio::test]
async fn a_body_that_is_kept_beyond_its_request_is_not_whole() {
    for (most, idle_timeout) in [(1, 60_000), (100, 50)] {
        let host = Host::ready(&component("fixture-p3"), |config| {
            config.limits.timeout = Duration::from_secs(1);
            config.instances = Instances::Reuse {
                max_requests: NonZeroU32::new(most).unwrap(),
                max_concurrent: NonZeroU32::new(8).unwrap(),
                idle_timeout: Duration::from_millis(idle_timeout),
            };
        })
        .await
        .unwrap();
        let answer = host.client().get("/kept").await;
        assert!(answer.is_err(), "{most}: {answer:?}");
        // Others are, and their instances end.
        for _ in 0..3 {
            let answer = host.client().get("/hello").await.unwrap();
            assert_eq!(answer.text(), "hello\n");
        }
    }
}

/// Would fail if bytes were lost of a body whose beginning a guest reads before it hands it on.
#[tokio::test]
async fn the_rest_of_a_body_is_handed_on_whole() {
    let host = Host::ready(&component("fixture-p3"), |_| ()).await.unwrap();
    let body: Vec<u8> = (0..100_000_u32)
        .map(|index| b'a' + (index % 23) as u8)
        .collect();
    let answer = host.client().post("/rest", body.clone()).await.unwrap();
    assert!(
        answer.text() == String::from_utf8_lossy(&body[16..]),
        "of {} bytes there are {}",
        body.len() - 16,
        answer.text().len()
    );
}

/// One place, and few instances, which several requests could share.
fn few(config: &mut FunctionConfig) {
    config.limits.concurrency = NonZeroUsize::MIN;
    config.instances = Instances::Reuse {
        max_requests: NonZeroU32::MIN,
        max_concurrent: NonZeroU32::new(2).unwrap(),
        idle_timeout: Duration::from_secs(60),
    };
}

/// Would fail if the next request's instance did what the one before had left to do, in that one's name.
#[tokio::test]
async fn what_is_left_to_do_after_an_error_is_done_by_nobody() {
    let host = Host::ready(&component("fixture-p3"), |config| {
        config.instances = Instances::Reuse {
            max_requests: NonZeroU32::new(100).unwrap(),
            max_concurrent: NonZeroU32::MIN,
            idle_timeout: Duration::from_secs(60),
        };
    })
    .await
    .unwrap();
    let failed = host.client().get("/error-after?30").await.unwrap();
    assert_eq!(failed.status, StatusCode::BAD_GATEWAY);
    host.client().get("/sleep?200").await.unwrap();
    host.until_idle().await.unwrap();
    let log = host.log();
    assert!(log.iter().all(|line| !line.contains("went on")), "{log:#?}");
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_guest() {
    for http2 in [false, true] {
        let host = p2().await;
        let client = if http2 {
            host.client().http2()
        } else {
            host.client()
        };
        let mut answer = client
            .send(request(Method::GET, "/stream-forever", "").unwrap())
            .await
            .unwrap()
            .into_body();
        answer.frame().await.unwrap().unwrap();
        drop(answer);
        let line = host
            .line("request", |line| line.event.as_deref() == Some("request"))
            .await
            .unwrap();
        assert_eq!(line.fields["reason"], "client-gone");
        host.until_idle().await.unwrap();

        // Before there is an answer, too.
        let waiting = tokio::spawn(async move { client.get("/sleep?3600000").await });
        host.until(|status| status.in_flight == 1).await.unwrap();
        waiting.abort();
        host.until_idle().await.unwrap();
        assert!(
            host.log().iter().all(|line| !line.contains("trap")),
            "{:#?}",
            host.log()
        );
    }
}

/// While one client takes nothing, the same guest writes all of it to another. Would fail if the host took from a guest what its client
/// doesn't read: the first one's would be done by then, or what it wrote be in the host's memory.
#[tokio::test]
async fn a_slow_reader_holds_its_guest_back() {
    const LENGTH: usize = 100_000_000;
    // Many times what is on its way to a client, and less than half of what there is to keep.
    const KEPT: u64 = 40_000_000;
    for package in ["fixture-p2", "fixture-p3"] {
        let component = component(package);
        let host = Host::ready(&component, |config| {
            config.limits.timeout = Duration::from_secs(120);
        });
        let host = host.await.unwrap();
        for client in [host.client(), host.client().http2()] {
            // What two of them need at once isn't what is looked for.
            futures::join!(read(client, LENGTH / 10), read(client, LENGTH / 10));
            host.until_idle().await.unwrap();
            let before = host.peak_memory().unwrap();
            let mut slow = large(client, LENGTH).await;
            let first = slow.frame().await.unwrap().unwrap().into_data().unwrap();
            read(client, LENGTH).await;
            host.until(|status| status.in_flight == 1).await.unwrap();
            let grown = host.peak_memory().unwrap() - before;
            assert!(grown < KEPT, "{package}: {grown} bytes");
            assert_eq!(first.len() + length_of(slow).await, LENGTH);
            host.until_idle().await.unwrap();
        }
    }
}

/// A body of so many bytes, of which nothing was taken yet.
async fn large(client: Client, length: usize) -> Incoming {
    let asked = request(Method::GET, &format!("/large?{length}"), "").unwrap();
    client.send(asked).await.unwrap().into_body()
}

/// Takes a body of so many bytes as fast as it comes.
async fn read(client: Client, length: usize) {
    let body = large(client, length).await;
    assert_eq!(length_of(body).await, length);
}

/// Of a body that is read to its end, and not kept.
async fn length_of(mut body: Incoming) -> usize {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame.unwrap().data_ref().map_or(0, Bytes::len);
    }
    length
}
