//! Clients that lie, give up, or come all at once.
#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails is a test that fails"
)]

use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::join_all;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use wisp_contract::log::{Line, event};
use wisp_contract::problem::{self, Fault};
use wisp_contract::{FunctionConfig, Problem};
use wisp_integration::{Answer, Body, Host, component, refused};

async fn p2(change: impl FnOnce(&mut FunctionConfig)) -> Host {
    Host::ready(&component("fixture-p2"), change).await.unwrap()
}

/// What a client does after it has sent something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It waits for an answer.
    Waits,
    /// It says that it will send nothing more, and waits.
    HalfCloses,
}

/// The answer to a request that is sent as these bytes.
async fn raw(host: &Host, bytes: &[u8], then: Then) -> String {
    let mut stream = TcpStream::connect(host.data()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    if then == Then::HalfCloses {
        stream.shutdown().await.unwrap();
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Checks that `text` is a whole problem response of this kind, and that the host serves on.
async fn told(host: &Host, text: &str, status: u16, reason: &str) -> Problem {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    assert!(
        head.starts_with(&format!("HTTP/1.1 {status} "))
            && head.contains(problem::MEDIA_TYPE)
            && head.contains("x-request-id: "),
        "{text}"
    );
    let problem: Problem = serde_json::from_str(body).unwrap();
    assert_eq!(
        (&*problem.reason, problem.fault),
        (reason, Fault::Client),
        "{text}"
    );
    assert_eq!(host.client().get("/hello").await.unwrap().text(), "hello\n");
    problem
}

fn post(path: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n\r\n{body}")
        .into_bytes()
}

#[tokio::test]
async fn a_body_that_is_shorter_than_its_declared_length_is_the_clients_fault() {
    let host = p2(|config| config.limits.timeout = Duration::from_millis(500)).await;
    for path in ["/length", "/echo"] {
        let short = post(path, "content-length: 100", "ten bytes.");
        // It may still send the rest, until its time is up.
        let text = raw(&host, &short, Then::Waits).await;
        if path == "/length" {
            told(&host, &text, 408, "body-too-slow").await;
        }
        // Or says that it won't.
        let text = raw(&host, &short, Then::HalfCloses).await;
        if path == "/length" {
            told(&host, &text, 400, "body-broken").await;
        } else {
            assert!(!text.contains("\r\n0\r\n"), "a whole answer: {text}");
        }
    }
    host.until_idle().await.unwrap();
}

#[tokio::test]
async fn a_body_whose_framing_breaks_is_the_clients_fault() {
    let host = p2(|_| {}).await;
    for (body, then) in [
        ("zz\r\n", Then::Waits),
        ("5\r\nhello\r\nzz\r\n", Then::Waits),
        ("5\r\nhello\r\n", Then::HalfCloses),
        ("ffffffffffffffffff\r\n", Then::Waits),
    ] {
        let text = raw(
            &host,
            &post("/length", "transfer-encoding: chunked", body),
            then,
        )
        .await;
        let problem = told(&host, &text, 400, "body-broken").await;
        assert!(problem.retryable, "{problem:?}");
    }
    host.until_idle().await.unwrap();
}

/// Would fail if the log blamed the function for a client whose body breaks when the answer has begun.
#[tokio::test]
async fn a_body_that_breaks_once_the_answer_has_begun_is_the_clients_fault_too() {
    let host = p2(|_| {}).await;
    let mut stream = TcpStream::connect(host.data()).await.unwrap();
    let headers = "transfer-encoding: chunked\r\nx-request-id: broken";
    let begun = post("/echo", headers, "5\r\nhello\r\n");
    stream.write_all(&begun).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello\r\n") {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
    }
    stream.write_all(b"zz\r\n").await.unwrap();
    let line = ended(&host, "broken").await;
    assert_eq!(line.fields["reason"], "body-broken", "{line:?}");
}

/// Would fail if what follows a body were taken for a part of it, or for a request of somebody else.
#[tokio::test]
async fn what_follows_a_body_is_no_part_of_it() {
    let host = p2(|_| {}).await;
    let more = "POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello, and something that is no request\r\n\r\n";
    let text = raw(&host, more.as_bytes(), Then::Waits).await;
    assert!(
        text.starts_with("HTTP/1.1 200 ") && text.contains("\r\n\r\n5"),
        "{text}"
    );
    assert!(
        text.contains("HTTP/1.1 400 ") && text.matches("HTTP/1.1 ").count() == 2,
        "{text}"
    );
    assert_eq!(host.client().get("/hello").await.unwrap().text(), "hello\n");
}

/// Would fail if the next request on such a connection were left to wait for a body that nobody reads, and then were lost; or if who
/// answers while it reads lost its connection.
#[tokio::test]
async fn who_is_answered_before_its_body_was_read_learns_that_the_connection_ends() {
    let host = p2(|config| config.limits.request_body = 300_000).await;
    for (path, length, ends) in [
        ("/after?100", 200_000, true),
        // Its body is kept, but what it answered is whole.
        ("/glance-answer?300", 200_000, true),
        ("/ignore-body", 200_000, true),
        ("/trap", 200_000, true),
        ("/ignore-body", 4000, false),
        ("/trap", 10, false),
        ("/length", 400_000, true),
        ("/length", 200_000, false),
        ("/echo", 200_000, false),
        ("/length", 1, false),
        ("/hello", 0, false),
        ("/trap", 0, false),
    ] {
        let answer = host.client().post(path, vec![b'x'; length]).await.unwrap();
        let connection = answer.headers.get("connection");
        let ended = connection.is_some_and(|connection| connection == "close");
        assert_eq!(ended, ends, "{path} {length}: {answer:?}");
    }
    let answer = host.client().http2().post("/ignore-body", "x").await;
    assert!(!answer.unwrap().headers.contains_key("connection"));
    for package in ["fixture-p3", "fixture-sdk"] {
        let host = Host::ready(&component(package), |_| {}).await.unwrap();
        let answer = host.client().post("/echo", vec![b'x'; 200_000]).await;
        let answer = answer.unwrap();
        assert_eq!(answer.body.len(), 200_000, "{package}");
        assert!(!answer.headers.contains_key("connection"), "{package}");
    }
}

#[tokio::test]
async fn a_length_beyond_the_limit_is_refused_before_a_byte_is_sent() {
    let host = p2(|config| config.limits.request_body = 1000).await;
    for length in ["1001", "9223372036854775807"] {
        let text = raw(
            &host,
            &post("/length", &format!("content-length: {length}"), ""),
            Then::Waits,
        )
        .await;
        let problem = told(&host, &text, 413, "body-too-large").await;
        assert!(problem.detail.contains("1000 bytes"), "{}", problem.detail);
    }
}

/// Sends on and on. Would never end if the host read on after it has refused.
#[tokio::test]
async fn a_body_without_an_end_is_refused_at_the_limit() {
    let host = p2(|config| config.limits.request_body = 100_000).await;
    for path in ["/length", "/ignore-body"] {
        let mut stream = TcpStream::connect(host.data()).await.unwrap();
        let head = post(path, "transfer-encoding: chunked", "");
        stream.write_all(&head).await.unwrap();
        let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
        let (mut read, mut write) = stream.split();
        let send = async { while write.write_all(chunk.as_bytes()).await.is_ok() {} };
        let receive = async {
            let mut first = vec![0; 12];
            read.read_exact(&mut first).await.unwrap();
            String::from_utf8(first).unwrap()
        };
        let (status, ()) = futures::join!(receive, send);
        let wanted = if path == "/length" { "413" } else { "200" };
        assert_eq!(status, format!("HTTP/1.1 {wanted}"));
        assert_eq!(host.client().get("/hello").await.unwrap().text(), "hello\n");
    }
    host.until_idle().await.unwrap();
    assert!(host.peak_memory().unwrap() < 300 << 20);
}

/// Would fail if a client that gave up while nobody read what it sent kept its place, or one in the queue, until the deadline.
#[tokio::test]
async fn a_client_that_leaves_unread_gives_its_place_back() {
    let host = p2(|config| {
        config.limits.timeout = Duration::from_secs(3600);
        config.limits.concurrency = NonZeroUsize::MIN;
    })
    .await;
    // More than is read with the head, and less than a socket holds: what is left to send keeps the end from being seen.
    let large = "x".repeat(30_000);
    let whole = post("/sleep?3600000", "content-length: 30000", &large);
    let awaited = "expect: 100-continue\r\ncontent-length: 30000";
    let expects = post("/sleep?3600000", awaited, "");
    for (first, second) in [(&whole, &expects), (&expects, &whole)] {
        let mut running = TcpStream::connect(host.data()).await.unwrap();
        running.write_all(first).await.unwrap();
        host.until(|status| status.in_flight == 1).await.unwrap();
        let mut waiting = TcpStream::connect(host.data()).await.unwrap();
        waiting.write_all(second).await.unwrap();
        host.until(|status| status.queued == 1).await.unwrap();
        drop(waiting);
        host.until(|status| status.queued == 0 && status.in_flight == 1)
            .await
            .unwrap();
        drop(running);
        host.until_idle().await.unwrap();
    }
    let line = host
        .line("request", |line| line.event.as_deref() == Some("request"))
        .await
        .unwrap();
    assert_eq!(line.fields["reason"], "client-gone");
    assert_eq!(host.client().get("/hello").await.unwrap().text(), "hello\n");
}

/// There is no telling it from a client that is gone, and that one must not keep a place.
#[tokio::test]
async fn a_client_that_closes_its_half_while_it_waits_gives_its_place_back() {
    let host = p2(|_| {}).await;
    let asleep = b"GET /sleep?3600000 HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut stream = TcpStream::connect(host.data()).await.unwrap();
    stream.write_all(asleep).await.unwrap();
    host.until(|status| status.in_flight == 1).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.is_empty(), "{answer:?}");
    host.until_idle().await.unwrap();
    let line = host
        .line("request", |line| line.event.as_deref() == Some("request"))
        .await
        .unwrap();
    assert_eq!(line.fields["reason"], "client-gone");
}

/// Would fail if a body of another length than its client declares, or one that breaks off, passed for whole at a guest, if the log
/// told no reason, or if what is left of it were in the way of the next request.
#[tokio::test]
async fn http2_bodies_of_another_length_than_declared_pass_for_whole_nowhere() {
    for (package, paths) in [
        ("fixture-p2", &["/length", "/echo"][..]),
        ("fixture-p3", &["/echo"]),
    ] {
        let component = component(package);
        let host = Host::ready(&component, |_| {}).await.unwrap();
        let stream = TcpStream::connect(host.data()).await.unwrap();
        let connected = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut client, connection) = connected.await.unwrap();
        tokio::spawn(connection);
        for path in paths {
            for (nth, (declared, sent, breaks)) in [
                (100, 10, false),
                // Declared lengths aren't where a frame ends: so much, and no more yet, is a whole body.
                (7, 10, false),
                (10, 6, true),
                (300_000, 200_000, false),
                (150_000, 200_000, false),
                (300_000, 200_000, true),
            ]
            .into_iter()
            .enumerate()
            {
                let (give_up, given_up) = oneshot::channel();
                let asked = upload(path, declared, sent, breaks.then_some(given_up));
                let mut asked = asked.unwrap();
                let id = format!("{package}{path}-{nth}");
                let named = id.parse().unwrap();
                asked.headers_mut().insert("x-request-id", named);
                let answer = whole(client.send_request(asked));
                let breaking = async {
                    // A request that is given up before the host knows of it is none.
                    if breaks {
                        host.until(|status| status.in_flight == 1).await.unwrap();
                    }
                    drop(give_up);
                };
                let (answer, ()) = futures::join!(answer, breaking);
                if let Some(answer) = answer {
                    let reason = answer.problem().reason;
                    assert_eq!((answer.status.as_u16(), &*reason), (400, "body-broken"));
                }
                let line = ended(&host, &id).await;
                assert!(line.fields.contains_key("reason"), "{line:?}");
                // On the same connection.
                let next = upload("/echo", 20, 20, None).unwrap();
                let answer = whole(client.send_request(next)).await;
                assert_eq!(answer.unwrap().body.len(), 20, "{id}");
                host.until_idle().await.unwrap();
            }
        }
    }
}

/// A request that declares a body of one length and sends one of another, in two pieces; and then breaks off, once it is to.
fn upload(
    path: &str,
    declared: usize,
    sent: usize,
    breaks: Option<oneshot::Receiver<()>>,
) -> http::Result<Request<Body>> {
    let pieces = vec![Bytes::from(vec![b'x'; sent / 2]); 2];
    let pieces = futures::stream::iter(pieces).map(|piece| Ok(Frame::data(piece)));
    let end = futures::stream::iter(breaks).then(|breaks| async move {
        let _ = breaks.await;
        Err::<Frame<Bytes>, _>(std::io::Error::other("gave up"))
    });
    let body = BodyExt::boxed(StreamBody::new(pieces.chain(end)));
    Request::post(format!("http://x{path}"))
        .header("content-length", declared)
        .body(body)
}

/// The answer, if all of it comes.
async fn whole(sent: impl Future<Output = hyper::Result<Response<Incoming>>>) -> Option<Answer> {
    let (parts, body) = sent.await.ok()?.into_parts();
    Some(Answer {
        status: parts.status,
        headers: parts.headers,
        body: body.collect().await.ok()?.to_bytes(),
    })
}

/// hyper takes what was sent by then for the whole body. Would fail if a guest did, whether or not its client had declared more.
#[tokio::test]
async fn an_http2_body_that_is_given_up_without_an_error_has_not_ended() {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const END_HEADERS: u8 = 4;
    let frame = |kind: u8, flags: u8, stream: u8, text: &[u8]| {
        let length = u8::try_from(text.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream][..], text].concat()
    };
    // POST, http, `:path` and `:authority` (RFC 7541, appendix A, and section 6.2.2 without Huffman's code).
    let head = &b"\x83\x86\x04\x07/length\x01\x01a"[..];
    // Of 100 bytes.
    let hundred = &b"\x0f\x0d\x03100"[..];
    let host = p2(|_| {}).await;
    for (id, declared) in [("open", &b""[..]), ("declared", hundred)] {
        let length = u8::try_from(id.len()).unwrap();
        let named = [&b"\x00\x0cx-request-id"[..], &[length], id.as_bytes()].concat();
        let mut stream = TcpStream::connect(host.data()).await.unwrap();
        let begun = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(SETTINGS, 0, 0, b""),
            frame(HEADERS, END_HEADERS, 1, &[head, declared, &named].concat()),
            frame(DATA, 0, 1, b"half"),
        ];
        stream.write_all(&begun.concat()).await.unwrap();
        host.until(|status| status.in_flight == 1).await.unwrap();
        let given_up = frame(RST_STREAM, 0, 1, &[0; 4]);
        stream.write_all(&given_up).await.unwrap();
        let line = ended(&host, id).await;
        let end = (
            line.fields["status"].as_u64(),
            line.fields["reason"].as_str(),
        );
        let is_broken = end == (Some(400), Some("body-broken"));
        assert!(
            is_broken || end == (Some(499), Some("client-gone")),
            "{line:?}"
        );
        assert_eq!(host.client().get("/hello").await.unwrap().text(), "hello\n");
    }
}

/// What is logged of the request `id` when it is over.
async fn ended(host: &Host, id: &str) -> Line<'static> {
    let is_it = |line: &Line<'_>| {
        line.event.as_deref() == Some(event::REQUEST) && line.request_id.as_deref() == Some(id)
    };
    host.line(id, is_it).await.unwrap()
}

const PLACES: usize = 8;
const QUEUE: usize = 24;

/// Every one of them is answered, by the function or with when to come again, and none is lost.
#[tokio::test]
async fn ten_times_more_clients_than_there_are_places_are_all_answered() {
    // They are sent before there is an answer.
    let (host, answers) = overwhelmed(8 << 10).await;
    assert_eq!(answers.len(), 10 * (PLACES + QUEUE));
    let late = host.client().get("/trap").await.unwrap();
    refused(&host, &late, 502, "trapped", Fault::Function).await;
}

/// Who still sends when the answer is there and the connection ends may lose it to TCP (RFC 9112, section 9.6).
#[tokio::test]
async fn bodies_of_who_waits_or_is_sent_away_are_kept_nowhere() {
    let (host, _answers) = overwhelmed(1 << 20).await;
    // The bodies alone are 320 MiB.
    let most = host.peak_memory().unwrap();
    assert!(most < 300 << 20, "{most} bytes");
}

/// The answers that so many clients got who sent bodies of so many bytes.
async fn overwhelmed(bytes: usize) -> (Host, Vec<Answer>) {
    let (places, queue) = (PLACES, QUEUE);
    let host = p2(|config| {
        config.limits.concurrency = NonZeroUsize::new(places).unwrap();
        config.limits.queue = queue;
        config.limits.timeout = Duration::from_secs(60);
    })
    .await;
    let client = host.client();
    let body = Bytes::from(vec![b'x'; bytes]);

    // As long as these run, nobody else does.
    let running: Vec<_> = (0..places)
        .map(|_| tokio::spawn(async move { client.get("/loop").await }))
        .collect();
    host.until(|status| status.in_flight as usize == places)
        .await
        .unwrap();
    let clients: Vec<_> = (0..10 * (places + queue))
        .map(|_| {
            let body = body.clone();
            tokio::spawn(async move { client.post("/length", body).await.ok() })
        })
        .collect();
    host.until(|status| status.queued as usize == queue)
        .await
        .unwrap();
    // All but those who wait are sent away meanwhile.
    host.line("the last refusal", {
        let refusals = std::cell::Cell::new(0);
        move |line| {
            let is_one = line
                .fields
                .get("reason")
                .is_some_and(|it| it == "queue-full");
            refusals.set(refusals.get() + usize::from(is_one));
            refusals.get() == 10 * (places + queue) - queue
        }
    })
    .await
    .unwrap();
    for client in running {
        client.abort();
    }
    let answers = join_all(clients).await.into_iter().map(Result::unwrap);
    let answers: Vec<Answer> = answers.flatten().collect();
    let (served, sent_away): (Vec<_>, Vec<_>) = answers
        .iter()
        .partition(|answer| answer.status == StatusCode::OK);
    assert_eq!(served.len(), queue);
    for answer in served {
        assert_eq!(answer.text(), bytes.to_string());
    }
    for answer in sent_away {
        let problem = answer.problem();
        assert_eq!(
            (answer.status.as_u16(), &*problem.reason, problem.retryable),
            (503, "queue-full", true)
        );
        let header = |name| {
            answer
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        assert_eq!(header("retry-after"), Some("1"));
        assert_eq!(header("x-request-id"), Some(&*problem.request_id));
    }
    host.until_idle().await.unwrap();
    (host, answers)
}
