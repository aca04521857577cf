use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wisp_contract::FunctionId;
use wisp_load::FakeCluster;

use crate::support::{Gateway, Replica, ask, open, until};

/// A certificate of its own for `digits.test`.
struct Certificate {
    certificate: String,
    key: String,
    der: CertificateDer<'static>,
}

fn certificate() -> Certificate {
    let made = rcgen::generate_simple_self_signed(vec!["digits.test".to_owned()]).unwrap();
    Certificate {
        certificate: made.cert.pem(),
        key: made.signing_key.serialize_pem(),
        der: made.cert.der().clone(),
    }
}

/// Connects as one who trusts that certificate alone; `None` where the server has another.
async fn connect(
    address: SocketAddr,
    trusted: &Certificate,
    protocol: &[u8],
) -> Option<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("digits.test").unwrap();
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream);
    connected.await.ok()
}

async fn cluster() -> (FakeCluster, Replica) {
    let function: FunctionId = "vision/digits".parse().unwrap();
    let cluster = FakeCluster::start().await.unwrap();
    let spec = json!({"component": {"image": "digits:1"}, "hosts": ["digits.test"]});
    cluster.put_function(&function, &spec);
    let replica = Replica::start(&cluster, &function).await;
    cluster.put_pod(&function, "digits-1", replica.address, true);
    (cluster, replica)
}

fn put(cluster: &FakeCluster, certificate: &[u8], key: &[u8]) {
    cluster.put_secret("tls", &[("tls.crt", certificate), ("tls.key", key)]);
}

#[tokio::test]
async fn a_new_certificate_of_the_secret_is_used_and_no_connection_breaks() {
    let (cluster, _replica) = cluster().await;
    let (old, new) = (certificate(), certificate());
    put(&cluster, old.certificate.as_bytes(), old.key.as_bytes());
    let options = ["--https", "127.0.0.1:0", "--tls-secret", "tls"];
    let gateway = Gateway::start(&cluster, &options).await;
    let https = gateway.https.unwrap();

    let stream = connect(https, &old, b"http/1.1").await.unwrap();
    let mut kept = open(stream).await;
    let answer = ask(&mut kept, "digits.test", "/").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.json()["x-forwarded-proto"], "https");

    // What can't be used changes nothing.
    put(&cluster, new.certificate.as_bytes(), old.key.as_bytes());
    until(async || {
        let metrics = gateway.health("/metrics").await.body;
        metrics.contains("wisp_gateway_certificates_total{outcome=\"refused\"} 1")
    })
    .await;
    assert!(connect(https, &old, b"http/1.1").await.is_some());

    put(&cluster, new.certificate.as_bytes(), new.key.as_bytes());
    until(async || connect(https, &new, b"http/1.1").await.is_some()).await;
    assert!(connect(https, &old, b"http/1.1").await.is_none());
    let answer = ask(&mut kept, "digits.test", "/").await;
    assert_eq!(answer.status, StatusCode::OK, "who was connected still is");
    // Plain HTTP is beside it.
    let plain = gateway.get("digits.test", "/").await;
    assert_eq!(plain.json()["x-forwarded-proto"], "http");
}

#[tokio::test]
async fn files_are_read_and_http2_is_spoken() {
    let (cluster, _replica) = cluster().await;
    let certificate = certificate();
    let (crt, key) = (cluster.folder().join("crt"), cluster.folder().join("key"));
    std::fs::write(&crt, &certificate.certificate).unwrap();
    std::fs::write(&key, &certificate.key).unwrap();
    let options = [
        "--https",
        "127.0.0.1:0",
        "--tls-certificate",
        crt.to_str().unwrap(),
        "--tls-key",
        key.to_str().unwrap(),
    ];
    let gateway = Gateway::start(&cluster, &options).await;
    let stream = connect(gateway.https.unwrap(), &certificate, b"h2").await;
    let io = hyper_util::rt::TokioIo::new(stream.unwrap());
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("https://digits.test/");
    let request = request.body(http_body_util::Empty::<bytes::Bytes>::new());
    let answer = sender.send_request(request.unwrap()).await.unwrap();
    let answer = crate::support::read(answer).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.json()["x-forwarded-proto"], "https");
}
