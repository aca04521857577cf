use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use wisp_gateway::Options;

use crate::support::{Bed, Never, Upstream, empty, endpoint, full, http2, id, raw, read, route};

#[tokio::test]
async fn requests_that_two_readers_could_read_in_two_ways_go_nowhere() {
    let upstream = Upstream::echo().await;
    let bed = Bed::serving(&upstream);
    for text in [
        "POST /a/b/ HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
        "POST /a/b/ HTTP/1.1\r\nHost: x\r\nContent-Length: +4\r\n\r\nabcd",
        "POST /a/b/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST /a/b/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST /a/b/ HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /a/b/ HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        "GET /a/b/ HTTP/1.1\r\n\r\n",
        "GET /a/b/ HTTP/1.1\r\nHost: x/../y\r\n\r\n",
        "GET http://user:pass@x/a/b/ HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /a/b/ HTTP/1.1\r\nHost : x\r\n\r\n",
        "GET /a/b/ HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n",
        "GET /a/b/\0 HTTP/1.1\r\nHost: x\r\n\r\n",
        "CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n",
        "\u{16}\u{3}\u{1}\0\u{5}hello",
    ] {
        // Whoever keeps the connection open is told to close it after the answer.
        let text = text.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1);
        let answer = raw(bed.address, text.as_bytes()).await;
        let status = answer.split(' ').nth(1).unwrap_or("closed");
        assert!(
            matches!(status, "400" | "501" | "closed"),
            "{text:?}: {answer}"
        );
    }
    assert_eq!(upstream.requests.load(Ordering::SeqCst), 0);
    assert_eq!(bed.get("/a/b/").await.status, 200);
}

/// RFC 9112, section 6.1: the chunks count, the length doesn't go on, and the connection ends.
#[tokio::test]
async fn of_two_framings_the_chunks_count_and_nothing_follows() {
    let upstream = Upstream::echo().await;
    let bed = Bed::serving(&upstream);
    for head in [
        "Content-Length: 6\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 6",
    ] {
        let text = format!(
            "POST /a/b/ HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n0\r\n\r\nGET /a/b/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
        );
        let answer = raw(bed.address, text.as_bytes()).await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.matches("HTTP/1.1 ").count() == 1,
            "{answer}"
        );
        assert!(
            !answer.contains("smuggled") && !answer.contains("\"content-length\",\"6\""),
            "{answer}"
        );
    }
    assert_eq!(upstream.requests.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let upstream = Upstream::saying("x").await;
    let bed = Bed::serving(&upstream);
    let long = format!(
        "GET /a/b/ HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n",
        "x".repeat(100_000)
    );
    let answer = raw(bed.address, long.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let many = format!(
        "GET /a/b/ HTTP/1.1\r\nHost: x\r\n{}\r\n",
        "X: y\r\n".repeat(200)
    );
    let answer = raw(bed.address, many.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert_eq!(upstream.requests.load(Ordering::SeqCst), 0);
    assert_eq!(bed.get("/a/b/").await.status, 200);
}

#[tokio::test]
async fn chunks_that_are_none_break_the_request_and_nothing_else() {
    let upstream = Upstream::echo().await;
    let bed = Bed::serving(&upstream);
    let answer = raw(bed.address, b"POST /a/b/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n").await;
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(bed.get("/a/b/").await.status, 200);
}

#[tokio::test]
async fn connections_that_say_nothing_keep_nobody_from_being_served() {
    let upstream = Upstream::saying("x").await;
    let bed = Bed::serving(&upstream);
    let mut silent = Vec::new();
    for start in [
        &b""[..],
        b"P",
        b"PR",
        b"PRI * HTTP/2.0\r\n",
        b"GET /a/b/ HT",
    ] {
        let mut stream = TcpStream::connect(bed.address).await.unwrap();
        stream.write_all(start).await.unwrap();
        silent.push(stream);
    }
    for _ in 0..10 {
        assert_eq!(bed.get("/a/b/").await.status, 200);
    }
}

/// Would fail if who says nothing at all, or not enough to tell HTTP/1.1 from HTTP/2, were kept longer than others.
#[tokio::test]
async fn who_says_nothing_is_kept_no_longer_than_who_asks_nothing() {
    let options = Options {
        idle_timeout: Duration::from_millis(30),
        ..Options::default()
    };
    let bed = Bed::with(Arc::new(Never), options);
    for start in [
        &b""[..],
        b"P",
        b"GET /a/b/ HT",
        b"PRI",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(bed.address).await.unwrap();
        stream.write_all(start).await.unwrap();
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        let ended = tokio::time::timeout(Duration::from_secs(20), ended).await;
        assert!(ended.is_ok(), "{start:?}");
    }
}

/// Would fail if a body of another length than its client declares, or one that breaks off, passed for whole at a replica, or what is
/// left of it for a part of the next request.
#[tokio::test]
async fn http2_bodies_of_another_length_than_declared_pass_for_whole_nowhere() {
    let whole = Arc::<Mutex<Vec<usize>>>::default();
    let came = Arc::clone(&whole);
    let upstream = Upstream::new(move |request: Request<hyper::body::Incoming>| {
        let came = Arc::clone(&came);
        async move {
            let Ok(body) = request.into_body().collect().await else {
                return Response::builder().status(400).body(empty()).unwrap();
            };
            let length = body.to_bytes().len();
            came.lock().unwrap().push(length);
            Response::new(full(length.to_string()))
        }
    })
    .await;
    let bed = Bed::serving(&upstream);
    let mut client = http2(bed.address).await;
    let mut ask = |declared: usize, sent: usize, breaks: bool| {
        let pieces = vec![Bytes::from(vec![b'x'; sent / 2]); 2];
        let pieces = futures::stream::iter(pieces).map(|piece| Ok(Frame::data(piece)));
        let end = breaks.then(|| Err(std::io::Error::other("gave up")));
        let body = StreamBody::new(pieces.chain(futures::stream::iter(end)));
        let request = Request::post("http://x/a/b/").header("content-length", declared);
        client.send_request(request.body(BodyExt::boxed(body)).unwrap())
    };
    for (declared, sent, breaks) in [
        (100, 10, false),
        // Declared lengths aren't where a frame ends: so much, and no more yet, is a whole body to whoever reads it.
        (7, 10, false),
        (10, 6, true),
        (300_000, 200_000, false),
        (150_000, 200_000, false),
        (300_000, 200_000, true),
    ] {
        if let Ok(answer) = ask(declared, sent, breaks).await {
            assert_eq!(answer.status(), 400, "{declared} {sent}");
        }
        // On the same connection, and on one that the replica has.
        let answer = read(ask(20, 20, false).await.unwrap()).await;
        assert_eq!(answer.body, "20", "{declared} {sent}");
    }
    assert_eq!(*whole.lock().unwrap(), [20; 6]);
}

/// hyper takes what was sent by then for the whole body. Would fail if a replica did.
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
    let (came, mut coming) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Upstream::new(move |request: Request<hyper::body::Incoming>| {
        let came = came.clone();
        async move {
            let mut body = request.into_body();
            let is_begun = body.frame().await.is_some_and(|frame| frame.is_ok());
            came.send(is_begun).unwrap();
            came.send(body.collect().await.is_ok()).unwrap();
            Response::new(empty())
        }
    })
    .await;
    let bed = Bed::serving(&upstream);
    let mut stream = TcpStream::connect(bed.address).await.unwrap();
    // POST, http, `:path` and `:authority` (RFC 7541, appendix A, and section 6.2.2 without Huffman's code).
    let head = b"\x83\x86\x04\x05/a/b/\x01\x01x";
    let begun = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(SETTINGS, 0, 0, b""),
        frame(HEADERS, END_HEADERS, 1, head),
        frame(DATA, 0, 1, b"half"),
    ];
    stream.write_all(&begun.concat()).await.unwrap();
    assert_eq!(coming.recv().await, Some(true));
    let given_up = frame(RST_STREAM, 0, 1, &[0; 4]);
    stream.write_all(&given_up).await.unwrap();
    let is_whole = tokio::time::timeout(Duration::from_secs(20), coming.recv()).await;
    assert_eq!(is_whole, Ok(Some(false)));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::echo().await;
    let bed = Bed::serving(&upstream);
    let text = "GET /a/b/1 HTTP/1.1\r\nHost: x\r\n\r\nGET /a/b/2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answer = raw(bed.address, text.as_bytes()).await;
    let (one, two) = (
        answer.find("\"uri\":\"/1\"").unwrap(),
        answer.find("\"uri\":\"/2\"").unwrap(),
    );
    assert!(one < two, "{answer}");
}

/// Would fail if uploads that nobody reads could take all that a connection has: those windows are as large by default.
#[tokio::test]
async fn one_upload_has_a_small_part_of_what_an_http2_connection_may_send() {
    const SETTINGS: u8 = 4;
    const WINDOW_UPDATE: u8 = 8;
    const INITIAL_WINDOW_SIZE: u16 = 4;
    const FIRST_WINDOW: u32 = 65_535;
    let bed = Bed::new();
    let mut stream = TcpStream::connect(bed.address).await.unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    let (mut of_stream, mut of_connection) = (None, None);
    while of_stream.is_none() || of_connection.is_none() {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut frame = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut frame).await.unwrap();
        match head[3] {
            SETTINGS => {
                for setting in frame.chunks_exact(6) {
                    if u16::from_be_bytes([setting[0], setting[1]]) == INITIAL_WINDOW_SIZE {
                        of_stream = Some(u32::from_be_bytes(setting[2..].try_into().unwrap()));
                    }
                }
            }
            WINDOW_UPDATE => {
                let more = u32::from_be_bytes(frame.try_into().unwrap());
                of_connection = Some(FIRST_WINDOW + more);
            }
            _ => {}
        }
    }
    assert_eq!(
        (of_stream, of_connection),
        (Some(256 << 10), Some(32 << 20))
    );
}

/// Would fail if small frames that nobody reads could take any amount of memory, or their connection weren't read on once
/// somebody does, or others had to wait for that.
#[tokio::test]
async fn a_connection_whose_small_frames_nobody_reads_is_not_read() {
    const FRAMES: usize = 20_000;
    let upstream = Upstream::echo().await;
    let options = Options {
        queue_memory: 1 << 20,
        ..Options::default()
    };
    let bed = Bed::with(Arc::new(Never), options);
    for name in ["a/awake", "a/asleep"] {
        bed.gateway.insert_route(route(name, &[]));
    }
    let replica = endpoint(upstream.address, 64);
    assert!(bed.gateway.insert_endpoint(&id("a/awake"), &replica));
    let url = |path: &str| format!("http://{}/a/{path}/", bed.address);
    let mut client = http2(bed.address).await;
    let frames = (0..FRAMES).map(|_| Ok(Frame::data(Bytes::from_static(b"x"))));
    let body = BodyExt::boxed(StreamBody::new(futures::stream::iter(frames)));
    let upload = Request::post(url("asleep")).body(body).unwrap();
    let uploaded = tokio::spawn(client.send_request(upload));
    let mut get = async || {
        let request = Request::get(url("awake")).body(empty()).unwrap();
        let answer = client.send_request(request);
        tokio::time::timeout(Duration::from_millis(500), answer).await
    };
    let mut is_read = true;
    for _ in 0..100 {
        is_read = get().await.is_ok();
        if !is_read {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!is_read);
    assert_eq!(bed.get("/a/awake/").await.status, 200);
    assert!(bed.gateway.insert_endpoint(&id("a/asleep"), &replica));
    let answer = read(uploaded.await.unwrap().unwrap()).await;
    assert_eq!(answer.json()["body"].as_str().unwrap().len(), FRAMES);
    assert_eq!(get().await.unwrap().unwrap().status(), 200);
}
