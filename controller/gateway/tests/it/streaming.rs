use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::support::{
    Bed, Client, Reports, Upstream, channel, empty, endpoint, full, http2, id, raw, route, until,
    written,
};

/// Sends every piece of the request's body back as it comes.
async fn mirror() -> Upstream {
    Upstream::new(|request| async move {
        let (sender, body) = channel();
        let mut incoming = request.into_body();
        tokio::spawn(async move {
            while let Some(Ok(frame)) = incoming.frame().await {
                if let Ok(data) = frame.into_data()
                    && sender.send(Ok(data)).await.is_err()
                {
                    return;
                }
            }
        });
        Response::new(body)
    })
    .await
}

#[tokio::test]
async fn bodies_stream_both_ways_at_once() {
    let upstream = mirror().await;
    let bed = Bed::serving(&upstream);
    let (sender, body) = channel();
    sender.send(Ok("one".into())).await.unwrap();
    let mut answer = bed.open(Request::post("/a/b/").body(body).unwrap()).await;
    assert_eq!(answer.next().await.unwrap().unwrap(), "one");
    // The second piece is only sent when the first is back: nothing waits for the whole.
    sender.send(Ok("two".into())).await.unwrap();
    assert_eq!(answer.next().await.unwrap().unwrap(), "two");
    drop(sender);
    assert!(answer.next().await.is_none());
}

/// Would fail if the body of a GET, which says what is looked for, were left out where its length isn't declared.
#[tokio::test]
async fn a_get_may_have_a_body_of_any_length() {
    let upstream = Upstream::echo().await;
    let bed = Bed::serving(&upstream);
    let asked = b"GET /a/b/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let answer = raw(bed.address, asked).await;
    assert!(answer.contains(r#""body":"hello""#), "{answer}");

    let (sender, body) = channel();
    sender.send(Ok("hello".into())).await.unwrap();
    drop(sender);
    let asked = Request::get("http://x/a/b/").body(body).unwrap();
    let answer = http2(bed.address).await.send_request(asked).await.unwrap();
    let answer = answer.into_body().collect().await.unwrap().to_bytes();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains(r#""body":"hello""#), "{answer}");
}

/// Would fail if a part of a short body were lost where the rest comes later, or a client that waits to be asked for it weren't.
#[tokio::test]
async fn short_bodies_arrive_whole_in_however_many_pieces() {
    let upstream = Upstream::echo().await;
    let bed = Bed::serving(&upstream);
    let head = |more: &str| {
        format!(
            "POST /a/b/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}Content-Length: 8\r\n\r\n"
        )
    };
    let at_once = format!("{}all of i", head(""));
    let answer = raw(bed.address, at_once.as_bytes()).await;
    assert!(answer.contains(r#""body":"all of i""#), "{answer}");

    let stream = TcpStream::connect(bed.address).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let first = format!("{}half", head(""));
    writer.write_all(first.as_bytes()).await.unwrap();
    // It has reached the replica, which waits for the rest.
    until(|| upstream.requests.load(Ordering::SeqCst) == 2).await;
    writer.write_all(b"half").await.unwrap();
    let mut answer = String::new();
    reader.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(r#""body":"halfhalf""#), "{answer}");

    let stream = TcpStream::connect(bed.address).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let asks = head("Expect: 100-continue\r\n");
    writer.write_all(asks.as_bytes()).await.unwrap();
    let mut asked = [0; 25];
    reader.read_exact(&mut asked).await.unwrap();
    assert_eq!(asked.as_slice(), b"HTTP/1.1 100 Continue\r\n\r\n");
    writer.write_all(b"expected").await.unwrap();
    let mut answer = String::new();
    reader.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(r#""body":"expected""#), "{answer}");

    for whole in [true, false] {
        let (sender, body) = channel();
        let body = if whole { full("by frame") } else { body };
        let asked = Request::post("http://x/a/b/")
            .header("content-length", "8")
            .body(body)
            .unwrap();
        let mut client = http2(bed.address).await;
        let answer = tokio::spawn(client.send_request(asked));
        if !whole {
            sender.send(Ok("by ".into())).await.unwrap();
            sender.send(Ok("frame".into())).await.unwrap();
        }
        drop(sender);
        let answer = answer.await.unwrap().unwrap().into_body();
        let answer = answer.collect().await.unwrap().to_bytes();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains(r#""body":"by frame""#), "{answer}");
    }
}

#[tokio::test]
async fn large_bodies_come_back_whole() {
    let upstream = mirror().await;
    let bed = Bed::serving(&upstream);
    let body: String = (0..700_000)
        .map(|index: u32| char::from(b'a' + u8::try_from(index % 26).unwrap()))
        .collect();
    let answer = bed
        .send(
            Request::post("/a/b/")
                .body(crate::support::full(body.clone()))
                .unwrap(),
        )
        .await;
    assert!(
        answer.body == body,
        "{} bytes of {}",
        answer.body.len(),
        body.len()
    );
}

#[tokio::test]
async fn events_arrive_when_they_are_sent() {
    let (upstream, mut announced) = written().await;
    let bed = Bed::serving(&upstream);
    let mut answer = bed.open(Request::get("/a/b/").body(empty()).unwrap()).await;
    assert_eq!(
        answer.response.headers()["content-type"],
        "text/event-stream"
    );
    let events = announced.recv().await.unwrap();
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        events.send(Ok(event.into())).await.unwrap();
        assert_eq!(answer.next().await.unwrap().unwrap(), event);
    }
    drop(events);
    assert!(answer.next().await.is_none());
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_cancels_the_replica() {
    let (upstream, mut announced) = written().await;
    let reports = Arc::new(Reports::default());
    let options = wisp_gateway::Options {
        reporter: Some(reports.clone()),
        ..Default::default()
    };
    let bed = Bed::with(Arc::new(crate::support::Never), options);
    bed.gateway.insert_route(route("a/b", &[]));
    bed.gateway
        .insert_endpoint(&id("a/b"), &endpoint(upstream.address, 1));
    let mut answer = bed.open(Request::get("/a/b/").body(empty()).unwrap()).await;
    let events = announced.recv().await.unwrap();
    events.send(Ok("data: 1\n\n".into())).await.unwrap();
    answer.next().await.unwrap().unwrap();
    drop(answer);
    // Resolves when the upstream's response was dropped.
    events.closed().await;
    assert_eq!(reports.wait(1).await[0].reason, Some("client-left"));
    // And the only place is free again.
    let again = bed.open(Request::get("/a/b/").body(empty()).unwrap()).await;
    assert_eq!(again.response.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_cancels_the_replica() {
    struct Told(Arc<Notify>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let (began, cancelled) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begins, cancels) = (Arc::clone(&began), Arc::clone(&cancelled));
    let upstream = Upstream::new(move |_| {
        let told = Told(Arc::clone(&cancels));
        let begins = Arc::clone(&begins);
        async move {
            begins.notify_one();
            std::future::pending::<()>().await;
            drop(told);
            Response::new(empty())
        }
    })
    .await;
    let bed = Bed::serving(&upstream);
    let mut client = Client::connect(bed.address).await;
    let request = client.sender.send_request(
        Request::get("/a/b/")
            .header("host", "x")
            .body(empty())
            .unwrap(),
    );
    let waiting = tokio::spawn(request);
    began.notified().await;
    waiting.abort();
    drop(client);
    cancelled.notified().await;
}

#[tokio::test]
async fn a_response_that_breaks_off_is_not_made_to_look_whole() {
    let (upstream, mut announced) = written().await;
    let bed = Bed::serving(&upstream);
    let mut answer = bed.open(Request::get("/a/b/").body(empty()).unwrap()).await;
    let body = announced.recv().await.unwrap();
    body.send(Ok("half".into())).await.unwrap();
    assert_eq!(answer.next().await.unwrap().unwrap(), "half");
    body.send(Err(std::io::Error::other("died"))).await.unwrap();
    assert!(answer.next().await.unwrap().is_err());
}

#[tokio::test]
async fn a_response_may_not_outlive_its_time() {
    let (upstream, mut announced) = written().await;
    let options = wisp_gateway::Options {
        grace: std::time::Duration::ZERO,
        ..Default::default()
    };
    let bed = Bed::with(Arc::new(crate::support::Never), options);
    let mut quick = route("a/b", &[]);
    quick.limits.timeout = std::time::Duration::from_millis(300);
    bed.gateway.insert_route(quick);
    bed.gateway
        .insert_endpoint(&id("a/b"), &endpoint(upstream.address, 1));
    let mut answer = bed.open(Request::get("/a/b/").body(empty()).unwrap()).await;
    let body = announced.recv().await.unwrap();
    assert!(answer.next().await.unwrap().is_err(), "it is cut");
    body.closed().await;
}

#[tokio::test]
async fn trailers_pass() {
    let upstream = Upstream::new(|_| async {
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-sum", http::HeaderValue::from_static("42"));
        let frames = futures::stream::iter([
            Ok(hyper::body::Frame::data(Bytes::from("data"))),
            Ok::<_, std::io::Error>(hyper::body::Frame::trailers(trailers)),
        ]);
        Response::builder()
            .header("trailer", "x-sum")
            .body(http_body_util::StreamBody::new(frames).boxed())
            .unwrap()
    })
    .await;
    let bed = Bed::serving(&upstream);
    let answer = bed
        .open(
            Request::get("/a/b/")
                .header("te", "trailers")
                .body(empty())
                .unwrap(),
        )
        .await;
    let whole = answer.response.collect().await.unwrap();
    assert_eq!(whole.trailers().unwrap()["x-sum"], "42");
}

#[tokio::test]
async fn every_request_is_reported_once_it_is_over() {
    let upstream = Upstream::saying("hello").await;
    let reports = Arc::new(Reports::default());
    let bed = Bed::with(
        Arc::new(crate::support::Never),
        wisp_gateway::Options {
            reporter: Some(reports.clone()),
            ..Default::default()
        },
    );
    bed.gateway.insert_route(route("a/b", &[]));
    bed.gateway
        .insert_endpoint(&id("a/b"), &endpoint(upstream.address, 4));
    bed.get("/a/b/x?y=1").await;
    bed.get("/nowhere/at/all").await;
    let all = Mutex::new(reports.wait(2).await).into_inner().unwrap();
    assert_eq!(
        (
            all[0].status,
            all[0].path.as_str(),
            all[0].reason,
            all[0].function.clone()
        ),
        (200, "/a/b/x?y=1", None, Some(id("a/b")))
    );
    assert_eq!(
        (all[1].status, all[1].reason, all[1].function.clone()),
        (404, Some("no-such-function"), None)
    );
    let (_, metrics) = bed.gateway.metrics();
    for line in [
        "wisp_gateway_requests_total{namespace=\"a\",function=\"b\"} 1",
        "wisp_gateway_responses_total{namespace=\"a\",function=\"b\",code=\"2xx\"} 1",
        "wisp_gateway_unrouted_requests_total 1",
        "wisp_gateway_request_duration_seconds_count{namespace=\"a\",function=\"b\"} 1",
        "wisp_gateway_in_flight{namespace=\"a\",function=\"b\"} 0",
        "wisp_gateway_endpoints{namespace=\"a\",function=\"b\"} 1",
    ] {
        assert!(
            metrics.lines().any(|other| other == line),
            "{line}\n{metrics}"
        );
    }
    let stats = bed.gateway.stats(std::time::Instant::now());
    assert_eq!(
        (stats[0].requests, stats[0].answers, stats[0].in_flight),
        (1, [0, 1, 0, 0, 0], 0)
    );
}
