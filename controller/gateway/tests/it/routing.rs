use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use http::{Request, StatusCode};
use wisp_contract::assignment::Key;
use wisp_gateway::{Endpoint, Namespaces, Options, UnknownNamespace};

use crate::support::{Bed, Never, Upstream, echoed, empty, endpoint, full, http2, id, raw, route};

#[tokio::test]
async fn hosts_lead_to_functions_whatever_their_case_and_port() {
    let (vision, other) = (
        Upstream::saying("digits").await,
        Upstream::saying("other").await,
    );
    let bed = Bed::new();
    assert!(
        bed.gateway
            .insert_route(route("vision/digits", &["Digits.Example.com"]))
            .is_empty()
    );
    bed.gateway.insert_route(route("x/other", &[]));
    bed.gateway
        .insert_endpoint(&id("vision/digits"), &endpoint(vision.address, 8));
    bed.gateway
        .insert_endpoint(&id("x/other"), &endpoint(other.address, 8));
    for (host, path, expected) in [
        ("digits.example.com", "/x/other/", "digits"),
        ("DIGITS.example.COM:8787", "/", "digits"),
        ("digits.example.com.", "/", "digits"),
        ("digits.vision.localhost:8787", "/", "digits"),
        ("127.0.0.1:8787", "/vision/digits/deep/path", "digits"),
        ("127.0.0.1", "/x/other", "other"),
    ] {
        let answer = bed
            .send(
                Request::get(path)
                    .header("host", host)
                    .body(empty())
                    .unwrap(),
            )
            .await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (StatusCode::OK, expected),
            "{host} {path}"
        );
    }
}

#[tokio::test]
async fn what_leads_nowhere_is_named() {
    let bed = Bed::new();
    bed.gateway.insert_route(route("a/b", &[]));
    for (path, part) in [
        ("/no/such/thing", "no function `no/such`"),
        ("/", "the path `/` names none"),
        ("/a", "`/a`"),
        ("//b/", "`//b/`"),
        ("/a/bc/", "`a/bc`"),
    ] {
        let answer = bed.get(path).await;
        assert_eq!(
            (answer.status, answer.reason().as_str()),
            (StatusCode::NOT_FOUND, "no-such-function"),
            "{path}"
        );
        assert!(
            answer.json()["detail"].as_str().unwrap().contains(part),
            "{}",
            answer.body
        );
    }
}

#[tokio::test]
async fn the_function_sees_its_own_path_and_where_the_request_came_from() {
    let upstream = Upstream::echo().await;
    let bed = Bed::serving(&upstream);
    for (path, seen) in [
        ("/a/b", "/"),
        ("/a/b/", "/"),
        ("/a/b?x=1", "/?x=1"),
        ("/a/b/c/../d%2F?y", "/c/../d%2F?y"),
        ("/a/b//evil.example/x", "//evil.example/x"),
    ] {
        assert_eq!(bed.get(path).await.json()["uri"], seen, "{path}");
    }
    let request = Request::post("/a/b/x")
        .header("host", "gateway.example:80")
        .header("x-forwarded-for", "6.6.6.6")
        .header("x-forwarded-proto", "https")
        .header("x-forwarded-user", "root")
        .header("forwarded", "for=6.6.6.6")
        .header("wisp-key", "stolen")
        .header("connection", "x-secret, close, host")
        .header("x-secret", "1")
        .header("keep-alive", "timeout=5")
        .header("te", "trailers, deflate")
        .header("upgrade", "websocket")
        .header("x-request-id", "mine-1")
        .header("x-kept", "yes")
        .body(full("hello"))
        .unwrap();
    let answer = bed.send(request).await;
    let json = answer.json();
    assert_eq!(
        (&json["method"], &json["body"]),
        (&"POST".into(), &"hello".into())
    );
    for gone in [
        "x-secret",
        "keep-alive",
        "upgrade",
        "wisp-key",
        "forwarded",
        "x-forwarded-user",
        "connection",
        "transfer-encoding",
    ] {
        assert!(echoed(&json, gone).is_empty(), "{gone}: {json}");
    }
    for (name, value) in [
        ("host", "gateway.example:80"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "gateway.example:80"),
        ("x-forwarded-prefix", "/a/b"),
        ("te", "trailers"),
        ("x-request-id", "mine-1"),
        ("x-kept", "yes"),
        ("content-length", "5"),
    ] {
        assert_eq!(echoed(&json, name), [value], "{name}");
    }
    assert_eq!(echoed(&json, "traceparent")[0].len(), 55);
    assert_eq!(answer.header("x-request-id"), "mine-1");
    assert_eq!(
        answer.header("server-timing"),
        "queue;dur=0, activate;dur=0"
    );
}

/// Would fail if such a request reached its replica without a host: hosts of functions refuse that.
#[tokio::test]
async fn a_request_without_a_host_goes_on_with_its_functions_name() {
    let upstream = Upstream::echo().await;
    let bed = Bed::serving(&upstream);
    for head in [
        "GET /a/b/x HTTP/1.0\r\n\r\n",
        "GET /a/b/x HTTP/1.0\r\nHost:\r\n\r\n",
        "GET /a/b/x HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n",
    ] {
        let answer = raw(bed.address, head.as_bytes()).await;
        let json = answer
            .find('{')
            .and_then(|at| answer.get(at..answer.rfind('}')? + 1));
        let json = serde_json::from_str(json.unwrap_or_default());
        let json: serde_json::Value = json.unwrap_or_else(|_| panic!("{head}: {answer}"));
        assert_eq!(
            (echoed(&json, "host"), &json["uri"]),
            (vec!["b.a"], &"/x".into()),
            "{head}"
        );
    }
}

#[tokio::test]
async fn each_replica_gets_its_own_key() {
    let upstream = Upstream::echo().await;
    let bed = Bed::new();
    bed.gateway.insert_route(route("a/b", &[]));
    let key = Some(Key("secret-1".into()));
    bed.gateway.insert_endpoint(
        &id("a/b"),
        &Endpoint {
            key,
            ..endpoint(upstream.address, 8)
        },
    );
    let request = Request::get("/a/b/")
        .header("wisp-key", "guess")
        .body(empty())
        .unwrap();
    assert_eq!(
        echoed(&bed.send(request).await.json(), "wisp-key"),
        ["secret-1"]
    );
}

#[tokio::test]
async fn what_the_host_says_of_time_is_kept_and_hop_by_hop_headers_are_not() {
    let upstream = Upstream::new(|_| async {
        http::Response::builder()
            .header("server-timing", "instance;dur=0.05, nn;dur=1.2")
            .header("x-request-id", "wrong")
            .header("keep-alive", "timeout=5")
            .header("wisp-key", "leak")
            .body(full("x"))
            .unwrap()
    })
    .await;
    let answer = Bed::serving(&upstream).get("/a/b/").await;
    assert_eq!(
        answer.header("server-timing"),
        "queue;dur=0, activate;dur=0, instance;dur=0.05, nn;dur=1.2"
    );
    assert_ne!(answer.header("x-request-id"), "wrong");
    assert!(!answer.headers.contains_key("keep-alive") && !answer.headers.contains_key("wisp-key"));
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_understood() {
    let upstream = Upstream::echo().await;
    let bed = Bed::serving(&upstream);
    let mut sender = http2(bed.address).await;
    let ask = |path: &str| {
        Request::post(format!("http://example.org:99{path}"))
            .body(full("over two"))
            .unwrap()
    };
    for path in ["/a/b/x?y=1", "/a/b/z"] {
        sender.ready().await.unwrap();
        let response = sender.send_request(ask(path)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let body = http_body_util::BodyExt::collect(response.into_body())
            .await
            .unwrap()
            .to_bytes();
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(json["uri"], path.strip_prefix("/a/b").unwrap());
        assert_eq!(
            (echoed(&json, "host"), &json["body"]),
            (vec!["example.org:99"], &"over two".into())
        );
    }
}

/// Would fail if a problem came with a body where only its head was asked for, which breaks a stream of HTTP/2, or without the
/// length that it would have.
#[tokio::test]
async fn a_problem_has_no_body_where_its_head_is_asked_for() {
    let bed = Bed::new();
    let ask = |method: &str| {
        let request = Request::builder().method(method).header("host", "x");
        // So that the problem is as long each time.
        let request = request
            .header("x-request-id", "one")
            .uri("http://x/no/such/");
        request.body(empty()).unwrap()
    };
    let mut first = crate::support::Client::connect(bed.address).await;
    let mut second = http2(bed.address).await;
    let mut lengths = Vec::new();
    for method in ["HEAD", "GET"] {
        for response in [
            first.sender.send_request(ask(method)).await.unwrap(),
            second.send_request(ask(method)).await.unwrap(),
        ] {
            let version = response.version();
            let answer = crate::support::read(response).await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{version:?}");
            assert_eq!(answer.header("content-type"), "application/problem+json");
            lengths.push((answer.header("content-length").parse(), answer.body.len()));
        }
    }
    let whole = lengths[2].1;
    assert!(whole > 0);
    assert_eq!(lengths, [0, 0, whole, whole].map(|sent| (Ok(whole), sent)));
}

#[tokio::test]
async fn the_older_of_two_functions_keeps_a_host_and_the_younger_inherits_it() {
    let (old, young) = (
        Upstream::saying("old").await,
        Upstream::saying("young").await,
    );
    let bed = Bed::new();
    let claim = |name, created| wisp_gateway::FunctionRoute {
        created,
        ..route(name, &["h.example"])
    };
    assert!(bed.gateway.insert_route(claim("a/young", 200)).is_empty());
    assert!(
        bed.gateway.insert_route(claim("a/old", 100)).is_empty(),
        "the older takes it"
    );
    assert_eq!(
        bed.gateway.insert_route(claim("a/young", 200)),
        ["h.example"],
        "and the younger is told"
    );
    bed.gateway
        .insert_endpoint(&id("a/old"), &endpoint(old.address, 8));
    bed.gateway
        .insert_endpoint(&id("a/young"), &endpoint(young.address, 8));
    let ask = || {
        bed.send(
            Request::get("/")
                .header("host", "h.example")
                .body(empty())
                .unwrap(),
        )
    };
    assert_eq!(ask().await.body, "old");
    bed.gateway.remove_route(&id("a/old"));
    assert_eq!(ask().await.body, "young");
    bed.gateway.insert_route(wisp_gateway::FunctionRoute {
        created: 200,
        ..route("a/young", &[])
    });
    assert_eq!(
        ask().await.status,
        StatusCode::NOT_FOUND,
        "a host that is given up leads nowhere"
    );
}

#[tokio::test]
async fn connections_to_a_replica_are_kept() {
    let upstream = Upstream::saying("x").await;
    let bed = Bed::serving(&upstream);
    let mut client = crate::support::Client::connect(bed.address).await;
    for _ in 0..20 {
        assert_eq!(client.get("/a/b/").await.body, "x");
    }
    assert_eq!(
        upstream
            .connections
            .load(std::sync::atomic::Ordering::SeqCst),
        1
    );
}

#[tokio::test]
async fn nobody_can_claim_the_name_that_another_function_always_has() {
    let (own, other) = (
        Upstream::saying("own").await,
        Upstream::saying("other").await,
    );
    let options = Options {
        domains: vec!["example.com".to_owned(), "svc".to_owned()],
        reserved_hosts: vec!["wisp-gateway.wisp-system".to_owned()],
        ..Options::default()
    };
    let bed = Bed::with(Arc::new(Never), options);
    // Older than the function whose names it claims.
    let mut thief = route(
        "evil/thief",
        &[
            "digits.vision.example.com",
            "digits.vision.svc",
            "wisp-gateway.wisp-system",
            "localhost",
            "127.0.0.1",
        ],
    );
    thief.created = -1;
    bed.gateway.insert_route(thief);
    bed.gateway.insert_route(route("vision/digits", &[]));
    bed.gateway
        .insert_endpoint(&id("evil/thief"), &endpoint(other.address, 64));
    bed.gateway
        .insert_endpoint(&id("vision/digits"), &endpoint(own.address, 64));
    for (host, path, expected) in [
        ("digits.vision.example.com", "/", "own"),
        ("digits.vision.svc:80", "/", "own"),
        // The gateway's own names lead where the path does.
        ("wisp-gateway.wisp-system", "/vision/digits/", "own"),
        ("localhost:8787", "/vision/digits/", "own"),
        ("127.0.0.1:8787", "/vision/digits/", "own"),
    ] {
        let request = Request::get(path).header("host", host);
        let answer = bed.send(request.body(empty()).unwrap()).await;
        assert_eq!(answer.body, expected, "{host}");
    }
}

/// Clients are of the namespaces that these say, one after the other; nobody knows what isn't said.
struct Said(Mutex<Vec<Result<Option<&'static str>, UnknownNamespace>>>);

impl Namespaces for Said {
    fn of(&self, client: IpAddr) -> BoxFuture<'_, Result<Option<Arc<str>>, UnknownNamespace>> {
        assert!(client.is_loopback());
        let next = self
            .0
            .lock()
            .unwrap()
            .pop()
            .expect("it was asked too often");
        Box::pin(async move { next.map(|namespace| namespace.map(Arc::from)) })
    }
}

/// A gateway whose clients are of namespaces in this order, with `hello` in `shop` and in `bank`.
async fn neighbourhood(
    said: &[Result<Option<&'static str>, UnknownNamespace>],
) -> (Bed, [Upstream; 3]) {
    let upstreams = [
        Upstream::saying("shop").await,
        Upstream::saying("bank").await,
        Upstream::saying("claimed").await,
    ];
    let options = Options {
        reserved_hosts: vec!["gateway".to_owned()],
        namespaces: Some(Arc::new(Said(Mutex::new(
            said.iter().rev().copied().collect(),
        )))),
        ..Options::default()
    };
    let bed = Bed::with(Arc::new(Never), options);
    let names = ["shop/hello", "bank/hello", "a/claims"];
    for (name, upstream) in names.into_iter().zip(&upstreams) {
        let hosts: &[&str] = match name {
            "a/claims" => &["hello", "single"],
            _ => &[],
        };
        bed.gateway.insert_route(route(name, hosts));
        bed.gateway
            .insert_endpoint(&id(name), &endpoint(upstream.address, 8));
    }
    (bed, upstreams)
}

async fn asked(
    client: &mut crate::support::Client,
    host: &str,
    path: &str,
) -> (StatusCode, String) {
    let request = Request::get(path).header("host", host);
    let response = client
        .sender
        .send_request(request.body(empty()).unwrap())
        .await
        .unwrap();
    let answer = crate::support::read(response).await;
    let said = match answer.status {
        StatusCode::OK => answer.body,
        _ => answer.reason(),
    };
    (answer.status, said)
}

/// Would fail if a name alone led to another namespace's function, or were looked up for each request of a connection.
#[tokio::test]
async fn a_name_alone_is_the_function_of_the_clients_namespace() {
    let (bed, _upstreams) = neighbourhood(&[Ok(Some("shop")), Ok(Some("bank"))]).await;
    bed.gateway.insert_route(route("shop/gateway", &[]));
    for expected in ["shop", "bank"] {
        let mut client = crate::support::Client::connect(bed.address).await;
        for (host, path, said) in [
            ("hello", "/", expected),
            ("Hello.:80", "/bank/hello/", expected),
            // Names that aren't a function's alone are who they were.
            ("hello.shop.localhost", "/", "shop"),
            ("single", "/", "claimed"),
            ("other", "/bank/hello/", "bank"),
            ("gateway", "/shop/hello/", "shop"),
        ] {
            assert_eq!(
                asked(&mut client, host, path).await,
                (StatusCode::OK, said.to_owned()),
                "{host}{path} in {expected}"
            );
        }
    }
}

/// Would fail if who is nowhere, or of another namespace, got somebody's function, also that of who claims the name as a host;
/// or if what could not be learnt once were never asked again.
#[tokio::test]
async fn a_name_alone_is_nobodys_elsewhere() {
    let said = [
        Ok(None),
        Ok(None),
        Err(UnknownNamespace),
        Ok(Some("lonely")),
    ];
    let (bed, _upstreams) = neighbourhood(&said).await;
    let mut client = crate::support::Client::connect(bed.address).await;
    let mut ask = async |path| asked(&mut client, "hello", path).await;
    // Also not of who claims the host.
    let nobodys = (StatusCode::NOT_FOUND, "no-such-function".to_owned());
    let shop = (StatusCode::OK, "shop".to_owned());
    assert_eq!(ask("/").await, nobodys);
    assert_eq!(ask("/shop/hello/").await, shop);
    let unknown = "namespace-unknown".to_owned();
    let expected = (StatusCode::SERVICE_UNAVAILABLE, unknown);
    assert_eq!(ask("/").await, expected);
    assert_eq!(ask("/").await, nobodys);
    assert_eq!(ask("/shop/hello/").await, shop);
}

/// Would fail if a function that is gone kept its name from who claims it.
#[tokio::test]
async fn a_name_that_no_function_has_asks_for_no_namespace() {
    let (bed, _upstreams) = neighbourhood(&[]).await;
    for namespace in ["shop", "bank"] {
        bed.gateway.remove_route(&id(&format!("{namespace}/hello")));
    }
    let mut client = crate::support::Client::connect(bed.address).await;
    assert_eq!(
        asked(&mut client, "hello", "/").await,
        (StatusCode::OK, "claimed".to_owned())
    );
}
