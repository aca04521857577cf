//! How a host becomes a function, tells about itself, and ends.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use wisp_contract::assignment::Key;
use wisp_contract::log::event;
use wisp_integration::{Host, assignment, component, request};

#[tokio::test]
async fn a_generic_host_takes_exactly_one_assignment() {
    let host = Host::start(None, &[]).await.unwrap();
    assert_eq!(
        host.control().get("/healthz").await.unwrap().status,
        StatusCode::OK
    );
    assert_eq!(
        host.control().get("/readyz").await.unwrap().status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(
        host.control().get("/status").await.unwrap().json()["phase"],
        "waiting"
    );
    // Whoever is sent here by mistake still has the whole request.
    let early = TcpStream::connect(host.data()).await;
    assert_eq!(
        early.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );

    let garbage = host.control().post("/assign", "{}").await.unwrap();
    assert_eq!(
        (garbage.status.as_u16(), &*garbage.problem().reason),
        (400, "invalid-assignment")
    );

    let mut wanted = assignment(&component("fixture-p2"));
    let post = async |assignment: &wisp_contract::Assignment| {
        host.control()
            .post("/assign", serde_json::to_vec(assignment).unwrap())
            .await
            .unwrap()
    };
    let (one, two) = tokio::join!(post(&wanted), post(&wanted));
    for answer in [one, two, post(&wanted).await] {
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        let status = answer.json();
        assert_eq!(
            (&status["phase"], &status["function"], &status["revision"]),
            (&json!("ready"), &json!("tests/fixture"), &json!("1"))
        );
        assert_eq!(status["componentSha256"].as_str().unwrap().len(), 64);
    }
    wanted.revision = "2".to_owned();
    let other = post(&wanted).await;
    assert_eq!(
        (other.status.as_u16(), &*other.problem().reason),
        (409, "assigned")
    );
    assert_eq!(
        host.control().get("/readyz").await.unwrap().status,
        StatusCode::OK
    );
    assert_eq!(host.client().get("/hello").await.unwrap().text(), "hello\n");
}

#[tokio::test]
async fn a_component_that_cannot_be_served_fails_with_a_sentence_before_ready() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let missing = folder.path().join("missing.wasm");
    for (path, sentence) in [
        (missing, "could not be read"),
        (file("text.wasm", b"hello"), "not WebAssembly"),
        (
            file("module.wasm", b"\0asm\x01\0\0\0"),
            "core WebAssembly module",
        ),
        (file("empty.wasm", b"\0asm\x0d\0\x01\0"), "serves no HTTP"),
    ] {
        let mut host = Host::start(Some(&assignment(&path)), &[]).await.unwrap();
        let line = host.event(event::FAILED).await.unwrap();
        assert!(
            line.message.contains(sentence) && line.message.contains("tests/fixture"),
            "{line:?}"
        );
        assert_eq!(host.end().await.unwrap().code(), Some(1));
    }
    let mut wrong = assignment(&component("fixture-p2"));
    wrong.config.component.sha256 = Some("00".repeat(32));
    let host = Host::start(Some(&wrong), &[]).await.unwrap();
    assert!(
        host.event(event::FAILED)
            .await
            .unwrap()
            .message
            .contains("0000")
    );
}

#[tokio::test]
async fn a_limit_that_the_component_itself_exceeds_is_found_before_ready() {
    let mut small = assignment(&component("fixture-p2"));
    small.config.limits.memory = std::num::NonZeroU64::new(65536).unwrap();
    let host = Host::start(Some(&small), &[]).await.unwrap();
    let line = host.event(event::FAILED).await.unwrap();
    assert!(line.message.contains("65536"), "{line:?}");
}

#[tokio::test]
async fn a_host_with_a_key_serves_only_who_knows_it_and_hides_it_from_the_guest() {
    let mut keyed = assignment(&component("fixture-p2"));
    keyed.key = Some(Key("open sesame".into()));
    let host = Host::start(Some(&keyed), &[]).await.unwrap();
    host.event(event::READY).await.unwrap();
    for key in [None, Some("open sesam"), Some("open sesame")] {
        let mut sent = request(Method::GET, "/request", "").unwrap();
        if let Some(key) = key {
            sent.headers_mut().insert("wisp-key", key.parse().unwrap());
        }
        let answer = host.client().fetch(sent).await.unwrap();
        if key == Some("open sesame") {
            assert_eq!(answer.status, StatusCode::OK);
            assert!(!answer.text().contains("sesame"), "{}", answer.text());
        } else {
            assert_eq!(
                (answer.status.as_u16(), &*answer.problem().reason),
                (403, "wrong-key")
            );
        }
    }
}

/// Would fail if whoever doesn't know the key could open as many connections to the data port as the process may have files, if what
/// one that is closed had sent stayed in memory, or if those who know the key weren't heard meanwhile.
#[tokio::test]
async fn who_has_not_shown_the_key_has_one_of_so_many_places() {
    // As few as there ever are.
    const PLACES: usize = 128;
    // Their heads come to no end: those that have places have 13 MB, and all of them 100 MB.
    const UNKNOWN: usize = 1000;
    const HEAD: usize = 100_000;
    const KEPT: u64 = 64_000_000;
    let mut keyed = assignment(&component("fixture-p2"));
    keyed.key = Some(Key("open sesame".into()));
    keyed.config.limits.concurrency = NonZeroUsize::MIN;
    keyed.config.limits.queue = 64;
    let host = Host::start(Some(&keyed), &[]).await.unwrap();
    host.event(event::READY).await.unwrap();
    let ask = async |known: &mut TcpStream| {
        let asked = b"GET /hello HTTP/1.1\r\nhost: a\r\nwisp-key: open sesame\r\n\r\n";
        known.write_all(asked).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello\n") {
            assert_ne!(known.read_buf(&mut answer).await.unwrap(), 0);
        }
    };
    let mut known = TcpStream::connect(host.data()).await.unwrap();
    ask(&mut known).await;
    let before = host.peak_memory().unwrap();
    let begun = "GET /hello HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx: ";
    let begun = format!("{begun}{}", "x".repeat(HEAD));
    let mut unknown = VecDeque::new();
    for nth in 0..UNKNOWN {
        let mut stream = TcpStream::connect(host.data()).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        unknown.push_back(stream);
        if unknown.len() > PLACES {
            // Who says no more is closed after 30 s anyway.
            let mut oldest = unknown.pop_front().unwrap();
            let mut byte = [0];
            let closed = oldest.read(&mut byte);
            let closed = tokio::time::timeout(Duration::from_secs(10), closed).await;
            assert!(matches!(closed, Ok(Ok(0) | Err(_))), "{nth}: {closed:?}");
        }
        if nth % 100 == 99 {
            let client = host.client().with_key("open sesame");
            assert_eq!(client.get("/hello").await.unwrap().text(), "hello\n");
            ask(&mut known).await;
        }
    }
    let grown = host.peak_memory().unwrap() - before;
    assert!(grown < KEPT, "{grown} bytes");
    // The last one has its place.
    let mut last = unknown.pop_back().unwrap();
    last.write_all(b"\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    last.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    ask(&mut known).await;
}

#[tokio::test]
async fn what_is_in_flight_finishes_when_the_host_is_told_to_end() {
    for drain in ["signal", "control"] {
        let mut host = Host::ready(&component("fixture-p2"), |_| {}).await.unwrap();
        let client = host.client();
        let running = tokio::spawn(async move { client.get("/stream?100").await });
        host.until(|status| status.in_flight == 1).await.unwrap();
        if drain == "signal" {
            host.terminate().unwrap();
        } else {
            assert_eq!(
                host.control().post("/drain", "").await.unwrap().status,
                StatusCode::ACCEPTED
            );
        }
        host.event(event::DRAINING).await.unwrap();
        assert_eq!(
            host.control().get("/readyz").await.unwrap().status,
            StatusCode::SERVICE_UNAVAILABLE
        );
        assert!(
            host.client().get("/hello").await.is_err(),
            "no new connections"
        );
        assert!(
            running
                .await
                .unwrap()
                .unwrap()
                .text()
                .ends_with("chunk 99\n")
        );
        assert_eq!(host.end().await.unwrap().code(), Some(0));
    }
}

#[tokio::test]
async fn what_takes_too_long_to_finish_is_cut_off_and_the_end_is_still_a_good_one() {
    let wanted = assignment(&component("fixture-p2"));
    let mut host = Host::start(Some(&wanted), &["--drain-timeout", "0.1"])
        .await
        .unwrap();
    host.event(event::READY).await.unwrap();
    let client = host.client();
    let running = tokio::spawn(async move { client.get("/mutter?3600000").await });
    host.until(|status| status.in_flight == 1).await.unwrap();
    host.terminate().unwrap();
    host.line("cut off", |line| {
        line.message.contains("1 requests were cut off")
    })
    .await
    .unwrap();
    assert_eq!(host.end().await.unwrap().code(), Some(0));
    assert!(running.await.unwrap().is_err());
    // What it printed last, which was no whole line yet, is what somebody will look for.
    let log = host.log();
    assert!(
        log.iter().any(|line| line.contains("half a line")),
        "{log:?}"
    );
}

/// Would fail if a response that the end of the host cuts off seemed whole to its client.
#[tokio::test]
async fn a_response_that_takes_too_long_to_finish_is_broken_off() {
    let wanted = assignment(&component("fixture-p2"));
    let mut host = Host::start(Some(&wanted), &["--drain-timeout", "0.1"])
        .await
        .unwrap();
    host.event(event::READY).await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..32 {
        let mut client = TcpStream::connect(host.data()).await.unwrap();
        let request = b"GET /large?4000000000 HTTP/1.1\r\nhost: a\r\n\r\n";
        client.write_all(request).await.unwrap();
        clients.push(tokio::spawn(async move {
            let (mut end, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
            while let Ok(count @ 1..) = client.read(&mut buffer).await {
                end.extend_from_slice(&buffer[..count]);
                end.drain(..end.len().saturating_sub(16));
            }
            end
        }));
    }
    host.until(|status| status.in_flight == 32).await.unwrap();
    host.terminate().unwrap();
    assert_eq!(host.end().await.unwrap().code(), Some(0));
    for client in clients {
        let end = client.await.unwrap();
        assert!(end.len() == 16 && !end.ends_with(b"0\r\n\r\n"), "{end:?}");
    }
}

/// Would fail if the host reset who had connected before it was told to end, as far as they know.
#[tokio::test]
async fn who_connected_before_the_host_is_told_to_end_is_answered() {
    let mut host = Host::ready(&component("fixture-p2"), |_| {}).await.unwrap();
    host.signal("STOP").unwrap();
    let mut clients = Vec::new();
    for _ in 0..32 {
        let mut client = TcpStream::connect(host.data()).await.unwrap();
        let request = b"GET /hello HTTP/1.1\r\nhost: a\r\n\r\n";
        client.write_all(request).await.unwrap();
        clients.push(client);
    }
    host.terminate().unwrap();
    host.signal("CONT").unwrap();
    for mut client in clients {
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    assert_eq!(host.end().await.unwrap().code(), Some(0));
}

/// Would fail if whoever opens connections to the control port, and may, could open as many as the process may have files, or
/// keep the kubelet from asking.
#[tokio::test]
async fn the_control_port_has_places_for_so_many_and_hears_who_asks() {
    let host = Host::start(None, &[]).await.unwrap();
    let open = async || TcpStream::connect(host.control_address()).await;
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(open().await.unwrap());
    }
    let answer = host.control().get("/healthz").await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    // The last ones have the places; a silent one that has its place is closed after 30 s.
    for stream in &mut idle[..150] {
        let mut byte = [0];
        let closed = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut byte)).await;
        assert!(matches!(closed, Ok(Ok(0) | Err(_))), "{closed:?}");
    }
}

#[tokio::test]
async fn the_compiled_component_is_mapped_by_the_next_host() {
    let folder = tempfile::tempdir().unwrap();
    let start = async |cache: &Path| {
        let host = Host::start(
            Some(&assignment(&component("fixture-p2"))),
            &["--cache", cache.to_str().unwrap()],
        )
        .await
        .unwrap();
        host.event(event::READY).await.unwrap();
        host.line("loaded", |line| line.message == "component loaded")
            .await
            .unwrap()
            .fields["cached"]
            .clone()
    };
    assert_eq!(start(folder.path()).await, false);
    assert_eq!(start(folder.path()).await, true);
}

#[tokio::test]
async fn metrics_tell_what_happened() {
    for package in ["fixture-p2", "fixture-p3"] {
        let host = Host::ready(&component(package), |_| {}).await.unwrap();
        host.client().get("/hello").await.unwrap();
        host.client().get("/trap").await.unwrap();
        let text = host.control().get("/metrics").await.unwrap().text();
        for line in [
            r#"wisp_host_requests_total{class="2xx",reason=""} 1"#,
            r#"wisp_host_requests_total{class="5xx",reason="trapped"} 1"#,
            "wisp_host_request_seconds_count 2",
            "wisp_host_in_flight 0",
            "wisp_host_queued 0",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is missing in\n{text}"
            );
        }
        let started = text
            .lines()
            .find_map(|line| line.strip_prefix("wisp_host_instance_start_seconds_count "));
        // One for each request, and maybe more ahead by now.
        let started: Option<u32> = started.and_then(|count| count.parse().ok());
        assert!(
            started.is_some_and(|count| (2..5).contains(&count)),
            "{text}"
        );
        assert!(text.ends_with("# EOF\n"));
    }
}

#[tokio::test]
async fn the_control_port_says_what_it_offers() {
    let host = Host::start(None, &[]).await.unwrap();
    assert_eq!(
        host.control().get("/nothing").await.unwrap().status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        host.control().get("/assign").await.unwrap().status,
        StatusCode::METHOD_NOT_ALLOWED
    );
}
