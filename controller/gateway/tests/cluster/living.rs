use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use serde_json::json;
use tokio::net::{TcpSocket, TcpStream};
use wisp_contract::FunctionId;
use wisp_contract::operator;
use wisp_load::FakeCluster;

use crate::support::{Gateway, Replica, ask, get, open, read, until};

fn id(text: &str) -> FunctionId {
    text.parse().unwrap()
}

fn ensured(replica: &Replica) -> operator::Replica {
    operator::Replica {
        address: replica.address,
        concurrency: 64,
    }
}

/// A cluster with one function, `vision/digits`.
async fn cluster() -> (FakeCluster, FunctionId) {
    let (cluster, function) = (FakeCluster::start().await.unwrap(), id("vision/digits"));
    let spec = json!({"component": {"image": "digits:1"}, "hosts": ["digits.test"]});
    cluster.put_function(&function, &spec);
    (cluster, function)
}

const NAMES: [(&str, &str); 7] = [
    ("gateway:8080", "/vision/digits/"),
    ("digits.vision.example.com", "/"),
    ("digits.test", "/"),
    ("digits.vision", "/"),
    ("digits.vision.svc", "/"),
    ("digits.vision.svc.cluster.local", "/"),
    ("DIGITS.vision.svc.cluster.local.:80", "/"),
];

#[tokio::test]
async fn a_function_is_woken_served_by_all_its_names_and_reported() {
    let (cluster, function) = cluster().await;
    let replica = Replica::start(&cluster, &function).await;
    cluster.answer_wake_ups(Ok(vec![ensured(&replica)]));
    let gateway = Gateway::start(&cluster, &[]).await;
    assert_eq!(cluster.wake_ups(), 0);
    for (host, path) in NAMES {
        let answer = gateway.get(host, path).await;
        assert_eq!(answer.status, StatusCode::OK, "{host}{path}: {answer:?}");
        assert_eq!(
            answer.headers["x-request-id"],
            answer.json()["x-request-id"].as_str().unwrap()
        );
    }
    assert_eq!(cluster.wake_ups(), 1);
    let report = cluster.report(|report| {
        let of_it = |stats: &wisp_contract::stats::FunctionStats| stats.answers[1] > 0;
        report.functions.iter().any(of_it)
    });
    let report = report.await;
    assert_eq!(report.gateway, "gateway-1");
    assert_eq!(report.functions[0].function, function);
    assert!(!report.urgent, "the operator was asked to wake it");

    let metrics = gateway.health("/metrics").await.body;
    for line in [
        "wisp_gateway_requests_total{namespace=\"vision\",function=\"digits\"} 7",
        "wisp_gateway_ready 1",
        "wisp_gateway_watch_errors_total{watch=\"pods\"} 0",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    // The page on what to watch names them all.
    let page = include_str!("../../../operator/docs/watching.md");
    for line in metrics.lines().filter(|line| line.starts_with("# TYPE ")) {
        let name = line.split(' ').nth(2).unwrap();
        assert!(page.contains(&format!("`{name}`")), "{name}");
    }
    let nowhere = gateway.get("nowhere.test", "/").await;
    assert_eq!(nowhere.status, StatusCode::NOT_FOUND);
}

/// Would fail if what a client decided not to record were recorded by the operator, or by its function.
#[tokio::test]
async fn a_wake_up_is_recorded_unless_it_is_part_of_a_trace_that_is_not() {
    let (cluster, _) = cluster().await;
    cluster.put_function(
        &id("vision/letters"),
        &json!({"component": {"image": "x:1"}}),
    );
    // Nobody listens there.
    let collector = TcpSocket::new_v4().unwrap();
    collector.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let endpoint = format!("http://{}", collector.local_addr().unwrap());
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())];
    let gateway = Gateway::start_with(&cluster, &[], &variables).await;
    for (function, flags) in [("vision/digits", "00"), ("vision/letters", "01")] {
        let replica = Replica::start(&cluster, &id(function)).await;
        cluster.answer_wake_ups(Ok(vec![ensured(&replica)]));
        let parent = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
        let request = Request::get(format!("/{function}/"))
            .header("host", "x")
            .header("traceparent", &parent);
        let mut sender = open(TcpStream::connect(gateway.http).await.unwrap()).await;
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let answer = read(sender.send_request(request).await.unwrap()).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let of_function = answer.json()["traceparent"].as_str().unwrap().to_owned();
        for told in [of_function, cluster.trace().unwrap()] {
            let (trace, sampled) = (&told[..36], &told[52..]);
            assert_eq!((trace, sampled), (&parent[..36], &parent[52..]));
            assert_eq!(told == parent, flags == "00", "{told}");
        }
    }
}

#[tokio::test]
async fn endpoints_follow_the_pods() {
    let (cluster, function) = cluster().await;
    let replica = Replica::start(&cluster, &function).await;
    cluster.put_pod(&function, "digits-1", replica.address, true);
    let gateway = Gateway::start(&cluster, &[]).await;
    let get = || gateway.get("digits.test", "/");
    assert_eq!(get().await.status, StatusCode::OK);
    assert_eq!(cluster.wake_ups(), 0, "it was awake");

    // Gone while no watch looked.
    let other = Replica::start(&cluster, &function).await;
    cluster.answer_wake_ups(Ok(vec![ensured(&other)]));
    cluster.break_watches();
    cluster.remove_pod("vision", "digits-1");
    until(async || {
        assert_eq!(get().await.status, StatusCode::OK);
        cluster.wake_ups() == 1
    })
    .await;
    // The wake-up's replica isn't Ready yet, as its pod says.
    cluster.put_pod(&function, "digits-2", other.address, false);
    let third = Replica::start(&cluster, &function).await;
    cluster.put_pod(&function, "digits-3", third.address, true);
    until(async || {
        assert_eq!(get().await.status, StatusCode::OK);
        third.requests.load(Ordering::SeqCst) > 0
    })
    .await;
    let before = other.requests.load(Ordering::SeqCst);
    until(async || {
        assert_eq!(get().await.status, StatusCode::OK);
        other.requests.load(Ordering::SeqCst) > before
    })
    .await;
    assert_eq!(cluster.wake_ups(), 1);

    cluster.remove_function(&function);
    until(async || get().await.status == StatusCode::NOT_FOUND).await;
}

#[tokio::test]
async fn without_an_operator_what_is_awake_goes_on_and_the_rest_is_told_so() {
    let (mut cluster, awake) = cluster().await;
    let asleep = id("vision/asleep");
    cluster.put_function(&asleep, &json!({"component": {"image": "x:1"}}));
    let replica = Replica::start(&cluster, &awake).await;
    cluster.put_pod(&awake, "digits-1", replica.address, true);
    let gateway = Gateway::start(&cluster, &["--activate-timeout", "3"]).await;

    let detail = "the image cannot be pulled";
    let problem = json!({
        "type": "about:blank", "title": "", "status": 503, "detail": detail, "reason": "image-pull-failed",
        "fault": "function", "retryable": true, "requestId": "",
    });
    cluster.answer_wake_ups(Err((503, problem)));
    let refused = gateway.get("x", "/vision/asleep/").await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers["retry-after"], "7");
    let told = refused.json();
    assert_eq!(
        (&told["reason"], &told["fault"]),
        (&json!("activation-failed"), &json!("function"))
    );
    assert!(told["detail"].as_str().unwrap().contains(detail), "{told}");
    // The failure is remembered for as long as a retry is pointless; a change of the function ends that.
    gateway.get("x", "/vision/asleep/").await;
    assert_eq!(cluster.wake_ups(), 1);

    cluster.stop_operator();
    cluster.put_function(
        &asleep,
        &json!({"component": {"image": "x:1"}, "limits": {"queue": 7}}),
    );
    until(async || {
        let answer = gateway.get("x", "/vision/asleep/").await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.headers.contains_key("retry-after"));
        answer.json()["reason"] == "operator-unavailable"
    })
    .await;
    assert_eq!(gateway.get("digits.test", "/").await.status, StatusCode::OK);

    cluster.start_operator().await.unwrap();
    let woken = Replica::start(&cluster, &asleep).await;
    cluster.answer_wake_ups(Ok(vec![ensured(&woken)]));
    until(async || gateway.get("x", "/vision/asleep/").await.status == StatusCode::OK).await;
    cluster.report(|report| report.gateway == "gateway-1").await;
}

#[tokio::test]
async fn what_is_asked_while_nobody_is_there_to_wake_is_answered_when_the_operator_comes_soon() {
    let (mut cluster, function) = cluster().await;
    let gateway = Gateway::start(&cluster, &[]).await;
    cluster.stop_operator();
    let address = gateway.http;
    let asked = tokio::spawn(async move { get(address, "digits.test", "/").await });
    until(async || {
        let metrics = gateway.health("/metrics").await.body;
        metrics.contains("wisp_gateway_queued{namespace=\"vision\",function=\"digits\"} 1")
    })
    .await;
    let replica = Replica::start(&cluster, &function).await;
    cluster.start_operator().await.unwrap();
    cluster.answer_wake_ups(Ok(vec![ensured(&replica)]));
    assert_eq!(asked.await.unwrap().status, StatusCode::OK);
}

/// Would fail if the gateway's clock ran out before the operator's, what the operator says then were an error of its, or
/// those who may wait longer were refused with the others.
#[tokio::test]
async fn what_the_operator_says_of_a_start_that_takes_long_is_told_to_who_cannot_wait() {
    let (cluster, patient) = cluster().await;
    let hasty = id("vision/hasty");
    let spec = json!({"component": {"image": "x:1"}, "limits": {"timeout": "1s"}});
    cluster.put_function(&hasty, &spec);
    let detail = "no replica of vision/hasty served within 1 s: the pod hasty-1 is Pending";
    cluster.answer_wake_ups(Err((
        503,
        json!({
            "type": "about:blank", "title": "", "status": 503, "detail": detail, "reason": "start-timeout",
            "fault": "platform", "retryable": true, "requestId": "",
        }),
    )));
    cluster.delay_wake_ups(Duration::from_millis(1050));
    let gateway = Gateway::start(&cluster, &["--activate-timeout", "1"]).await;
    let told = gateway.get("x", "/vision/hasty/").await;
    assert_eq!(told.status, StatusCode::SERVICE_UNAVAILABLE);
    let told = told.json();
    assert!(told["detail"].as_str().unwrap().contains(detail), "{told}");
    let metrics = gateway.health("/metrics").await.body;
    let none = "wisp_gateway_operator_errors_total{request=\"ensure\"} 0";
    assert!(metrics.contains(none), "{metrics}");

    let address = gateway.http;
    let asked = tokio::spawn(async move { get(address, "digits.test", "/").await });
    let before = cluster.wake_ups();
    until(async || cluster.wake_ups() == before + 2).await;
    let replica = Replica::start(&cluster, &patient).await;
    cluster.answer_wake_ups(Ok(vec![ensured(&replica)]));
    assert_eq!(asked.await.unwrap().status, StatusCode::OK);
}

/// Would fail if a function that can't be started were an error of the operator's, or one that doesn't know the gateway's key
/// were none.
#[tokio::test]
async fn what_the_operator_refuses_the_gateway_is_its_error_and_what_of_a_function_is_not() {
    let (cluster, _) = cluster().await;
    let other = id("vision/other");
    cluster.put_function(&other, &json!({"component": {"image": "x:1"}}));
    let gateway = Gateway::start(&cluster, &[]).await;
    for (function, status, fault, errors) in
        [("digits", 503, "function", 0), ("other", 403, "client", 1)]
    {
        let refusal = json!({
            "type": "about:blank", "title": "", "status": status, "detail": "as it is", "reason": "refused",
            "fault": fault, "retryable": false, "requestId": "",
        });
        cluster.answer_wake_ups(Err((status, refusal)));
        let told = gateway.get("x", &format!("/vision/{function}/")).await;
        let told = told.json();
        assert!(
            told["detail"].as_str().unwrap().contains("as it is"),
            "{told}"
        );
        let metrics = gateway.health("/metrics").await.body;
        let counted =
            format!("wisp_gateway_operator_errors_total{{request=\"ensure\"}} {errors}\n");
        assert!(metrics.contains(&counted), "{metrics}");
    }
}

/// Ends the operator, and starts the next where it was.
async fn replace_operator(cluster: &mut FakeCluster) {
    cluster.stop_operator();
    // The last one's port is free in a moment.
    while cluster.start_operator().await.is_err() {
        tokio::task::yield_now().await;
    }
}

/// Would fail if the time in which an operator is looked for began before there was none.
#[tokio::test]
async fn a_wake_up_goes_on_with_the_next_operator_however_long_the_last_one_had_it() {
    let (mut cluster, function) = cluster().await;
    cluster.delay_wake_ups(Duration::from_secs(3600));
    let gateway = Gateway::start(&cluster, &["--activate-timeout", "5"]).await;
    let replica = Replica::start(&cluster, &function).await;
    let address = gateway.http;
    let asked = tokio::spawn(async move { get(address, "digits.test", "/").await });
    until(async || cluster.wake_ups() == 1).await;
    tokio::time::sleep(Duration::from_millis(5200)).await;
    replace_operator(&mut cluster).await;
    cluster.answer_wake_ups(Ok(vec![ensured(&replica)]));
    assert_eq!(asked.await.unwrap().status, StatusCode::OK);
}

/// Would fail if the time in which an operator is looked for were not given anew after one was found that had the wake-up
/// for a while.
#[tokio::test]
async fn a_wake_up_goes_on_with_the_next_operator_though_there_was_none_before_the_last() {
    let (mut cluster, function) = cluster().await;
    let gateway = Gateway::start(&cluster, &["--activate-timeout", "5"]).await;
    let replica = Replica::start(&cluster, &function).await;
    cluster.stop_operator();
    let address = gateway.http;
    let asked = tokio::spawn(async move { get(address, "digits.test", "/").await });
    // It is looked for in vain.
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.start_operator().await.unwrap();
    cluster.delay_wake_ups(Duration::from_secs(3600));
    until(async || cluster.wake_ups() == 1).await;
    tokio::time::sleep(Duration::from_millis(6500)).await;
    replace_operator(&mut cluster).await;
    cluster.answer_wake_ups(Ok(vec![ensured(&replica)]));
    assert_eq!(asked.await.unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn a_drain_says_so_first_and_serves_until_nobody_asks() {
    let (cluster, function) = cluster().await;
    let replica = Replica::start(&cluster, &function).await;
    cluster.put_pod(&function, "digits-1", replica.address, true);
    let mut gateway = Gateway::start(&cluster, &["--drain-delay", "1"]).await;
    let stream = tokio::net::TcpStream::connect(gateway.http).await.unwrap();
    let mut kept = open(stream).await;
    assert_eq!(
        ask(&mut kept, "digits.test", "/").await.status,
        StatusCode::OK
    );
    gateway.child.terminate();
    until(async || {
        let ready = gateway.health("/readyz").await;
        ready.status == StatusCode::SERVICE_UNAVAILABLE && ready.body.contains("drains")
    })
    .await;
    // Both who is connected and who comes are served while others learn of it; who keeps a connection is told to leave.
    let answer = ask(&mut kept, "digits.test", "/").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers["connection"], "close");
    assert_eq!(gateway.get("digits.test", "/").await.status, StatusCode::OK);
    let ended = tokio::task::spawn_blocking(move || gateway.child.wait(Duration::from_secs(20)));
    assert!(ended.await.unwrap().unwrap(), "it ends well");
}
