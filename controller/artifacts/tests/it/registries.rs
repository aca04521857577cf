use std::time::Duration;

use anyhow::Result;
use base64::Engine as _;
use sha2::{Digest, Sha256};
use wisp_artifacts::{Credentials, Error, FetchOptions, Fetcher, Kind, Package, Reference, Store};

use super::fake::{Fake, answer, hidden, promise};
use super::registry::Registry;

/// A component that can be served, told apart by `number`.
pub(crate) fn component(number: u32) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(component
            (core module $m (memory 1) (func (export "f") (result i32) i32.const {number}))
            (core instance (instantiate $m))
            (instance $i)
            (export "wasi:http/incoming-handler@0.2.4" (instance $i)))"#
    ))
    .unwrap()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

pub(crate) fn fetcher() -> Fetcher {
    Fetcher::new(FetchOptions::default()).unwrap()
}

pub(crate) fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), 64 << 20).unwrap();
    (folder, store)
}

async fn pull(image: &Reference, kind: Kind, credentials: &Credentials) -> Result<Vec<u8>, Error> {
    let (_folder, store) = store();
    let pulled = fetcher()
        .pull(image, kind, credentials, &store, 1 << 20)
        .await?;
    store.read(&pulled.sha256, 1 << 20).await
}

/// Would fail if what is pushed came back differently, or a tag that moved moved what was pinned.
#[tokio::test]
async fn what_is_pushed_is_pulled_by_tag_and_by_digest() -> Result<()> {
    let Some(registry) = Registry::open()? else {
        return Ok(());
    };
    let nobody = Credentials::default();
    let image = registry.image("vision/digits:1.4");
    let first = Package::Component(component(1).into());
    let pushed = fetcher().push(&image, first.clone(), &nobody).await?;
    assert_eq!(pushed.sha256, sha256(&component(1)));
    assert!(!pushed.existed);
    // Again: nothing is sent, and nothing changes.
    let again = fetcher().push(&image, first, &nobody).await?;
    assert!(again.existed);
    assert_eq!(again.manifest, pushed.manifest);

    let (_folder, store) = store();
    let pulled = fetcher()
        .pull(&image, Kind::Component, &nobody, &store, 1 << 20)
        .await?;
    assert_eq!(pulled.manifest, pushed.manifest);
    assert_eq!(pulled.sha256, pushed.sha256);
    assert_eq!(store.read(&pulled.sha256, 1 << 20).await?, component(1));

    let second = Package::Component(component(2).into());
    fetcher().push(&image, second, &nobody).await?;
    let pinned = image.pinned(&pushed.manifest);
    assert_eq!(pull(&pinned, Kind::Component, &nobody).await?, component(1));
    assert_eq!(pull(&image, Kind::Component, &nobody).await?, component(2));
    Ok(())
}

#[tokio::test]
async fn a_model_is_streamed_both_ways() -> Result<()> {
    let Some(registry) = Registry::open()? else {
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("mnist.onnx");
    // More than one chunk.
    let model: Vec<u8> = (0..900_000_u32).map(|byte| (byte % 251) as u8).collect();
    std::fs::write(&file, &model)?;
    let image = registry.image("models/mnist");
    let nobody = Credentials::default();
    let pushed = fetcher()
        .push(&image, Package::Model(file), &nobody)
        .await?;
    assert_eq!(pushed.length, 900_000);
    assert_eq!(pull(&image, Kind::Model, &nobody).await?, model);
    let error = pull(&image, Kind::Component, &nobody).await.unwrap_err();
    assert_eq!(error.reason(), "NotWasm");
    Ok(())
}

/// Would fail if bytes were taken that are not what the manifest, the reference or the limit says.
#[tokio::test]
async fn what_is_wrong_with_an_image_is_named() -> Result<()> {
    let Some(registry) = Registry::open()? else {
        return Ok(());
    };
    let nobody = Credentials::default();
    let image = registry.image("a/b:1");
    let missing = pull(&image, Kind::Component, &nobody).await.unwrap_err();
    assert_eq!(missing.reason(), "NotFound");
    assert_eq!(missing.to_string(), format!("{image} doesn't exist"));

    let package = Package::Component(component(1).into());
    let pushed = fetcher().push(&image, package, &nobody).await?;
    let other = image.pinned(&sha256(b"else"));
    let error = pull(&other, Kind::Component, &nobody).await.unwrap_err();
    assert_eq!(error.reason(), "NotFound");

    let (_folder, store) = store();
    let large = fetcher()
        .pull(&image, Kind::Component, &nobody, &store, 10)
        .await
        .unwrap_err();
    assert_eq!(large.reason(), "TooLarge");

    // The registry's disk lies: the same length, then fewer bytes.
    let mut damaged = component(1);
    damaged[40] ^= 1;
    registry.corrupt(&pushed.sha256, &damaged)?;
    let error = pull(&image, Kind::Component, &nobody).await.unwrap_err();
    assert_eq!(error.reason(), "DigestMismatch");
    assert!(!error.is_transient());
    registry.corrupt(&pushed.sha256, &damaged[..20])?;
    let error = pull(&image, Kind::Component, &nobody).await.unwrap_err();
    assert_eq!(error.reason(), "ImagePullFailed", "{error}");
    assert!(error.is_transient());

    let no_wasm = Package::Component(b"#!/bin/sh".as_slice().into());
    let error = fetcher().push(&image, no_wasm, &nobody).await.unwrap_err();
    assert_eq!(error.reason(), "NotWasm");
    Ok(())
}

/// Would fail if credentials weren't sent, or their absence looked like something else.
#[tokio::test]
async fn a_locked_registry_lets_in_who_has_the_password() -> Result<()> {
    let Some(registry) = Registry::locked()? else {
        return Ok(());
    };
    let image = registry.image("a/b:1");
    let package = Package::Component(component(1).into());
    let with = |password: &str| {
        let auth = base64::engine::general_purpose::STANDARD.encode(format!("u:{password}"));
        let mut credentials = Credentials::default();
        let config = format!(
            r#"{{"auths": {{"{}": {{"auth": "{auth}"}}}}}}"#,
            registry.address()
        );
        credentials
            .add_docker_config(config.as_bytes())
            .map(|()| credentials)
    };
    for nobody in [Credentials::default(), with("wrong")?] {
        let error = fetcher()
            .push(&image, package.clone(), &nobody)
            .await
            .unwrap_err();
        assert_eq!(error.reason(), "Unauthorized");
        let error = pull(&image, Kind::Component, &nobody).await.unwrap_err();
        assert_eq!(error.reason(), "Unauthorized");
        assert!(!error.is_transient());
        assert!(error.to_string().contains(registry.address()), "{error}");
    }
    fetcher().push(&image, package, &with("s3cret")?).await?;
    let pulled = pull(&image, Kind::Component, &with("s3cret")?).await?;
    assert_eq!(pulled, component(1));
    // The second login is tried when the first is refused.
    let mut both = with("wrong")?;
    both.add(registry.address(), "u", "s3cret");
    pull(&image, Kind::Component, &both).await?;
    Ok(())
}

/// Would fail if a manifest that names what others have, by a digest that a Function's status tells, were enough to get it:
/// on a registry of whoever wrote it, or in a repository of theirs on the same one.
#[tokio::test]
async fn what_is_stored_is_given_to_nobody_who_could_not_pull_it() -> Result<()> {
    let Some(registry) = Registry::open()? else {
        return Ok(());
    };
    let (wasm, nobody) = (component(1), Credentials::default());
    let private = registry.image("private/secret:1");
    let package = Package::Component(wasm.clone().into());
    fetcher().push(&private, package.clone(), &nobody).await?;
    let (folder, store) = store();
    let pull = async |image: &Reference, store: &Store| {
        fetcher()
            .pull(image, Kind::Component, &nobody, store, 1 << 20)
            .await
    };
    let pulled = pull(&private, &store).await?;

    // A registry that would say anything, and has nothing.
    let (body, length) = (manifest(&wasm), wasm.len());
    let liar = Fake::new(move |head, _| match head {
        head if head.starts_with("HEAD ") => promise("200 OK", "", b"", length),
        head => serve(head, &body, answer("404 x", "", b"")),
    })
    .await;
    let image: Reference = format!("{}/a/b:1", liar.address).parse()?;
    let error = pull(&image, &store).await.unwrap_err();
    assert_eq!(error.reason(), "NotFound", "{error}");

    // The registry itself takes a manifest of blobs that the repository lacks from nobody, so that another one stands in for
    // it here: it gave the blob from one repository, and has none of it in the other.
    let (body, given) = (manifest(&wasm), wasm.clone());
    let shared = Fake::new(move |head, _| match head {
        head if head.contains("/theirs/") => serve(head, &body, answer("404 x", "", b"")),
        head if head.starts_with("HEAD ") => promise("200 OK", "", b"", length),
        head => serve(head, &body, answer("200 OK", "", &given)),
    })
    .await;
    let image = |name: &str| format!("{}/{name}:1", shared.address).parse::<Reference>();
    assert_eq!(pull(&image("ours/a")?, &store).await?.sha256, pulled.sha256);
    let error = pull(&image("theirs/a")?, &store).await.unwrap_err();
    assert_eq!(error.reason(), "NotFound", "{error}");
    let before = shared.seen().len();
    pull(&image("ours/b")?, &store).await?;
    let asked = shared.seen().split_off(before);
    assert!(
        asked[1].starts_with("HEAD ") && asked.len() == 2,
        "{asked:?}"
    );

    // On the real one: who has it says so once, and nobody is asked for the blob again.
    let copy = registry.image("public/copy:1");
    fetcher().push(&copy, package, &nobody).await?;
    pull(&copy, &store).await?;
    registry.corrupt(&pulled.sha256, b"damaged")?;
    let store = Store::open(folder.path(), 64 << 20)?;
    for image in [&private, &copy] {
        assert_eq!(pull(image, &store).await?.sha256, pulled.sha256);
    }
    Ok(())
}

/// Would fail if a registry that is down looked like an image that isn't there.
#[tokio::test]
async fn a_registry_that_is_down_is_worth_another_try() -> Result<()> {
    let Some(registry) = Registry::open()? else {
        return Ok(());
    };
    let image = registry.image("a/b:1");
    registry.stop()?;
    let nobody = Credentials::default();
    let error = pull(&image, Kind::Component, &nobody).await.unwrap_err();
    assert_eq!(error.reason(), "RegistryUnavailable");
    assert!(error.is_transient());
    assert!(error.to_string().contains("refused"), "{error}");
    Ok(())
}

/// The manifest and layer of a component, and where to find them.
fn serve(head: &str, manifest: &[u8], layer: Vec<u8>) -> Vec<u8> {
    if head.contains("/manifests/") {
        answer("200 OK", "", manifest)
    } else {
        layer
    }
}

fn manifest(component: &[u8]) -> Vec<u8> {
    format!(
        r#"{{"schemaVersion":2,"layers":[{{"mediaType":"application/vnd.wasm.content.layer.v1+wasm","digest":"sha256:{}","size":{}}}]}}"#,
        sha256(component),
        component.len()
    )
    .into_bytes()
}

async fn pull_fake(fake: &Fake, options: FetchOptions) -> Error {
    let (_folder, store) = store();
    let image = format!("{}/a/b:1", fake.address).parse().unwrap();
    let mut credentials = Credentials::default();
    credentials.add(&fake.address.to_string(), "u", "s3cret");
    Fetcher::new(options)
        .unwrap()
        .pull(&image, Kind::Component, &credentials, &store, 1 << 20)
        .await
        .unwrap_err()
}

/// Would fail if a registry could make this process wait for ever, read without end, or believe half a file.
#[tokio::test]
async fn a_registry_that_misbehaves_is_survived() {
    let wasm = component(1);
    let half = promise("200 OK", "", &wasm[..wasm.len() / 2], wasm.len());
    let (body, given) = (manifest(&wasm), half.clone());
    let fake = Fake::new(move |head, _| serve(head, &body, given.clone())).await;
    let error = pull_fake(&fake, FetchOptions::default()).await;
    assert!(matches!(error, Error::Truncated { .. }), "{error}");
    assert!(error.is_transient());

    // More than the manifest says.
    let more = answer("200 OK", "", &[wasm.clone(), vec![0; 9]].concat());
    let body = manifest(&wasm);
    let fake = Fake::new(move |head, _| serve(head, &body, more.clone())).await;
    assert_eq!(
        pull_fake(&fake, FetchOptions::default()).await.reason(),
        "TooLarge"
    );

    // A manifest without end.
    let fake = Fake::new(|_, _| answer("200 OK", "", &vec![b' '; 5 << 20])).await;
    let error = pull_fake(&fake, FetchOptions::default()).await;
    assert_eq!(error.reason(), "ImagePullFailed", "{error}");

    for (given, reason) in [
        (answer("200 OK", "", b"<html>"), "ImagePullFailed"),
        (answer("200 OK", "", br#"{"schemaVersion":1}"#), "ImagePullFailed"),
        (answer("200 OK", "", br#"{"schemaVersion":2,"layers":[{"mediaType":"application/wasm","digest":"sha512:00","size":1}]}"#), "ImagePullFailed"),
        (answer("418 x", "", br#"{"errors":[{"code":"TEA","message":"pot\u0007"}]}"#), "ImagePullFailed"),
        (answer("500 x", "", b""), "RegistryUnavailable"),
        (answer("429 x", "", b""), "RegistryUnavailable"),
        (answer("403 x", "", b""), "Unauthorized"),
        (b"SSH-2.0\r\n".to_vec(), "RegistryUnavailable"),
        (b"".to_vec(), "RegistryUnavailable"),
    ] {
        let fake = Fake::new(move |_, _| given.clone()).await;
        let error = pull_fake(&fake, FetchOptions::default()).await;
        assert_eq!(error.reason(), reason, "{error}");
    }

    // One that is silent.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let image = format!("{}/a:1", listener.local_addr().unwrap());
    let (_folder, store) = store();
    let options = FetchOptions {
        silence: Duration::from_millis(100),
        ..FetchOptions::default()
    };
    let error = Fetcher::new(options)
        .unwrap()
        .pull(
            &image.parse().unwrap(),
            Kind::Component,
            &Credentials::default(),
            &store,
            1,
        )
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "RegistryUnavailable");
}

/// Would fail if tokens weren't asked for as registries want it, or a token server that is down looked like a password
/// that is wrong.
#[tokio::test]
async fn a_token_is_fetched_where_the_registry_wants_one() {
    let wasm = component(1);
    let body = manifest(&wasm);
    let fake = Fake::new(move |head, address| {
        if head.starts_with("GET /token?") {
            let basic = "authorization: Basic dTpzM2NyZXQ=";
            assert!(head.contains("scope=repository%3Aa%2Fb%3Apull"), "{head}");
            assert!(head.contains("service=test"), "{head}");
            assert!(
                head.to_lowercase().contains(&basic.to_lowercase()),
                "{head}"
            );
            return answer("200 OK", "", br#"{"access_token": "t0ken"}"#);
        }
        if !head.contains("Bearer t0ken") {
            let challenge = format!(
                "www-authenticate: Bearer realm=\"http://{address}/token\",service=\"test\"\r\n"
            );
            return answer("401 no", &challenge, b"");
        }
        serve(head, &body, answer("200 OK", "", &wasm))
    })
    .await;
    let (_folder, store) = store();
    let image = format!("{}/a/b:1", fake.address).parse().unwrap();
    let mut credentials = Credentials::default();
    credentials.add(&fake.address.to_string(), "u", "s3cret");
    fetcher()
        .pull(&image, Kind::Component, &credentials, &store, 1 << 20)
        .await
        .unwrap();
    // Refused, token, manifest, layer.
    assert_eq!(fake.seen().len(), 4);

    for (status, reason) in [
        ("503 x", "RegistryUnavailable"),
        ("401 x", "Unauthorized"),
        ("400 x", "Unauthorized"),
    ] {
        let fake = Fake::new(move |head, address| {
            if head.starts_with("GET /token?") {
                return answer(status, "", b"");
            }
            let challenge =
                format!("www-authenticate: Bearer realm=\"http://{address}/token\"\r\n");
            answer("401 no", &challenge, b"")
        })
        .await;
        let error = pull_fake(&fake, FetchOptions::default()).await;
        assert_eq!(error.reason(), reason, "{error}");
    }
}

/// Would fail if who a registry redirects to were believed where logins go to.
#[tokio::test]
async fn nobody_else_says_where_credentials_go() {
    let wasm = component(1);
    let thief = Fake::new(|_, _| answer("200 OK", "", br#"{"token":"t"}"#)).await;
    let realm = format!(
        "www-authenticate: Bearer realm=\"http://localhost:{}/token\"\r\n",
        thief.address.port()
    );
    let storage = Fake::new(move |_, _| answer("401 no", &realm, b"")).await;
    let location = format!(
        "location: http://localhost:{}/blob\r\n",
        storage.address.port()
    );
    let body = manifest(&wasm);
    let registry =
        Fake::new(move |head, _| serve(head, &body, answer("307 x", &location, b""))).await;
    let image = format!("{}/a/b:1", registry.address).parse().unwrap();
    let mut credentials = Credentials::default();
    credentials.add(&registry.address.to_string(), "u", "s3cret");
    let error = pull(&image, Kind::Component, &credentials).await;
    assert_eq!(error.unwrap_err().reason(), "Unauthorized");
    assert_eq!(thief.seen(), Vec::<String>::new());
}

/// Would fail if a login that isn't for an image kept the one that is from being tried, where the registry tells nobody that there
/// is more than they may see.
#[tokio::test]
async fn who_may_see_an_image_is_found_among_the_logins() {
    let wasm = component(1);
    let body = manifest(&wasm);
    let registry = Fake::new(move |head, _| {
        hidden(head).unwrap_or_else(|| serve(head, &body, answer("200 OK", "", &wasm)))
    })
    .await;
    let host = registry.address.to_string();
    let image = format!("{host}/a/b:1").parse().unwrap();
    let mut credentials = Credentials::default();
    credentials.add(&host, "u", "wrong");
    let refused = pull(&image, Kind::Component, &credentials).await;
    assert_eq!(refused.unwrap_err().reason(), "NotFound");
    credentials.add(&host, "u", "s3cret");
    let pulled = pull(&image, Kind::Component, &credentials).await.unwrap();
    assert_eq!(pulled, component(1));
}

/// Would fail if the page of whoever stands before a registry, which has any length, were its word that another repository has what
/// this one gave.
#[tokio::test]
async fn a_registry_says_that_it_has_a_file_by_its_length() {
    let wasm = component(1);
    for (length, gets) in [(wasm.len(), 1), (wasm.len() + 1, 2)] {
        let (body, given) = (manifest(&wasm), wasm.clone());
        let registry = Fake::new(move |head, _| {
            if head.starts_with("HEAD ") {
                return promise("200 OK", "", b"", length);
            }
            serve(head, &body, answer("200 OK", "", &given))
        })
        .await;
        let (_folder, store) = store();
        for repository in ["a/b", "c/d"] {
            let image = format!("{}/{repository}:1", registry.address);
            let (image, nobody) = (image.parse().unwrap(), Credentials::default());
            let pulled = fetcher()
                .pull(&image, Kind::Component, &nobody, &store, 1 << 20)
                .await
                .unwrap();
            assert_eq!(pulled.sha256, sha256(&wasm));
        }
        let is_blob = |head: &&String| head.starts_with("GET ") && head.contains("/blobs/");
        assert_eq!(registry.seen().iter().filter(is_blob).count(), gets);
    }
}

/// Would fail if a login followed a redirect to another host, as blobs do.
#[tokio::test]
async fn credentials_stay_with_their_registry() {
    let wasm = component(1);
    let given = wasm.clone();
    let storage = Fake::new(move |_, _| answer("200 OK", "", &given)).await;
    let location = format!(
        "location: http://localhost:{}/blob\r\n",
        storage.address.port()
    );
    let body = manifest(&wasm);
    let registry = Fake::new(move |head, _| {
        if !head.to_lowercase().contains("authorization: basic") {
            return answer("401 no", "www-authenticate: Basic realm=\"x\"\r\n", b"");
        }
        serve(head, &body, answer("307 x", &location, b""))
    })
    .await;
    let (_folder, store) = store();
    let image = format!("{}/a/b:1", registry.address).parse().unwrap();
    let mut credentials = Credentials::default();
    credentials.add(&registry.address.to_string(), "u", "s3cret");
    fetcher()
        .pull(&image, Kind::Component, &credentials, &store, 1 << 20)
        .await
        .unwrap();
    let [head] = <[String; 1]>::try_from(storage.seen()).unwrap();
    assert!(!head.to_lowercase().contains("authorization"), "{head}");
}
