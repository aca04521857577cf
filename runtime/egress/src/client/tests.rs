use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::future::{BoxFuture, pending};
use http_body::Frame;
use http_body_util::{Empty, Full, StreamBody};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use wasmtime_wasi_http::WasiHttpHooks as _;

use super::*;
use crate::hooks::Hooks;
use crate::resolve::Resolving;

type ServerBody = http_body_util::combinators::UnsyncBoxBody<Bytes, hyper::Error>;

/// What a server made of hyper answers: what it saw, and for `/echo` what it was sent.
async fn answer(request: Request<Incoming>) -> Result<Response<ServerBody>, Infallible> {
    if request.uri().path() == "/echo" {
        return Ok(Response::new(request.into_body().boxed_unsync()));
    }
    let mut names: Vec<_> = request
        .headers()
        .iter()
        .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
        .collect();
    names.sort();
    let text = format!(
        "{:?} {} {} {}",
        request.version(),
        request.method(),
        request.uri(),
        names.join(" ")
    );
    let body = Full::new(Bytes::from(text))
        .map_err(|never| match never {})
        .boxed_unsync();
    Ok(Response::builder()
        .header("connection", "x-hop")
        .header("x-hop", "1")
        .header("x-end", "1")
        .body(body)
        .unwrap())
}

struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

/// A server on loopback whose connections `serve` handles.
async fn listen(serve: impl Fn(TcpStream) -> BoxFuture<'static, ()> + Send + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(serve(stream));
        }
    });
    Server {
        address,
        connections,
    }
}

async fn serve_http(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    // A client that goes away is no failure.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .await;
}

async fn plain() -> Server {
    listen(|stream| Box::pin(serve_http(stream))).await
}

/// Reads a request's head, writes `bytes`, and then holds the connection, or closes it.
async fn raw(bytes: &'static [u8], hold: bool) -> Server {
    listen(move |mut stream| {
        Box::pin(async move {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            stream.write_all(bytes).await.unwrap();
            if hold {
                pending::<()>().await;
            }
        })
    })
    .await
}

/// A name that every test resolves as it likes.
struct Fixed(Vec<IpAddr>, AtomicUsize);

impl Resolve for Fixed {
    fn resolve(&self, _: &str) -> Resolving {
        self.1.fetch_add(1, Ordering::Relaxed);
        let addresses = self.0.clone();
        Box::pin(async move { Ok(addresses) })
    }
}

struct Never;

impl Resolve for Never {
    fn resolve(&self, _: &str) -> Resolving {
        Box::pin(pending())
    }
}

/// Never finds anything, and counts who asks.
#[derive(Default)]
struct Stuck(AtomicUsize);

impl Resolve for Stuck {
    fn resolve(&self, _: &str) -> Resolving {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(pending())
    }
}

struct Unknown;

impl Resolve for Unknown {
    fn resolve(&self, _: &str) -> Resolving {
        Box::pin(async { Err(io::Error::other("no such name")) })
    }
}

fn egress(allow: &[String], change: impl FnOnce(&mut Options)) -> Egress {
    let mut options = Options::default();
    change(&mut options);
    Egress::new(Policy::parse(allow).unwrap(), options).unwrap()
}

fn to(server: &Server) -> Egress {
    egress(&[format!("http://{}", server.address)], |_| {})
}

fn get(uri: &str) -> Request<WasiBody> {
    Request::get(uri)
        .body(Empty::new().map_err(|never| match never {}).boxed_unsync())
        .unwrap()
}

async fn text(response: Response<WasiBody>) -> String {
    String::from_utf8(
        response
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .to_vec(),
    )
    .unwrap()
}

async fn error(egress: &Egress, uri: &str) -> Error {
    error_with(egress, uri, RequestOptions::default()).await
}

async fn error_with(egress: &Egress, uri: &str, options: RequestOptions) -> Error {
    egress
        .send(get(uri), Some(options))
        .await
        .err()
        .unwrap()
        .code
}

macro_rules! assert_error {
    ($error:expr, $pattern:pat) => {
        let error = $error;
        assert!(matches!(error, $pattern), "{error:?}");
    };
}

#[tokio::test]
async fn a_request_arrives_as_sent_but_for_what_belongs_to_the_connection() {
    let server = plain().await;
    let egress = to(&server);
    let mut request = get(&format!("http://{}/a%20b?c=d", server.address));
    for (name, value) in [
        ("host", "metadata.internal"),
        ("x-own", "1"),
        ("connection", "x-named"),
        ("x-named", "1"),
        ("upgrade", "websocket"),
        ("transfer-encoding", "chunked"),
        ("te", "trailers"),
    ] {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    let response = egress.send(request, None).await.ok().unwrap();
    assert_eq!(response.headers().get("x-end").unwrap(), "1");
    assert!(
        response.headers().get("x-hop").is_none(),
        "hop-by-hop in the response, too"
    );
    let expected = format!(
        "HTTP/1.1 GET /a%20b?c=d host={} te=trailers x-own=1",
        server.address
    );
    assert_eq!(text(response).await, expected);
}

#[tokio::test]
async fn connections_are_used_again() {
    let server = plain().await;
    let egress = to(&server);
    for _ in 0..5 {
        let response = egress
            .send(get(&format!("http://{}/", server.address)), None)
            .await
            .ok()
            .unwrap();
        text(response).await;
        // The connection is back in the pool when its task has seen the body's end.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
    assert!(server.connections.load(Ordering::Relaxed) < 5);
}

/// A body of the pieces that are sent, until their sender is dropped.
fn in_pieces() -> (tokio::sync::mpsc::Sender<Bytes>, WasiBody) {
    let (send, pieces) = tokio::sync::mpsc::channel(1);
    let stream = futures::stream::unfold(
        pieces,
        async |mut pieces: tokio::sync::mpsc::Receiver<Bytes>| {
            let piece = pieces.recv().await?;
            Some((Ok::<_, Error>(Frame::data(piece)), pieces))
        },
    );
    (send, StreamBody::new(stream).boxed_unsync())
}

/// Each direction must move before the other one has ended.
#[tokio::test]
async fn bodies_stream_both_ways() {
    let server = plain().await;
    let (send, body) = in_pieces();
    let request = Request::post(format!("http://{}/echo", server.address))
        .body(body)
        .unwrap();
    let mut body = to(&server)
        .send(request, None)
        .await
        .ok()
        .unwrap()
        .into_body();
    for piece in ["one", "two"] {
        send.send(piece.into()).await.unwrap();
        assert_eq!(
            body.frame().await.unwrap().unwrap().into_data().unwrap(),
            piece
        );
    }
    drop(send);
    assert!(body.frame().await.is_none());
}

/// Would fail if a GET's body were lost, though all went well, a GET without one were sent as if it had one, or one whose body is
/// begun and never written waited for it for ever.
#[tokio::test]
async fn a_get_is_sent_with_its_body_where_it_has_one() {
    let server = plain().await;
    let egress = to(&server);
    let asked = |path: &str| {
        let (send, body) = in_pieces();
        let request = Request::get(format!("http://{}{path}", server.address))
            .body(body)
            .unwrap();
        let egress = egress.clone();
        let answer = async move { text(egress.send(request, None).await.ok().unwrap()).await };
        (send, tokio::spawn(answer))
    };
    let (send, answer) = asked("/echo");
    for piece in ["one ", "two"] {
        tokio::task::yield_now().await;
        send.send(piece.into()).await.unwrap();
    }
    drop(send);
    assert_eq!(answer.await.unwrap(), "one two");
    let (ended, none) = asked("/");
    tokio::task::yield_now().await;
    drop(ended);
    let (_kept, never) = asked("/");
    for answer in [none, never] {
        let told = answer.await.unwrap();
        assert_eq!(told, format!("HTTP/1.1 GET / host={}", server.address));
    }
}

/// Would fail if a server took half of an upload for all of it, because the guest that wrote it was cut off.
#[tokio::test]
async fn an_upload_ends_well_only_where_its_guest_does() {
    for is_cut_off in [false, true] {
        let (seen, arrived) = tokio::sync::oneshot::channel::<Vec<u8>>();
        let seen = std::sync::Mutex::new(Some(seen));
        // It answers at once, and then reads for as long as there is something to come.
        let server = listen(move |mut stream| {
            let seen = seen.lock().unwrap().take().unwrap();
            Box::pin(async move {
                let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
                let mut all = Vec::new();
                let mut answered = false;
                let mut piece = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut piece).await {
                    all.extend_from_slice(&piece[..length]);
                    if !answered && all.ends_with(b"half\r\n") {
                        stream.write_all(answer).await.unwrap();
                        answered = true;
                    }
                    if all.ends_with(b"0\r\n\r\n") {
                        break;
                    }
                }
                let _ = seen.send(all);
            })
        })
        .await;
        let mut hooks = Hooks::new(to(&server), None);
        let uploads = hooks.uploads();
        let (send, pieces) = tokio::sync::mpsc::channel::<Bytes>(1);
        let stream = futures::stream::unfold(pieces, async |mut pieces| {
            let piece = pieces.recv().await?;
            Some((Ok::<_, Error>(Frame::data(piece)), pieces))
        });
        let request = Request::post(format!("http://{}/", server.address))
            .body(StreamBody::new(stream).boxed_unsync())
            .unwrap();
        let sent = hooks.send_request(request, None, Box::new(async { Ok(()) }));
        send.send("half".into()).await.unwrap();
        // The guest has its answer, and goes on writing.
        let response = Box::into_pin(sent).await.ok().unwrap();
        if is_cut_off {
            uploads.cut_off();
        }
        // What wasmtime does when the store goes, as well as when the guest is done.
        drop(send);
        let all = arrived.await.unwrap();
        assert!(String::from_utf8_lossy(&all).contains("half"));
        assert_eq!(all.ends_with(b"0\r\n\r\n"), !is_cut_off);
        drop(response);
    }
}

#[tokio::test]
async fn what_is_not_allowed_never_leaves() {
    let server = plain().await;
    let port = server.address.port();
    let allow = [
        format!("http://127.0.0.1:{port}"),
        format!("http://inside.example:{port}"),
    ];
    for address in [
        "127.0.0.2",
        "::ffff:127.0.0.2",
        "169.254.169.254",
        "fd00:ec2::254",
    ] {
        let egress = egress(&allow, |options| {
            options.resolver = Arc::new(Fixed(vec![address.parse().unwrap()], AtomicUsize::new(0)));
        });
        assert_error!(
            error(&egress, &format!("http://inside.example:{port}/")).await,
            Error::DestinationIpProhibited
        );
    }
    let egress = egress(&allow, |_| {});
    assert_error!(
        error(&egress, &format!("http://localhost:{port}/")).await,
        Error::HttpRequestDenied
    );
    assert_error!(
        error(&egress, &format!("http://127.0.0.1:{}/", port ^ 1)).await,
        Error::HttpRequestDenied
    );
    assert_error!(
        error(&egress, &format!("https://127.0.0.1:{port}/")).await,
        Error::HttpRequestDenied
    );
    assert_error!(
        error(&egress, &format!("http://127.0.0.1:{port}@example.com/")).await,
        Error::HttpRequestUriInvalid
    );
    let mut connect = get(&format!("http://127.0.0.1:{port}/"));
    *connect.method_mut() = Method::CONNECT;
    assert_error!(
        egress.send(connect, None).await.err().unwrap().code,
        Error::HttpRequestMethodInvalid
    );
    assert_eq!(server.connections.load(Ordering::Relaxed), 0);
    let denied = egress
        .send(get("https://other.example/secret?token=1"), None)
        .await
        .err()
        .unwrap()
        .reason
        .unwrap();
    let expected = format!(
        "outbound.allow has no entry for https://other.example: it allows http://127.0.0.1:{port}, http://inside.example:{port}"
    );
    assert_eq!(denied, expected);
}

/// A name that gives a good address for the check and a bad one for the connection must be asked once only.
#[tokio::test]
async fn the_address_that_was_checked_is_the_one_connected_to() {
    let server = plain().await;
    let port = server.address.port();
    // The first of them nobody may have; the second is named.
    let resolver = Arc::new(Fixed(
        vec!["10.1.2.3".parse().unwrap(), "127.0.0.1".parse().unwrap()],
        AtomicUsize::new(0),
    ));
    let allow = [
        format!("http://127.0.0.1:{port}"),
        format!("http://inside.example:{port}"),
    ];
    let egress = egress(&allow, |options| options.resolver = resolver.clone());
    let response = egress
        .send(get(&format!("http://inside.example:{port}/")), None)
        .await
        .ok()
        .unwrap();
    assert!(
        text(response)
            .await
            .contains(&format!("host=inside.example:{port}"))
    );
    assert_eq!(resolver.1.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn localhost_is_reached_where_it_is_named() {
    let server = plain().await;
    let port = server.address.port();
    let egress = egress(&[format!("http://localhost:{port}")], |_| {});
    let response = egress
        .send(get(&format!("http://localhost:{port}/")), None)
        .await
        .ok()
        .unwrap();
    assert!(
        text(response)
            .await
            .contains(&format!("host=localhost:{port}"))
    );
}

#[tokio::test]
async fn names_that_do_not_resolve_say_so_in_time() {
    let allow = ["http://some.example".to_owned()];
    let unknown = egress(&allow, |options| options.resolver = Arc::new(Unknown));
    assert_error!(
        error(&unknown, "http://some.example/").await,
        Error::DnsError { .. }
    );
    let none = egress(&allow, |options| {
        options.resolver = Arc::new(Fixed(Vec::new(), AtomicUsize::new(0)))
    });
    assert_error!(
        error(&none, "http://some.example/").await,
        Error::DestinationNotFound
    );
    let never = |patience| {
        egress(&allow, move |options| {
            options.resolver = Arc::new(Never);
            options.connect_timeout = patience;
        })
    };
    let (short, long) = (Duration::from_millis(20), Duration::from_secs(3600));
    assert_error!(
        error(&never(short), "http://some.example/").await,
        Error::ConnectionTimeout
    );
    let options = RequestOptions {
        connect_timeout: Some(short),
        ..RequestOptions::default()
    };
    assert_error!(
        error_with(&never(long), "http://some.example/", options).await,
        Error::ConnectionTimeout
    );
}

/// Would fail if a guest that loses patience again and again could take a thread with each name.
#[tokio::test]
async fn lookups_are_bounded_whoever_still_waits() {
    let resolver = Arc::new(Stuck::default());
    let counted = Arc::clone(&resolver);
    let egress = egress(&["http://*.some.example".to_owned()], |options| {
        options.resolver = counted;
        options.connect_timeout = Duration::from_millis(2);
    });
    for number in 0..40 {
        assert_error!(
            error(&egress, &format!("http://n{number}.some.example/")).await,
            Error::ConnectionTimeout
        );
    }
    assert_eq!(resolver.0.load(Ordering::Relaxed), 16);
}

/// Would fail if a name that nobody answers for took the lookups of others, or the places of connections.
#[tokio::test]
async fn a_name_that_does_not_resolve_is_in_nobody_s_way() {
    let server = plain().await;
    let allow = [
        "http://some.example".to_owned(),
        format!("http://{}", server.address),
    ];
    let resolver = Arc::new(Stuck::default());
    let counted = Arc::clone(&resolver);
    let egress = egress(&allow, |options| {
        options.resolver = counted;
        options.max_connections = 1;
    });
    // Each waits for as long as it is polled.
    let mut waiting: Vec<_> = (0..40)
        .map(|_| Box::pin(egress.send(get("http://some.example/"), None)))
        .collect();
    for request in &mut waiting {
        assert!(futures::poll!(request).is_pending());
    }
    let uri = format!("http://{}/", server.address);
    assert!(egress.send(get(&uri), None).await.is_ok());
    assert_eq!(resolver.0.load(Ordering::Relaxed), 1);
}

/// Would fail if the next who asks were given what was found for those before.
#[tokio::test]
async fn what_is_found_is_for_those_who_waited_for_it() {
    let server = plain().await;
    let port = server.address.port();
    let resolver = Arc::new(Fixed(
        vec!["127.0.0.1".parse().unwrap()],
        AtomicUsize::new(0),
    ));
    let counted = Arc::clone(&resolver);
    let allow = [
        format!("http://127.0.0.1:{port}"),
        format!("http://inside.example:{port}"),
    ];
    let egress = egress(&allow, |options| {
        options.resolver = counted;
        options.max_idle_per_host = 0;
    });
    for _ in 0..2 {
        let uri = format!("http://inside.example:{port}/");
        assert!(egress.send(get(&uri), None).await.is_ok());
    }
    assert_eq!(resolver.1.load(Ordering::Relaxed), 2);
}

/// Would never end if a connection that nobody waits for any more were shaken hands for without end: the client completes
/// those that it began.
#[tokio::test]
async fn a_server_that_never_shakes_hands_is_given_up() {
    use tower_service::Service as _;
    let silent = raw(b"", true).await;
    let uri = format!("https://{}/", silent.address);
    let policy = Arc::new(Policy::parse(std::slice::from_ref(&uri)).unwrap());
    let options = Options {
        connect_timeout: Duration::from_millis(20),
        ..Options::default()
    };
    let mut connector = connector(policy, options).unwrap();
    let failed = connector.call(uri.parse().unwrap()).await.err().unwrap();
    assert_error!(error_code(failed.as_ref()), Error::ConnectionTimeout);
}

/// A server behind `cut`: once that is set, nothing more passes, as where its machine is gone.
async fn behind(server: SocketAddr, cut: tokio::sync::watch::Receiver<bool>) -> Server {
    listen(move |mut stream| {
        let mut cut = cut.clone();
        Box::pin(async move {
            let mut inner = TcpStream::connect(server).await.unwrap();
            let was_cut = async { cut.wait_for(|cut| *cut).await.is_ok() };
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut stream, &mut inner) => {}
                _ = was_cut => pending().await,
            }
        })
    })
    .await
}

/// Would fail if requests to a machine that is gone waited until the kernel gives up, as all to one server share a connection.
#[tokio::test]
async fn a_machine_that_is_gone_is_noticed_by_http_2() {
    let Tls { server, root } = tls().await;
    let (cut, is_cut) = tokio::sync::watch::channel(false);
    let proxy = behind(server.address, is_cut).await;
    let egress = inside_with(proxy.address.port(), vec![root], |options| {
        options.silence = Duration::from_secs(1);
    });
    let uri = format!("https://inside.example:{}/x", proxy.address.port());
    let response = egress.send(get(&uri), None).await.ok().unwrap();
    assert!(text(response).await.starts_with("HTTP/2.0"));
    cut.send_replace(true);
    let options = RequestOptions {
        first_byte_timeout: Some(Duration::from_secs(60)),
        ..RequestOptions::default()
    };
    let error = error_with(&egress, &uri, options).await;
    assert!(!matches!(error, Error::ConnectionReadTimeout), "{error:?}");
}

#[tokio::test]
async fn a_server_that_is_slow_meets_the_guest_s_patience() {
    let patience = Some(Duration::from_millis(100));
    let silent = raw(b"", true).await;
    let options = RequestOptions {
        first_byte_timeout: patience,
        ..RequestOptions::default()
    };
    assert_error!(
        error_with(
            &to(&silent),
            &format!("http://{}/", silent.address),
            options
        )
        .await,
        Error::ConnectionReadTimeout
    );

    let stuck = raw(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", true).await;
    let options = RequestOptions {
        between_bytes_timeout: patience,
        ..RequestOptions::default()
    };
    let response = to(&stuck)
        .send(get(&format!("http://{}/", stuck.address)), Some(options))
        .await
        .ok()
        .unwrap();
    assert_error!(
        response.into_body().collect().await.err().unwrap(),
        Error::ConnectionReadTimeout
    );
}

#[tokio::test]
async fn a_server_that_breaks_off_or_talks_nonsense_is_told_apart() {
    let gone = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let refused = egress(&[format!("http://{gone}")], |_| {});
    assert_error!(
        error(&refused, &format!("http://{gone}/")).await,
        Error::ConnectionRefused
    );

    let half = raw(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", false).await;
    let response = to(&half)
        .send(get(&format!("http://{}/", half.address)), None)
        .await
        .ok()
        .unwrap();
    assert_error!(
        response.into_body().collect().await.err().unwrap(),
        Error::HttpResponseIncomplete
    );

    let nonsense = raw(b"220 mail.example ESMTP\r\n", true).await;
    assert_error!(
        error(&to(&nonsense), &format!("http://{}/", nonsense.address)).await,
        Error::HttpProtocolError
    );

    static LARGE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
        format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(8 * MAX_HEAD)).into_bytes()
    });
    let large = raw(&LARGE, true).await;
    assert_error!(
        error(&to(&large), &format!("http://{}/", large.address)).await,
        Error::HttpResponseHeaderSectionSize(_)
    );
}

/// Would fail if a guest took for the whole response what came before its server gave it up without an error.
#[tokio::test]
async fn a_response_over_http_2_that_is_given_up_is_incomplete() {
    const HEADERS: u8 = 1;
    let Tls { server, root } = tls_serving(|mut stream| {
        Box::pin(async move {
            let mut preface = [0; 24];
            stream.read_exact(&mut preface).await.unwrap();
            let mut frame = [0; 9];
            while frame[3] != HEADERS {
                stream.read_exact(&mut frame).await.unwrap();
                let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]);
                let mut rest = vec![0; usize::try_from(length).unwrap()];
                stream.read_exact(&mut rest).await.unwrap();
            }
            // SETTINGS, and of the request's stream HEADERS, which are `:status: 200`, DATA and RST_STREAM, which is NO_ERROR.
            let settings = b"\0\0\0\x04\0\0\0\0\0";
            let head = b"\0\0\x01\x01\x04\0\0\0\x01\x88";
            let half = b"\0\0\x04\0\0\0\0\0\x01half";
            let reset = b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\0";
            let answer = [&settings[..], head, half, reset].concat();
            stream.write_all(&answer).await.unwrap();
            stream.flush().await.unwrap();
            pending::<()>().await;
        })
    })
    .await;
    let port = server.address.port();
    let uri = format!("https://inside.example:{port}/x");
    let egress = inside(port, vec![root]);
    let response = egress.send(get(&uri), None).await.ok().unwrap();
    assert_error!(
        response.into_body().collect().await.err().unwrap(),
        Error::HttpResponseIncomplete
    );
}

/// Would fail if a guest were told a length that the body doesn't have: it would stop reading there.
#[tokio::test]
async fn a_length_beside_an_encoding_is_none() {
    let both = raw(
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n",
        true,
    )
    .await;
    let response = to(&both)
        .send(get(&format!("http://{}/", both.address)), None)
        .await
        .ok()
        .unwrap();
    assert!(!response.headers().contains_key("content-length"));
    assert_eq!(text(response).await, "whole");
}

#[tokio::test]
async fn connections_are_bounded() {
    let server = raw(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", true).await;
    let uri = format!("http://{}/", server.address);
    let egress = egress(std::slice::from_ref(&uri), |options| {
        options.max_connections = 1;
        options.connect_timeout = Duration::from_millis(40);
    });
    let first = egress.send(get(&uri), None).await.ok().unwrap();
    assert_error!(error(&egress, &uri).await, Error::ConnectionLimitReached);
    drop(first);
    // The place is free when the connection's task has noticed.
    while let Err(failure) = egress.send(get(&uri), None).await {
        assert_error!(failure.code, Error::ConnectionLimitReached);
        tokio::task::yield_now().await;
    }
}

/// Would fail if connections that nobody uses kept others from being made.
#[tokio::test]
async fn idle_connections_make_room() {
    let (first, second) = (plain().await, plain().await);
    let uris = [&first, &second].map(|server| format!("http://{}/", server.address));
    let egress = egress(&uris, |options| {
        options.max_connections = 1;
        options.idle_timeout = Duration::from_millis(10);
    });
    for uri in &uris {
        text(egress.send(get(uri), None).await.ok().unwrap()).await;
    }
}

struct Tls {
    server: Server,
    root: CertificateDer<'static>,
}

/// A TLS server for `inside.example` whose certificate a new authority has signed.
async fn tls() -> Tls {
    tls_serving(|stream| Box::pin(serve_http(stream))).await
}

/// Such a server, whose connections `serve` handles.
async fn tls_serving(serve: fn(TlsStream<TcpStream>) -> BoxFuture<'static, ()>) -> Tls {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["inside.example".to_owned()])
        .unwrap()
        .signed_by(&key, &authority)
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let root = authority.der().clone();
    let server = listen(move |stream| {
        let acceptor = acceptor.clone();
        Box::pin(async move {
            // A client that refuses the certificate is what some tests are about.
            if let Ok(stream) = acceptor.accept(stream).await {
                serve(stream).await;
            }
        })
    })
    .await;
    Tls { server, root }
}

fn inside(port: u16, roots: Vec<CertificateDer<'static>>) -> Egress {
    inside_with(port, roots, |_| {})
}

fn inside_with(
    port: u16,
    roots: Vec<CertificateDer<'static>>,
    change: impl FnOnce(&mut Options),
) -> Egress {
    let allow = [
        format!("https://inside.example:{port}"),
        format!("https://127.0.0.1:{port}"),
    ];
    egress(&allow, |options| {
        options.extra_roots = roots;
        options.resolver = Arc::new(Fixed(
            vec!["127.0.0.1".parse().unwrap()],
            AtomicUsize::new(0),
        ));
        change(options);
    })
}

#[tokio::test]
async fn tls_is_checked_and_speaks_http_2_where_the_server_does() {
    let Tls { server, root } = tls().await;
    let port = server.address.port();
    let uri = format!("https://inside.example:{port}/x");
    let trusting = inside(port, vec![root]);
    let response = trusting.send(get(&uri), None).await.ok().unwrap();
    assert_eq!(text(response).await, format!("HTTP/2.0 GET {uri} "));
    assert_error!(
        error(&trusting, &format!("https://127.0.0.1:{port}/")).await,
        Error::TlsCertificateError
    );
    assert_error!(
        error(&inside(port, Vec::new()), &uri).await,
        Error::TlsCertificateError
    );
}

#[tokio::test]
async fn https_to_a_server_without_tls_is_a_tls_error() {
    let server = raw(b"HTTP/1.1 400 Bad Request\r\n\r\n", true).await;
    let port = server.address.port();
    assert_error!(
        error(
            &inside(port, Vec::new()),
            &format!("https://inside.example:{port}/")
        )
        .await,
        Error::TlsProtocolError
    );
}

#[test]
fn an_authority_that_is_no_certificate_is_named() {
    let options = Options {
        extra_roots: vec![CertificateDer::from(b"nonsense".to_vec())],
        ..Options::default()
    };
    let policy = Policy::parse(&["https://inside.example".to_owned()]).unwrap();
    let error = Egress::new(policy, options).err().unwrap().to_string();
    assert!(error.contains("certificate authority 0"), "{error}");
}
