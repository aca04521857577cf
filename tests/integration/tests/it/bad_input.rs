//! What a host does with what can't be right: a sentence that names the thing, the value and what is allowed; and where
//! it serves already, it serves on.
#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails is a test that fails"
)]

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use wisp_contract::FunctionConfig;
use wisp_contract::config::KeyValueStore;
use wisp_contract::log::event;
use wisp_integration::{Host, assignment, component, request};

/// The sentence with which a host refuses a function. It must end with status 1, before it was ever ready.
async fn refusal(component: &Path, change: impl FnOnce(&mut FunctionConfig)) -> String {
    let mut assignment = assignment(component);
    change(&mut assignment.config);
    let mut host = Host::start(Some(&assignment), &[]).await.unwrap();
    let line = host.event(event::FAILED).await.unwrap();
    assert_eq!(host.end().await.unwrap().code(), Some(1));
    assert!(
        !host
            .log()
            .iter()
            .any(|line| line.contains(r#""event":"ready""#)),
        "{:?}",
        host.log()
    );
    line.message.into_owned()
}

/// Writes `to`, which is as long, wherever `from` is.
fn replace(bytes: &mut [u8], from: &str, to: &str) {
    let (from, to) = (from.as_bytes(), to.as_bytes());
    let mut found = false;
    for at in 0..bytes.len() {
        if let Some(place) = bytes.get_mut(at..at + from.len()).filter(|it| *it == from) {
            place.copy_from_slice(to);
            found = true;
        }
    }
    assert!(found, "the fixture has it");
}

/// A component made of a fixture's bytes.
fn altered(package: &str, folder: &Path, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    let mut bytes = std::fs::read(component(package)).unwrap();
    change(&mut bytes);
    let file = folder.join("altered.wasm");
    std::fs::write(&file, bytes).unwrap();
    file
}

#[tokio::test]
async fn a_component_that_is_cut_off_or_damaged_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let half = altered("fixture-p2", folder.path(), |bytes| {
        bytes.truncate(bytes.len() / 2)
    });
    let text = refusal(&half, |_| {}).await;
    assert!(text.contains("cut off"), "{text}");
    let damaged = altered("fixture-p2", folder.path(), |bytes| bytes[8] = 0xff);
    let text = refusal(&damaged, |_| {}).await;
    assert!(
        text.contains("damaged") || text.contains("cut off"),
        "{text}"
    );
}

#[tokio::test]
async fn a_component_that_imports_what_nobody_offers_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let foreign = altered("fixture-p2", folder.path(), |bytes| {
        replace(
            bytes,
            "wasi:clocks/monotonic-clock",
            "acme:clocks/monotonic-clock",
        );
    });
    let text = refusal(&foreign, |_| {}).await;
    assert!(text.contains("acme:clocks/monotonic-clock"), "{text}");
}

#[tokio::test]
async fn a_component_of_another_version_of_wasi_is_told_which_are_served() {
    let folder = tempfile::tempdir().unwrap();
    for (package, from, to, words) in [
        (
            "fixture-p2",
            "wasi:http/incoming-handler@0.2.",
            "wasi:http/incoming-handler@0.7.",
            ["wasi:http/incoming-handler@0.7.", "0.2.x or 0.3.x"],
        ),
        (
            "fixture-p3",
            "wasi:http/handler@0.3.",
            "wasi:http/handler@0.9.",
            ["wasi:http/handler@0.9.", "0.2.x or 0.3.x"],
        ),
        (
            "fixture-p2",
            "wasi:clocks/monotonic-clock@0.2.",
            "wasi:clocks/monotonic-clock@0.1.",
            ["wasi:clocks/monotonic-clock@0.1.", "0.2"],
        ),
        (
            "fixture-nn",
            "@0.2.0-rc-2024-10-28",
            "@0.2.0-rc-2023-05-05",
            ["wasi:nn/graph@0.2.0-rc-2023-05-05", "0.2.0-rc-2024-10-28"],
        ),
    ] {
        let other = altered(package, folder.path(), |bytes| replace(bytes, from, to));
        let text = refusal(&other, |_| {}).await;
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
}

#[tokio::test]
async fn every_wrong_outbound_entry_is_named_at_once() {
    let text = refusal(&component("fixture-p2"), |config| {
        config.outbound.allow = [
            "example.com",
            "https://ok.example",
            "ftp://x.example",
            "https://*",
        ]
        .map(str::to_owned)
        .into();
    })
    .await;
    for part in [
        "`example.com` has no scheme",
        "`ftp://x.example` has no scheme",
        "`https://*` has a wildcard",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains("ok.example"), "{text}");
}

#[tokio::test]
async fn a_store_that_cannot_be_opened_names_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("notes.txt");
    std::fs::write(&file, "not a store\n".repeat(1000)).unwrap();
    let store = |name: &str, file: &Path| KeyValueStore {
        name: name.into(),
        file: file.to_owned(),
        max_bytes: NonZeroU64::MIN,
    };
    let text = refusal(&component("fixture-p2"), |config| {
        config.key_value = vec![store("default", &file)]
    })
    .await;
    assert!(
        text.contains("`default`") && text.contains("notes.txt"),
        "{text}"
    );
    assert_eq!(
        std::fs::read_to_string(&file).unwrap(),
        "not a store\n".repeat(1000)
    );

    let other = folder.path().join("other.redb");
    let twice = vec![store("default", &other), store("default", &other)];
    let text = refusal(&component("fixture-p2"), |config| config.key_value = twice).await;
    assert!(text.contains("`default` is configured twice"), "{text}");
}

#[tokio::test]
async fn an_assignment_with_an_unknown_key_names_it() {
    let host = Host::start(None, &[]).await.unwrap();
    let mut json = serde_json::to_value(assignment(Path::new("a.wasm"))).unwrap();
    json["config"]["limits"]["memry"] = 1.into();
    let answer = host
        .control()
        .post("/assign", json.to_string())
        .await
        .unwrap();
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let detail = answer.problem().detail;
    assert!(
        detail.contains("memry") && detail.contains("memory"),
        "{detail}"
    );
    // The host is still there for a good one.
    let good = serde_json::to_vec(&assignment(&component("fixture-p2"))).unwrap();
    assert_eq!(
        host.control().post("/assign", good).await.unwrap().status,
        StatusCode::OK
    );
    assert_eq!(host.client().get("/hello").await.unwrap().text(), "hello\n");
}

/// Sends `bytes` as they are, and returns everything that comes back before the connection is closed.
async fn raw(host: &Host, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(host.data()).await.unwrap();
    // The host may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn bytes_that_are_no_request_close_their_connection_only() {
    let host = Host::ready(&component("fixture-p2"), |_| {}).await.unwrap();
    let head = |line: &str| {
        format!("GET /hello HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{line}\r\n\r\n")
            .into_bytes()
    };
    let mut large = b"GET /hello HTTP/1.1\r\nhost: x\r\n".to_vec();
    for i in 0..200_000 {
        large.extend_from_slice(format!("x-{i}: {i}\r\n").as_bytes());
    }
    for (name, bytes) in [
        ("binary", vec![0; 1000]),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 nobody speaks TLS here\r\n\r\n".to_vec()),
        ("no HTTP", b"HELO mail.example\r\n\r\n".to_vec()),
        ("a length that is none", head("content-length: -1")),
        ("two lengths", head("content-length: 1\r\ncontent-length: 2")),
        ("a broken chunk", b"POST /length HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".to_vec()),
        ("endless headers", large),
        ("HTTP/2 that goes wrong", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff".to_vec()),
    ] {
        let answer = raw(&host, &bytes).await;
        assert!(!answer.contains(" 200 "), "{name}: {answer}");
        assert_eq!(host.client().get("/hello").await.unwrap().text(), "hello\n", "after {name}");
    }
}

/// Would fail if anybody who connects could have the host keep much for a request that it never ends; or if it refused what a
/// gateway lets pass, which is half as much.
#[tokio::test]
async fn a_head_is_read_up_to_a_bound() {
    let host = Host::ready(&component("fixture-p2"), |_| {}).await.unwrap();
    let mut head = b"GET /hello HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-long: ".to_vec();
    head.resize(100 << 10, b'x');
    let answer = raw(&host, &[&head[..], b"\r\n\r\n"].concat()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    // All of it is read, so that the answer isn't lost to TCP.
    head.resize(128 << 10, b'x');
    let answer = raw(&host, &head).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn odd_requests_that_http_allows_reach_the_guest_or_are_refused_with_a_problem() {
    let host = Host::ready(&component("fixture-p2"), |_| {}).await.unwrap();
    for (method, path) in [
        ("BREW", "/hello"),
        ("GET", "/hello?a=%00%ff"),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd"),
        ("OPTIONS", "*"),
    ] {
        let mut sent =
            request(Method::from_bytes(method.as_bytes()).unwrap(), "/hello", "").unwrap();
        *sent.uri_mut() = path.parse().unwrap();
        let answer = host.client().fetch(sent).await.unwrap();
        assert!(
            answer.headers.contains_key("x-request-id"),
            "{method} {path}: {answer:?}"
        );
        assert!(
            answer.status.is_success() || answer.status.is_client_error(),
            "{method} {path}: {answer:?}"
        );
    }
    for id in ["with space", "", &"x".repeat(200)] {
        let mut sent = request(Method::GET, "/hello", "").unwrap();
        sent.headers_mut()
            .insert("x-request-id", id.parse().unwrap());
        let answer = host.client().fetch(sent).await.unwrap();
        let given = answer.headers["x-request-id"].to_str().unwrap();
        assert!(
            given != id && given.len() == 32,
            "an id that is none is replaced: {given}"
        );
    }
}
