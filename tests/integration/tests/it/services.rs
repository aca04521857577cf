//! What a host offers its guests beside HTTP: a way out, stores, configuration and logs.
#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails is a test that fails"
)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use wisp_contract::config::{Instances, KeyValueStore};
use wisp_contract::log::{GUEST_LOG, Level};
use wisp_integration::{Host, component, request};

/// A server for guests to call: it tells what it saw, and sends bodies back.
struct Upstream {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Upstream {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let seen = Arc::clone(&seen);
                let answer = service_fn(move |request: Request<Incoming>| {
                    let head = format!(
                        "{} {} {:?}",
                        request.method(),
                        request.uri(),
                        request.headers()
                    );
                    seen.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(head);
                    async move { Ok::<_, Infallible>(Response::new(request.into_body())) }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), answer),
                );
            }
        });
        Self { address, heads }
    }

    fn heads(&self) -> Vec<String> {
        self.heads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// A TLS server for `localhost`, which answers everything with `inside`, and the authority that signed its certificate, PEM.
async fn company() -> (SocketAddr, String) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &authority)
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that doesn't trust the certificate is what the test is about.
            let Ok(stream) = acceptor.accept(stream).await else {
                continue;
            };
            let answer = service_fn(async |_: Request<Incoming>| {
                Ok::<_, Infallible>(Response::new("inside".to_owned()))
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), answer),
            );
        }
    });
    (address, authority.pem())
}

async fn sdk(change: impl FnOnce(&mut wisp_contract::FunctionConfig)) -> Host {
    Host::ready(&component("fixture-sdk"), change)
        .await
        .unwrap()
}

fn store(file: &Path, max_bytes: u64) -> KeyValueStore {
    KeyValueStore {
        name: "default".into(),
        file: file.to_owned(),
        max_bytes: max_bytes.try_into().unwrap(),
    }
}

/// Would fail if a function could not call a server whose certificate its own company signed, or could without saying so.
#[tokio::test]
async fn guests_trust_the_authorities_that_the_function_names() {
    let (address, authority) = company().await;
    let origin = format!("https://localhost:{}", address.port());
    for (authorities, expected) in [
        (vec![authority], StatusCode::OK),
        (Vec::new(), StatusCode::BAD_GATEWAY),
    ] {
        let host = sdk(|config| {
            config.outbound.allow = vec![origin.clone()];
            config.outbound.certificate_authorities = authorities;
        })
        .await;
        let path = format!("/fetch?url={origin}/x");
        let answer = host.client().get(&path).await.unwrap();
        assert_eq!(answer.status, expected, "{answer:?}");
    }
}

#[tokio::test]
async fn guests_reach_what_is_allowed_and_nothing_else() {
    let (inside, outside) = (Upstream::start().await, Upstream::start().await);
    let allowed = format!("http://{}", inside.address);
    let host = sdk(|config| config.outbound.allow = vec![allowed.clone()]).await;

    let answer = host
        .client()
        .post(
            &format!("/forward?url={allowed}/x"),
            Bytes::from("a".repeat(100_000)),
        )
        .await
        .unwrap();
    assert_eq!(
        (answer.status, answer.body.len()),
        (StatusCode::OK, 100_000)
    );
    let fetched = host
        .client()
        .get(&format!("/fetch?url={allowed}/y"))
        .await
        .unwrap();
    assert_eq!(fetched.status, StatusCode::OK);
    let heads = inside.heads();
    assert!(
        heads[0].starts_with("POST /x ") && heads[1].starts_with("GET /y "),
        "{heads:?}"
    );
    assert!(
        heads[1].contains(r#""x-from": "fixture""#)
            && heads[1].contains(&inside.address.to_string()),
        "{heads:?}"
    );

    for origin in [
        format!("http://{}", outside.address),
        format!("http://localhost:{}", inside.address.port()),
        format!("https://{}", inside.address),
        "http://169.254.169.254".to_owned(),
        "https://example.com".to_owned(),
    ] {
        let mut sent =
            request(Method::GET, &format!("/fetch?url={origin}/secret-path"), "").unwrap();
        sent.headers_mut()
            .insert("x-request-id", "denied-1".parse().unwrap());
        let answer = host.client().fetch(sent).await.unwrap();
        assert_eq!(
            answer.status,
            StatusCode::BAD_GATEWAY,
            "{origin}: {}",
            answer.text()
        );
        let sentence = format!("outbound.allow has no entry for {origin}: it allows {allowed}");
        let line = host
            .line(&sentence, |line| line.message.contains(&sentence))
            .await
            .unwrap();
        assert_eq!(
            (line.request_id.as_deref(), line.level),
            (Some("denied-1"), Level::Warn)
        );
        assert!(
            !line.message.contains("secret-path"),
            "a path may hold secrets: {line:?}"
        );
    }
    assert_eq!(outside.heads().len(), 0);
    assert_eq!(inside.heads().len(), 2);
    assert_eq!(
        host.client().get("/hello/you").await.unwrap().text(),
        "hello you"
    );
}

/// A server that answers a request's first bytes with ten declared ones, and tells all that came once nothing more does.
async fn receiver(body: &'static str) -> (SocketAddr, tokio::sync::oneshot::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut all = String::new();
        let mut piece = [0; 4096];
        let mut has_answered = false;
        while let Ok(length @ 1..) = stream.read(&mut piece).await {
            all.push_str(str::from_utf8(piece.get(..length).unwrap()).unwrap());
            if !has_answered && all.ends_with("half\r\n") {
                has_answered = true;
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            if all.ends_with("\r\n0\r\n\r\n") {
                break;
            }
        }
        let _ = tell.send(all);
    });
    (address, told)
}

/// Would fail if a server took the half of an upload that a guest sent before it trapped, or kept to itself, for all of it, or what a
/// guest sent whole were cut off with its instance.
#[tokio::test]
async fn an_upload_is_whole_only_where_its_guest_finished_it() {
    let shared = Instances::Reuse {
        max_requests: NonZeroU32::MIN,
        max_concurrent: NonZeroU32::new(8).unwrap(),
        idle_timeout: Duration::from_secs(1),
    };
    let (fresh, shared) = (&Instances::Fresh, &shared);
    let (p2, p3) = ("fixture-p2", "fixture-p3");
    for (package, instances, path, status, is_whole) in [
        (p2, fresh, "/upload-trap", StatusCode::BAD_GATEWAY, false),
        (p3, fresh, "/upload-trap", StatusCode::BAD_GATEWAY, false),
        (p3, shared, "/upload-trap", StatusCode::BAD_GATEWAY, false),
        (p3, fresh, "/upload-keep", StatusCode::OK, false),
        (p3, shared, "/upload-keep", StatusCode::OK, false),
        (p2, fresh, "/upload", StatusCode::OK, true),
        (p3, fresh, "/upload", StatusCode::OK, true),
        (p3, shared, "/upload", StatusCode::OK, true),
    ] {
        // One that ends sooner ends its request by itself, and with the instance there is none.
        let (server, all) = receiver("to be read").await;
        let file = component(package);
        let host = Host::ready(&file, |config| {
            config.outbound.allow = vec![format!("http://{server}")];
            config.instances = instances.clone();
        });
        let host = host.await.unwrap();
        let answer = host.client().get(&format!("{path}?{server}")).await;
        let (case, answer) = (format!("{package} {instances:?} {path}"), answer.unwrap());
        assert_eq!(answer.status, status, "{case}: {}", answer.text());
        let all = all.await.unwrap();
        assert!(all.contains("the first half"), "{case}: {all}");
        assert_eq!(all.ends_with("\r\n0\r\n\r\n"), is_whole, "{case}: {all}");
        assert_eq!(all.contains(", and the second"), is_whole, "{case}");
    }
}

/// Would fail if a response were broken off for what its guest left unfinished beside it, or passed for whole beside that.
#[tokio::test]
async fn a_response_beside_an_upload_that_is_left_unfinished_is_as_whole_as_its_guest_made_it() {
    for (path, length) in [
        ("/upload-forget", Some(130_000)),
        ("/upload-forget-all", None),
    ] {
        let (server, all) = receiver("to be").await;
        let file = component("fixture-p2");
        let host = Host::ready(&file, |config| {
            config.outbound.allow = vec![format!("http://{server}")];
        });
        let host = host.await.unwrap();
        let answer = host.client().get(&format!("{path}?{server}")).await;
        let whole = answer.ok().map(|answer| answer.body.len());
        assert_eq!(whole, length, "{path}");
        assert!(!all.await.unwrap().ends_with("\r\n0\r\n\r\n"), "{path}");
    }
}

#[tokio::test]
async fn nothing_is_allowed_where_nothing_is_listed() {
    let upstream = Upstream::start().await;
    let host = sdk(|_| {}).await;
    let answer = host
        .client()
        .get(&format!("/fetch?url=http://{}/", upstream.address))
        .await
        .unwrap();
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    host.line("nothing", |line| line.message.contains("it allows nothing"))
        .await
        .unwrap();
    assert_eq!(upstream.heads().len(), 0);
}

#[tokio::test]
async fn what_is_stored_is_there_for_the_next_process_even_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("deep/er/default.redb");
    let start = || sdk(|config| config.key_value = vec![store(&file, 1 << 20)]);

    let host = start().await;
    for (key, value) in [("a", "1"), ("b", "two")] {
        let sent = request(Method::PUT, &format!("/kv/{key}"), value).unwrap();
        assert_eq!(
            host.client().fetch(sent).await.unwrap().status,
            StatusCode::NO_CONTENT
        );
    }
    let client = host.client();
    let increment = async || {
        let sent = request(Method::POST, "/kv/n/increment?by=2", "").unwrap();
        client
            .fetch(sent)
            .await
            .unwrap()
            .text()
            .parse::<u64>()
            .unwrap()
    };
    let mut sums = join_all((0..50).map(|_| increment())).await;
    sums.sort_unstable();
    assert_eq!(sums, (1..=50).map(|i| i * 2).collect::<Vec<_>>());
    drop(host); // It is killed, not asked to end.

    let host = start().await;
    assert_eq!(host.client().get("/kv/b").await.unwrap().text(), "two");
    assert_eq!(host.client().get("/kv/n").await.unwrap().text(), "100");
    assert_eq!(
        host.client().get("/kv").await.unwrap().text(),
        r#"["a","b","n"]"#
    );

    // Another replica on this machine shares the store, also with what is written while both run.
    let other = start().await;
    host.client()
        .fetch(request(Method::DELETE, "/kv/a", "").unwrap())
        .await
        .unwrap();
    assert_eq!(
        other.client().get("/kv/a").await.unwrap().status,
        StatusCode::NOT_FOUND
    );
    let both = join_all((0..20).map(|i| {
        let client = if i % 2 == 0 {
            host.client()
        } else {
            other.client()
        };
        async move {
            client
                .fetch(request(Method::POST, "/kv/n/increment", "").unwrap())
                .await
        }
    }));
    assert!(
        both.await
            .into_iter()
            .all(|answer| answer.unwrap().status == StatusCode::OK)
    );
    assert_eq!(other.client().get("/kv/n").await.unwrap().text(), "120");
}

#[tokio::test]
async fn a_store_has_a_limit_and_only_its_own_name_opens_it() {
    let folder = tempfile::tempdir().unwrap();
    let host =
        sdk(|config| config.key_value = vec![store(&folder.path().join("default.redb"), 1200)])
            .await;
    let put = async |key: &str, bytes: usize| {
        host.client()
            .fetch(request(Method::PUT, &format!("/kv/{key}"), vec![b'x'; bytes]).unwrap())
            .await
            .unwrap()
            .status
    };
    assert_eq!(put("small", 900).await, StatusCode::NO_CONTENT);
    assert_eq!(put("large", 900).await, StatusCode::INTERNAL_SERVER_ERROR);
    host.line("full", |line| {
        line.message
            .contains("its entries count 974 of 1200 bytes (keyValue.maxSize)")
    })
    .await
    .unwrap();
    assert_eq!(put("tiny", 50).await, StatusCode::NO_CONTENT);

    assert_ne!(
        host.client().get("/kv-open/secrets").await.unwrap().status,
        StatusCode::NO_CONTENT
    );
    let line = host
        .line("known stores", |line| {
            line.message
                .contains("a key-value store that isn't configured")
        })
        .await
        .unwrap();
    assert_eq!(line.fields["store"], "secrets");
    assert!(
        line.fields["known"].to_string().contains("default"),
        "{line:?}"
    );
}

/// Everything that sees requests or configuration, as loud as it can be. The compiler sees neither, and floods.
const NOISY: &str = "info,wisp_runtime=trace,wisp_egress=trace,wisp_wasi_keyvalue=trace,hyper=trace,hyper_util=trace,wasmtime_wasi=trace,wasmtime_wasi_http=trace";

#[tokio::test]
async fn configuration_reaches_the_guest_and_no_log() {
    let secret = "correct-horse-battery-staple";
    let mut assignment = wisp_integration::assignment(&component("fixture-sdk"));
    assignment
        .config
        .env
        .0
        .insert("TOKEN".into(), secret.into());
    assignment.key = Some(wisp_contract::assignment::Key("open-sesame-42".into()));
    let host = Host::start(Some(&assignment), &["--access-log", "--log", NOISY])
        .await
        .unwrap();
    host.event(wisp_contract::log::event::READY).await.unwrap();
    let get = async |path: &str| {
        let mut sent = request(Method::GET, path, "").unwrap();
        sent.headers_mut()
            .insert("wisp-key", "open-sesame-42".parse().unwrap());
        host.client().fetch(sent).await.unwrap()
    };
    assert_eq!(get("/config/TOKEN").await.text(), secret);
    assert_eq!(get("/config/OTHER").await.text(), "none");
    assert_eq!(get("/require/TOKEN").await.text(), secret);
    assert_eq!(
        get("/require/OTHER").await.status,
        StatusCode::INTERNAL_SERVER_ERROR
    );
    get("/panic").await;
    host.line("the panic", |line| line.message.contains("number 7"))
        .await
        .unwrap();
    let log = host.log().join("\n");
    assert!(
        !log.contains(secret) && !log.contains("open-sesame-42"),
        "{log}"
    );
}

#[tokio::test]
async fn what_a_guest_logs_carries_its_request_and_its_level() {
    let host = sdk(|_| {}).await;
    let ids: Vec<String> = (0..8).map(|i| format!("log-{i}")).collect();
    join_all(ids.iter().map(|id| async {
        let mut sent = request(Method::GET, "/log", "").unwrap();
        sent.headers_mut()
            .insert("x-request-id", id.parse().unwrap());
        host.client().fetch(sent).await.unwrap()
    }))
    .await;
    for id in &ids {
        let of_request = |part: &'static str| {
            move |line: &wisp_contract::log::Line<'_>| {
                line.request_id.as_deref() == Some(id)
                    && line.target == GUEST_LOG
                    && line.message.contains(part)
            }
        };
        let line = host
            .line("warn", of_request("through the SDK, number 7"))
            .await
            .unwrap();
        assert_eq!(
            (line.level, line.function.as_deref()),
            (Level::Warn, Some("tests/fixture"))
        );
        let line = host
            .line("info", of_request("through the crate"))
            .await
            .unwrap();
        assert_eq!(
            (line.level, &line.fields["context"]),
            (Level::Info, &"own-target".into())
        );
    }
}
