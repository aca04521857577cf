//! A guest that uses everything the SDK has, on the real host.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::{Method, Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use wisp_contract::config::KeyValueStore;
use wisp_contract::log::{GUEST_LOG, Level};
use wisp_engine::Outcome;
use wisp_engine::preinit::{Limits, preinit};
use wisp_integration::{Host, component, model, onnxruntime, repository, request};

async fn host() -> Host {
    Host::ready(&component("fixture-sdk"), |config| {
        config.env.0.insert("GREETING".into(), "hello".into());
    })
    .await
    .unwrap()
}

async fn text(host: &Host, path: &str) -> String {
    let answer = host.client().get(path).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text());
    answer.text()
}

#[tokio::test]
async fn requests_arrive_and_responses_go_out_as_the_handler_means_them() {
    let host = host().await;
    let client = host.client();
    assert_eq!(text(&host, "/hello/J%C3%BCrgen").await, "hello Jürgen");

    let answer = client
        .post("/sum", r#"{"numbers": [1, 2, 39]}"#)
        .await
        .unwrap();
    assert_eq!(
        (answer.text().as_str(), &answer.headers["content-type"]),
        (r#"{"sum":42}"#, &"application/json".parse().unwrap())
    );
    assert_eq!(answer.headers["content-length"], "10");

    let answer = client.get("/teapot").await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.text().as_str()),
        (418, "short and stout")
    );
    let answer = client.get("/nothing").await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (204, ""));

    let answer = client.get("/headers").await.unwrap();
    let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2"]);

    let head = client
        .fetch(request(Method::HEAD, "/hello/a", "").unwrap())
        .await
        .unwrap();
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    let options = client
        .fetch(request(Method::OPTIONS, "/sum", "").unwrap())
        .await
        .unwrap();
    assert_eq!(
        (options.status.as_u16(), &options.headers["allow"]),
        (204, &"POST".parse().unwrap())
    );

    let mut named = request(Method::GET, "/uri?a=b", "").unwrap();
    named
        .headers_mut()
        .insert("host", "digits.example.com".parse().unwrap());
    assert_eq!(
        client.fetch(named).await.unwrap().text(),
        "http://digits.example.com/uri?a=b"
    );
}

#[tokio::test]
async fn mistakes_of_clients_are_problems_that_name_them() {
    let host = host().await;
    let client = host.client();
    for (method, path, body, status, detail) in [
        (
            Method::POST,
            "/sum",
            "{\n  \"numbers\": 7}",
            400,
            "expected a sequence at line 2 column 14",
        ),
        (
            Method::POST,
            "/sum",
            "{",
            400,
            "the body ends before its JSON does: EOF while parsing an object at line 1 column 1",
        ),
        (
            Method::POST,
            "/sum",
            "",
            400,
            "the body is empty; expected JSON",
        ),
        (
            Method::GET,
            "/nowhere",
            "",
            404,
            "there is nothing at `/nowhere`",
        ),
        (
            Method::PUT,
            "/sum",
            "",
            405,
            "`/sum` takes POST, and not PUT",
        ),
    ] {
        let mut sent = request(method, path, body).unwrap();
        sent.headers_mut()
            .insert("x-request-id", "from-the-client".parse().unwrap());
        let answer = client.fetch(sent).await.unwrap();
        let problem = answer.problem();
        assert_eq!(
            (answer.status.as_u16(), problem.status),
            (status, status),
            "{path}"
        );
        assert!(
            problem.detail.contains(detail),
            "{path}: {}",
            problem.detail
        );
        assert_eq!(problem.request_id, "from-the-client");
    }
    let mut form = request(Method::POST, "/sum", "a=b").unwrap();
    form.headers_mut().insert(
        "content-type",
        "application/x-www-form-urlencoded".parse().unwrap(),
    );
    let answer = client.fetch(form).await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.problem().reason.as_str()),
        (415, "unsupported-media-type")
    );
}

#[tokio::test]
async fn bodies_are_streamed_both_ways_at_once() {
    let host = host().await;
    for client in [host.client(), host.client().http2()] {
        let (mut sender, receiver) = futures::channel::mpsc::channel::<Bytes>(1);
        let body = BodyExt::boxed(StreamBody::new(
            receiver.map(|bytes| Ok(Frame::data(bytes))),
        ));
        let sent = Request::builder()
            .method(Method::POST)
            .uri("/upper")
            .body(body)
            .unwrap();
        sender.send(Bytes::from_static(b"one ")).await.unwrap();
        let mut response = client.send(sent).await.unwrap();
        // Each part comes back before the next one is sent.
        let mut next = async || {
            response
                .frame()
                .await
                .unwrap()
                .unwrap()
                .into_data()
                .unwrap()
        };
        assert_eq!(next().await, "ONE ");
        sender.send(Bytes::from_static(b"two")).await.unwrap();
        assert_eq!(next().await, "TWO");
        drop(sender);
        // HTTP/2 may end a body with an empty part.
        assert!(response.collect().await.unwrap().to_bytes().is_empty());
    }
}

#[tokio::test]
async fn large_bodies_pass_through_a_small_memory() {
    let host = Host::ready(&component("fixture-sdk"), |config| {
        config.limits.memory = std::num::NonZeroU64::new(4 << 20).unwrap();
        config.limits.request_body = 64 << 20;
    })
    .await
    .unwrap();
    let large = Bytes::from(vec![b'x'; 32 << 20]);
    assert_eq!(
        host.client()
            .post("/count", large.clone())
            .await
            .unwrap()
            .text(),
        large.len().to_string()
    );
    assert!(
        host.client()
            .post("/echo", large.clone())
            .await
            .unwrap()
            .body
            == large
    );
    let written = text(&host, "/written").await;
    assert_eq!(written.len(), 100 * 100 * 100);
    assert!(written.ends_with("99\n"));
}

#[tokio::test]
async fn events_come_one_by_one() {
    let host = host().await;
    let answer = host.client().get("/events").await.unwrap();
    assert_eq!(answer.headers["content-type"], "text/event-stream");
    assert_eq!(
        answer.text(),
        "id: 1\ndata: 1\n\nid: 2\ndata: 2\n\nid: 3\ndata: 3\n\n"
    );
}

#[tokio::test]
async fn a_body_that_fails_is_cut_short_and_the_log_says_why() {
    let host = host().await;
    assert!(host.client().get("/broken-body").await.is_err());
    let line = host
        .line("on the body", |line| {
            line.message.contains("the disk is gone")
        })
        .await
        .unwrap();
    assert_eq!(line.level, Level::Error);
    assert_eq!(text(&host, "/hello/a").await, "hello a");
}

/// Would fail if a response were cut without a word to the function's developer.
#[tokio::test]
async fn a_body_that_is_not_as_long_as_its_head_says_is_told() {
    let host = host().await;
    assert_eq!(text(&host, "/five-bytes/5").await, "12345");
    for (length, told) in [
        (7, "content-length is 7, its body has 5 bytes"),
        (4, "content-length is 4, its body has 5 bytes or more"),
    ] {
        // How much of it the client sees is the host's.
        let _ = host.client().get(&format!("/five-bytes/{length}")).await;
        host.line(told, |line| line.message.ends_with(told))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn what_the_client_is_not_told_is_in_the_log_with_the_requests_id() {
    let host = host().await;
    let answer = host.client().get("/error").await.unwrap();
    let problem = answer.problem();
    assert_eq!(
        (problem.status, problem.reason.as_str()),
        (500, "internal-error")
    );
    assert!(!problem.detail.contains("invalid digit"));
    let line = host
        .line("of the error", |line| {
            line.message.contains("invalid digit found in string")
        })
        .await
        .unwrap();
    assert_eq!(
        (line.level, line.target.as_ref()),
        (Level::Error, GUEST_LOG)
    );
    assert_eq!(
        line.request_id.as_deref(),
        Some(problem.request_id.as_str())
    );
}

#[tokio::test]
async fn a_panic_is_one_line_and_the_next_request_is_served() {
    let host = host().await;
    let answer = host.client().get("/panic").await.unwrap();
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    let line = host
        .line("of the panic", |line| line.message.contains("panicked"))
        .await
        .unwrap();
    assert!(
        line.message.contains("src/lib.rs:") && line.message.ends_with(": number 7"),
        "{}",
        line.message
    );
    assert_eq!(line.level, Level::Error);
    assert_eq!(text(&host, "/hello/a").await, "hello a");
}

#[tokio::test]
async fn a_handler_that_waits_in_vain_ends() {
    let host = host().await;
    let answer = host.client().get("/stalled").await.unwrap();
    assert!(answer.status.is_server_error());
    host.line("of the stall", |line| {
        line.message
            .contains("waits for something that never comes")
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn log_lines_have_levels_targets_and_a_filter() {
    let host = host().await;
    text_of_status(&host, "/log", 204).await;
    let through_sdk = host
        .line("through the SDK", |line| line.message.contains("number 7"))
        .await
        .unwrap();
    assert_eq!(
        (through_sdk.level, through_sdk.target.as_ref()),
        (Level::Warn, GUEST_LOG)
    );
    assert!(through_sdk.request_id.is_some());
    host.line("through the crate", |line| {
        line.message.contains("through the crate")
    })
    .await
    .unwrap();
    assert!(
        !host
            .log()
            .iter()
            .any(|line| line.contains("not at this level"))
    );

    let verbose = Host::ready(&component("fixture-sdk"), |config| {
        config.env.0.insert("LOG_LEVEL".into(), "debug".into());
    })
    .await
    .unwrap();
    text_of_status(&verbose, "/log", 204).await;
    verbose
        .line("of level debug", |line| {
            line.message.contains("not at this level")
        })
        .await
        .unwrap();
}

async fn text_of_status(host: &Host, path: &str, status: u16) -> String {
    let answer = host.client().get(path).await.unwrap();
    assert_eq!(answer.status.as_u16(), status, "{path}: {}", answer.text());
    answer.text()
}

/// Would fail if only the future of the body itself woke what sends it.
#[tokio::test]
async fn a_task_may_write_the_response() {
    assert_eq!(text(&host().await, "/task-writes").await, "one two three");
}

#[tokio::test]
async fn the_clients_url_and_cookies_are_known() {
    let host = host().await;
    let mut asked = request(Method::GET, "/client?b=c", "").unwrap();
    for (name, value) in [
        ("host", "shop.default"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "example.com"),
        ("x-forwarded-prefix", "/default/shop"),
        ("cookie", "b=2; a=1"),
    ] {
        asked.headers_mut().insert(name, value.parse().unwrap());
    }
    assert_eq!(
        host.client().fetch(asked).await.unwrap().text(),
        r#"https://example.com/default/shop/client?b=c /default/shop Some("1")"#
    );
}

#[tokio::test]
async fn the_requests_id_is_known() {
    let host = host().await;
    let answer = host.client().get("/id").await.unwrap();
    assert_eq!(
        answer.text().as_bytes(),
        answer.headers["x-request-id"].as_bytes()
    );
    assert!(!answer.text().is_empty());
}

#[tokio::test]
async fn configuration_is_there_and_what_is_missing_is_named() {
    let host = host().await;
    assert_eq!(text(&host, "/config/GREETING").await, "hello");
    assert_eq!(text(&host, "/config/OTHER").await, "none");
    text_of_status(&host, "/require/OTHER", 500).await;
    host.line("of what is missing", |line| {
        line.message.contains("`OTHER` isn't configured")
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn keys_outlive_requests() {
    let folder = tempfile::tempdir().unwrap();
    let host = Host::ready(&component("fixture-sdk"), |config| {
        config.key_value = vec![KeyValueStore {
            name: "default".into(),
            file: folder.path().join("default.redb"),
            max_bytes: std::num::NonZeroU64::new(1 << 20).unwrap(),
        }];
    })
    .await
    .unwrap();
    let client = host.client();
    text_of_status(&host, "/kv/color", 404).await;
    let put = client
        .fetch(request(Method::PUT, "/kv/color", "red").unwrap())
        .await
        .unwrap();
    assert_eq!(put.status, StatusCode::NO_CONTENT, "{}", put.text());
    assert_eq!(text(&host, "/kv/color").await, "red");
    assert_eq!(
        client
            .post("/kv/visits/increment?by=2", "")
            .await
            .unwrap()
            .text(),
        "2"
    );
    assert_eq!(
        client
            .post("/kv/visits/increment", "")
            .await
            .unwrap()
            .text(),
        "3"
    );
    assert_eq!(text(&host, "/kv").await, r#"["color","visits"]"#);
    for existed in ["true", "false"] {
        let deleted = client
            .fetch(request(Method::DELETE, "/kv/color", "").unwrap())
            .await
            .unwrap();
        assert_eq!(deleted.text(), existed);
    }
    text_of_status(&host, "/kv-open/other", 500).await;
    host.line("of the store", |line| {
        line.message
            .contains("store `other`: there is no such store")
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn work_left_to_a_task_goes_on_after_the_response() {
    let host = host().await;
    assert_eq!(text(&host, "/spawn").await, "sent");
    host.line("of the task", |line| {
        line.message.contains("after the response")
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_time_limit_holds() {
    let host = host().await;
    for (path, told) in [
        ("/timeout", "not done within 1ms"),
        ("/yields", "not done within 2ms"),
    ] {
        text_of_status(&host, path, 500).await;
        host.line("of the limit", |line| line.message.contains(told))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn requests_go_out_where_they_are_allowed() {
    let upstream = host().await;
    let origin = format!("http://{}", upstream.data());
    let host = Host::ready(&component("fixture-sdk"), |config| {
        config.outbound.allow = vec![origin.clone()]
    })
    .await
    .unwrap();
    assert_eq!(
        text(&host, &format!("/fetch?url={origin}/hello/there")).await,
        "hello there"
    );
    let teapot = host
        .client()
        .get(&format!("/fetch?url={origin}/teapot"))
        .await
        .unwrap();
    assert_eq!(teapot.status, StatusCode::IM_A_TEAPOT);

    let large = Bytes::from(vec![b'y'; 3 << 20]);
    let forwarded = host
        .client()
        .post(&format!("/forward?url={origin}/echo"), large.clone())
        .await
        .unwrap();
    assert!(forwarded.body == large, "{}", forwarded.status);

    let sent = "[1, 2, 3]";
    let echoed = host
        .client()
        .post(&format!("/read-and-send?url={origin}/echo"), sent)
        .await
        .unwrap();
    assert_eq!(
        (echoed.status, echoed.text().as_str()),
        (StatusCode::OK, sent)
    );

    // Where it may not ask, no other service is to blame.
    let denied = host
        .client()
        .post("/read-and-send?url=http://127.0.0.1:9/", sent)
        .await
        .unwrap();
    assert_eq!(denied.problem().status, 500);

    let denied = host
        .client()
        .get("/fetch?url=http://127.0.0.1:9/")
        .await
        .unwrap();
    let problem = denied.problem();
    assert_eq!(problem.status, 502);
    assert_eq!(
        problem.detail,
        "GET http://127.0.0.1:9/: the function's `spec.outbound.allow` doesn't name http://127.0.0.1:9"
    );
}

/// Would fail if a caller were told that the function is broken where the service behind it broke off, or fell silent.
#[tokio::test]
async fn a_response_that_is_not_whole_is_its_senders_doing() {
    let upstream = host().await;
    let origin = format!("http://{}", upstream.data());
    let host = Host::ready(&component("fixture-sdk"), |config| {
        config.outbound.allow = vec![origin.clone()]
    })
    .await
    .unwrap();
    for (path, status, reason) in [
        ("broken-body", 502, "upstream-failed"),
        ("late-body", 504, "upstream-timeout"),
    ] {
        let read = format!("/read?url={origin}/{path}");
        let problem = host.client().get(&read).await.unwrap().problem();
        assert_eq!((problem.status, problem.reason.as_str()), (status, reason));
    }
}

#[tokio::test]
async fn start_up_work_is_done_once_ahead_of_each_instances_request() {
    let host = host().await;
    assert_eq!(text(&host, "/starts").await, "1");
    assert_ne!(text(&host, "/seed").await, text(&host, "/seed").await);
}

#[tokio::test]
async fn start_up_work_that_was_done_at_the_build_is_not_done_again() {
    let plain = std::fs::read(component("fixture-sdk")).unwrap();
    let preinit = preinit(&plain, &Limits::default()).unwrap();
    assert!(
        matches!(preinit.outcome, Outcome::Snapshot { .. }),
        "{:?}",
        preinit.outcome
    );
    assert!(
        preinit.output.contains("start-up is done"),
        "{}",
        preinit.output
    );
    let file = tempfile::Builder::new().suffix(".wasm").tempfile().unwrap();
    std::fs::write(file.path(), &preinit.component).unwrap();

    let host = Host::ready(file.path(), |config| {
        config.env.0.insert("LOG_LEVEL".into(), "debug".into());
    })
    .await
    .unwrap();
    assert_eq!(text(&host, "/starts").await, "1");
    // All instances begin with the memory that the build left.
    assert_eq!(text(&host, "/seed").await, text(&host, "/seed").await);
    assert!(
        !host
            .log()
            .iter()
            .any(|line| line.contains("start-up is done"))
    );
    // What belongs to the running function is read when it runs.
    text_of_status(&host, "/log", 204).await;
    host.line("of level debug", |line| {
        line.message.contains("not at this level")
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_model_that_is_not_there_is_named() {
    let host = host().await;
    text_of_status(&host, "/open/nothing", 500).await;
    host.line("of the model", |line| {
        line.message
            .contains("model `nothing` can't be opened: not found")
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn models_compute_and_refuse_what_they_cannot_with_types_and_shapes() {
    let Some(library) = onnxruntime() else { return };
    let file = repository().join("examples/digits/mnist.onnx");
    let host = Host::with_models(&component("fixture-sdk"), &library, |config| {
        config.models = vec![model("mnist", &file)];
    })
    .await
    .unwrap();

    let pixels = format!("[{}0]", "0,".repeat(783));
    let answer = host.client().post("/digit", pixels).await.unwrap();
    let timing = answer.headers["server-timing"].to_str().unwrap();
    assert!(timing.contains("nn;dur="), "{timing}");
    let probabilities: Vec<f32> = serde_json::from_str(&answer.text()).unwrap();
    assert_eq!(probabilities.len(), 10);
    assert!(
        (probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-4,
        "{probabilities:?}"
    );

    let refused = text(&host, "/open/mnist").await;
    assert!(
        refused.starts_with("model `mnist` can't compute `nonsense` u8[1]: invalid argument: "),
        "{refused}"
    );
    text_of_status(&host, "/nowhere", 404).await;
}

#[test]
fn a_component_imports_what_its_function_uses_and_no_more() {
    let imports = |package: &str| -> Vec<String> {
        let inspection = wisp_engine::inspect(&std::fs::read(component(package)).unwrap()).unwrap();
        inspection
            .imports
            .into_iter()
            .map(|name| name.package)
            .collect()
    };
    let ours = ["wasi:config", "wasi:keyvalue", "wasi:logging", "wasi:nn"];
    let all = imports("fixture-sdk");
    assert!(
        ours.iter()
            .all(|package| all.iter().any(|import| import == package)),
        "{all:?}"
    );
    // It neither logs nor asks for anything.
    let stream = imports("stream");
    assert!(
        !ours
            .iter()
            .any(|package| stream.iter().any(|import| import == package)),
        "{stream:?}"
    );
    assert!(
        !stream
            .iter()
            .any(|import| import == "wasi:filesystem" || import == "wasi:sockets"),
        "{stream:?}"
    );
}
