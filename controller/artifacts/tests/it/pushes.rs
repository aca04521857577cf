use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use wisp_artifacts::{Credentials, Error, FetchOptions, Fetcher, Package, Pushed};

use super::fake::{Fake, Reading, answer};
use super::registries::{component, fetcher};

/// A registry that has nothing and takes everything.
fn take(head: &str, address: SocketAddr) -> Vec<u8> {
    match head.split(' ').next() {
        Some("HEAD") => answer("404 x", "", b""),
        Some("POST") => {
            let location = format!("location: http://{address}/upload?state=1\r\n");
            answer("202 x", &location, b"")
        }
        _ => answer("201 x", "", b""),
    }
}

fn is_upload(head: &str) -> bool {
    head.starts_with("PUT /upload?state=1&digest=sha256")
}

/// One whose silence is noticed soon.
fn impatient(storing: Duration) -> Fetcher {
    Fetcher::new(FetchOptions {
        silence: Duration::from_millis(500),
        storing,
        ..FetchOptions::default()
    })
    .unwrap()
}

async fn push(fetcher: &Fetcher, fake: &Fake, package: Package) -> Result<Pushed, Error> {
    let image = format!("{}/a/b:1", fake.address).parse().unwrap();
    let mut credentials = Credentials::default();
    credentials.add(&fake.address.to_string(), "u", "s3cret");
    fetcher.push(&image, package, &credentials).await
}

/// A model that doesn't fit into what two sockets hold.
fn large(folder: &Path) -> Package {
    let path = folder.join("large.onnx");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(64 << 20).unwrap();
    Package::Model(path)
}

/// Would fail if a registry had to answer an upload within the time that it may be silent: it can't before it has all.
#[tokio::test]
async fn an_upload_is_answered_once_it_is_stored() {
    let pause = |head: &str| match is_upload(head) {
        true => Reading::Later(Duration::from_millis(1500)),
        false => Reading::All,
    };
    let fake = Fake::reading(take, pause).await;
    let folder = tempfile::tempdir().unwrap();
    let fetcher = impatient(Duration::from_secs(300));
    push(&fetcher, &fake, large(folder.path())).await.unwrap();
    let uploads = fake.seen().iter().filter(|head| is_upload(head)).count();
    // The model and its configuration.
    assert_eq!(uploads, 2);
}

/// Would fail if a push waited for ever for a registry that hangs, or didn't say where it got stuck.
#[tokio::test]
async fn a_registry_that_stops_reading_or_never_answers_is_told() {
    let hang = |head: &str| match is_upload(head) {
        true => Reading::Never,
        false => Reading::All,
    };
    let fake = Fake::reading(take, hang).await;
    let folder = tempfile::tempdir().unwrap();
    let fetcher = impatient(Duration::from_secs(300));
    let error = push(&fetcher, &fake, large(folder.path()))
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "RegistryUnavailable", "{error}");
    let said = error.to_string();
    assert!(
        said.contains("of 67108864 bytes, and nothing more for 0.5 s"),
        "{said}"
    );

    let fake = Fake::reading(take, hang).await;
    let fetcher = impatient(Duration::from_millis(100));
    let small = Package::Component(component(1).into());
    let error = push(&fetcher, &fake, small).await.unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("bytes, and doesn't answer for 0.1 s"),
        "{said}"
    );
}

/// A registry whose token server numbers its tokens from 1 and says that they live for `lifetime`, and that lets in with
/// the token of a number where `is_good` says so of it, the head and how many requests it let in already.
async fn with_tokens(
    lifetime: &'static str,
    is_good: impl Fn(u32, &str, u32) -> bool + Send + 'static,
) -> Fake {
    let given = Mutex::new(0_u32);
    let used = Mutex::new(BTreeMap::<u32, u32>::new());
    Fake::new(move |head, address| {
        if head.starts_with("GET /token?") {
            let mut given = given.lock().unwrap();
            *given += 1;
            let token = format!(r#"{{"token":"t{given}"{lifetime}}}"#);
            return answer("200 OK", "", token.as_bytes());
        }
        let token = head.split_once("Bearer t").and_then(|(_, rest)| {
            let digits = rest.split("\r\n").next()?;
            digits.parse::<u32>().ok()
        });
        if let Some(token) = token {
            let mut used = used.lock().unwrap();
            let used = used.entry(token).or_default();
            if is_good(token, head, *used) {
                *used += 1;
                return take(head, address);
            }
        }
        let challenge = format!("www-authenticate: Bearer realm=\"http://{address}/token\"\r\n");
        answer("401 no", &challenge, b"")
    })
    .await
}

/// Would fail if a push ended with its first token, although the registry gives another.
#[tokio::test]
async fn a_push_outlives_its_token() {
    let package = || Package::Component(component(1).into());
    // It is refused after a while: here, three requests.
    let fake = with_tokens("", |_, _, used| used < 3).await;
    push(&fetcher(), &fake, package()).await.unwrap();

    // It is old when the upload begins, which can't be sent twice.
    let fake = with_tokens(r#","expires_in":0"#, |_, head, used| {
        !is_upload(head) || used == 0
    })
    .await;
    push(&fetcher(), &fake, package()).await.unwrap();

    // No token helps: that is said, and not tried for ever.
    let fake = with_tokens("", |_, _, _| false).await;
    let error = push(&fetcher(), &fake, package()).await.unwrap_err();
    assert_eq!(error.reason(), "Unauthorized");
    // Refused, token, refused.
    assert_eq!(fake.seen().len(), 3);
}

/// Would fail if what is there already couldn't be deployed again where tags are immutable, or a tag that means something else
/// were left as it is.
#[tokio::test]
async fn a_tag_that_means_it_already_is_not_written() {
    let package = || Package::Component(component(1).into());
    let empty = Fake::new(take).await;
    let pushed = push(&fetcher(), &empty, package()).await.unwrap();
    let immutable = async |means: String| {
        Fake::new(move |head, _| match head.split(' ').next() {
            Some("HEAD") if head.contains("/manifests/") => {
                let digest = format!("docker-content-digest: sha256:{means}\r\n");
                answer("200 OK", &digest, b"")
            }
            Some("HEAD") => answer("200 OK", "", b""),
            _ => answer(
                "400 x",
                "",
                br#"{"errors":[{"code":"TAG_INVALID","message":"the tag is immutable"}]}"#,
            ),
        })
        .await
    };
    let same = immutable(pushed.manifest.clone()).await;
    let again = push(&fetcher(), &same, package()).await.unwrap();
    assert_eq!((again.manifest, again.existed), (pushed.manifest, true));

    let other = immutable(super::registries::sha256(b"other")).await;
    let error = push(&fetcher(), &other, package()).await.unwrap_err();
    assert!(
        error.to_string().contains("the tag is immutable"),
        "{error}"
    );
}

/// Would fail if who pushes to a repository that isn't there were told that the image isn't, or what the registry says of it, or
/// of a refusal, were kept from them.
#[tokio::test]
async fn what_a_registry_says_of_a_push_is_told() {
    let refusing = async |status: &'static str, code: &'static str| {
        let fake = Fake::new(move |head, _| match head.split(' ').next() {
            Some("HEAD") => answer("404 x", "", b""),
            _ => {
                let said =
                    format!(r#"{{"errors":[{{"code":"{code}","message":"there is no a/b"}}]}}"#);
                answer(status, "", said.as_bytes())
            }
        })
        .await;
        let package = Package::Component(component(1).into());
        let error = push(&fetcher(), &fake, package).await.unwrap_err();
        let said = error.to_string();
        assert!(said.contains(&fake.address.to_string()), "{said}");
        assert!(said.contains(&format!("{code} there is no a/b")), "{said}");
        error
    };
    let error = refusing("404 Not Found", "NAME_UNKNOWN").await;
    assert!(matches!(error, Error::NotTaken { .. }), "{error}");
    let error = refusing("403 Forbidden", "DENIED").await;
    assert!(
        matches!(
            error,
            Error::Unauthorized {
                authenticated: true,
                ..
            }
        ),
        "{error}"
    );
}
