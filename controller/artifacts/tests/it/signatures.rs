//! Signatures that cosign made (`tests/cosign`), in registries of several kinds.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use wisp_artifacts::{Credentials, Demand, Error, PublicKey, Reference, Store};

use super::fake::{Fake, answer, hidden};
use super::registries::{fetcher, sha256, store};

const INDEX: &str = "content-type: application/vnd.oci.image.index.v1+json\r\n";

fn file(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cosign");
    std::fs::read(path.join(name)).unwrap()
}

fn keys(name: &str) -> Vec<PublicKey> {
    PublicKey::all(&String::from_utf8(file(name)).unwrap()).unwrap()
}

/// What a registry answers, by the path after the repository's name.
type Pages = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// A registry with the image `a/b:1`.
struct Registry {
    fake: Fake,
    pages: Pages,
}

impl Registry {
    async fn new() -> Self {
        Self::behind(|_| None).await
    }

    /// One that answers only what `refuse` doesn't.
    async fn behind(refuse: impl Fn(&str) -> Option<Vec<u8>> + Send + 'static) -> Self {
        let pages = Pages::default();
        let given = Arc::clone(&pages);
        let fake = Fake::new(move |head, _| {
            if let Some(refused) = refuse(head) {
                return refused;
            }
            let path = head.split_whitespace().nth(1).unwrap_or_default();
            let page = path.strip_prefix("/v2/a/b/").unwrap_or_default();
            let pages = given.lock().unwrap();
            pages
                .get(page)
                .cloned()
                .unwrap_or_else(|| answer("404 x", "", b""))
        })
        .await;
        let registry = Self { fake, pages };
        registry.put("manifests/1", "", &file("image.json"));
        registry
    }

    fn put(&self, page: &str, headers: &str, body: &[u8]) {
        self.say(page, answer("200 OK", headers, body));
    }

    fn say(&self, page: &str, answer: Vec<u8>) {
        self.pages.lock().unwrap().insert(page.to_owned(), answer);
    }

    fn put_manifest(&self, body: &[u8]) {
        self.put(&format!("manifests/sha256:{}", sha256(body)), "", body);
    }

    fn put_blob(&self, body: &[u8]) {
        self.put(&format!("blobs/sha256:{}", sha256(body)), "", body);
    }

    /// What cosign 2 leaves: two signatures, of `other.pub` and of `cosign.pub`.
    fn sign_simply(&self) {
        self.put(&tag(), "", &file("simple/manifest.json"));
        self.put_blob(&file("simple/payload.json"));
    }

    /// What cosign 3 leaves in a registry without referrers.
    fn attach(&self, folder: &str) {
        let tag = format!("manifests/sha256-{}", digest());
        self.put(&tag, INDEX, &file(&format!("{folder}/referrers.json")));
        self.put_manifest(&file(&format!("{folder}/manifest.json")));
        self.put_blob(&file(&format!("{folder}/bundle.json")));
    }

    fn image(&self) -> Reference {
        format!("{}/a/b:1", self.fake.address).parse().unwrap()
    }

    async fn verify(&self, key: &str, store: &Store) -> Result<String, Error> {
        let keys = keys(key);
        let demand = Demand {
            by: "the rule `ours`",
            keys: &keys,
        };
        let nobody = Credentials::default();
        fetcher()
            .verify(&self.image(), &[demand], &nobody, store)
            .await
    }
}

/// The digest of the image.
fn digest() -> String {
    sha256(&file("image.json"))
}

/// Where cosign 2 puts what signs it.
fn tag() -> String {
    format!("manifests/sha256-{}.sig", digest())
}

async fn fresh(registry: &Registry, key: &str) -> Result<String, Error> {
    let (_folder, store) = store();
    registry.verify(key, &store).await
}

/// Would fail if a signature weren't found where cosign puts it.
#[tokio::test]
async fn signatures_are_found_where_cosign_puts_them() {
    let simple = Registry::new().await;
    simple.sign_simply();
    assert_eq!(fresh(&simple, "cosign.pub").await.unwrap(), digest());
    assert_eq!(fresh(&simple, "other.pub").await.unwrap(), digest());

    let tagged = Registry::new().await;
    tagged.attach("bundle");
    assert_eq!(fresh(&tagged, "cosign.pub").await.unwrap(), digest());

    // A registry with referrers, which gives them on two pages, the first of which has what is no signature.
    let paged = Registry::new().await;
    paged.put_manifest(&file("bundle/manifest.json"));
    paged.put_blob(&file("bundle/bundle.json"));
    let page = format!("referrers/sha256:{}", digest());
    let headers = format!("{INDEX}link: </v2/a/b/{page}?n=1&last=x>; rel=\"next\"\r\n");
    let sbom = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"application/spdx+json","digest":"sha256:{}","size":1}}]}}"#,
        sha256(b"sbom")
    );
    paged.put(&page, &headers, sbom.as_bytes());
    let rest = format!("{page}?n=1&last=x");
    paged.put(&rest, INDEX, &file("bundle/referrers.json"));
    assert_eq!(fresh(&paged, "cosign.pub").await.unwrap(), digest());
}

/// Would fail if what has no signature that counts were let pass, or it weren't told why.
#[tokio::test]
async fn what_is_missing_is_told() {
    let registry = Registry::new().await;
    let error = fresh(&registry, "cosign.pub").await.unwrap_err();
    assert_eq!(error.reason(), "NotSigned");
    assert!(!error.is_transient());
    let text = error.to_string();
    let named = format!("{} (sha256:{})", registry.image(), digest());
    assert!(
        text.contains(&named) && text.contains("the rule `ours`"),
        "{text}"
    );

    registry.attach("bundle");
    registry.sign_simply();
    let error = fresh(&registry, "p384/key.pub").await.unwrap_err();
    assert_eq!(error.reason(), "UntrustedSignature");
    let text = error.to_string();
    assert!(
        text.contains(&named) && text.contains("the 3 that it has"),
        "{text}"
    );

    // An attestation by the right key says something else than a signature.
    let attested = Registry::new().await;
    attested.attach("attestation");
    let error = fresh(&attested, "cosign.pub").await.unwrap_err();
    assert_eq!(error.reason(), "UntrustedSignature");
    assert!(error.to_string().contains("attestation/v1"), "{error}");

    // The signature of another image, under this one's name.
    let moved = Registry::new().await;
    let other = br#"{"schemaVersion":2,"layers":[]}"#;
    moved.put("manifests/1", "", other);
    moved.put(
        &format!("manifests/sha256-{}.sig", sha256(other)),
        "",
        &file("simple/manifest.json"),
    );
    moved.put_blob(&file("simple/payload.json"));
    let error = fresh(&moved, "cosign.pub").await.unwrap_err();
    assert_eq!(error.reason(), "UntrustedSignature");
    assert!(error.to_string().contains(&digest()), "{error}");
}

/// Would fail if what somebody else put beside a signature hid it, or a registry that fails looked like one without it.
#[tokio::test]
async fn damage_hides_nothing_and_failure_is_no_answer() {
    let registry = Registry::new().await;
    registry.attach("bundle");
    let tag = tag();
    registry.put(&tag, "", b"<html>");
    assert_eq!(fresh(&registry, "cosign.pub").await.unwrap(), digest());
    registry.sign_simply();
    let payload = format!("blobs/sha256:{}", sha256(&file("simple/payload.json")));
    registry.put(&payload, "", b"something else");
    assert_eq!(fresh(&registry, "cosign.pub").await.unwrap(), digest());
    registry.put(&payload, "", &vec![b' '; 2 << 20]);
    assert_eq!(fresh(&registry, "cosign.pub").await.unwrap(), digest());

    // What says much of itself in the list of referrers.
    let listed = Registry::new().await;
    listed.attach("bundle");
    let mut referrers: serde_json::Value =
        serde_json::from_slice(&file("bundle/referrers.json")).unwrap();
    referrers["manifests"]
        .as_array_mut()
        .unwrap()
        .push(serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": "application/spdx+json",
            "digest": format!("sha256:{}", sha256(b"sbom")),
            "size": 1,
            "annotations": {"a": "b".repeat(2 << 20)},
        }));
    let page = format!("referrers/sha256:{}", digest());
    listed.put(&page, INDEX, referrers.to_string().as_bytes());
    assert_eq!(fresh(&listed, "cosign.pub").await.unwrap(), digest());

    let bundle = format!("blobs/sha256:{}", sha256(&file("bundle/bundle.json")));
    for page in [
        tag.as_str(),
        &format!("referrers/sha256:{}", digest()),
        &bundle,
        "manifests/1",
    ] {
        let registry = Registry::new().await;
        registry.attach("bundle");
        registry.say(page, answer("503 x", "", b""));
        let error = fresh(&registry, "cosign.pub").await.unwrap_err();
        assert_eq!(error.reason(), "RegistryUnavailable", "{page}: {error}");
        assert!(error.is_transient());
    }
}

/// Would fail if a login that isn't for an image were believed that there is no signature, or the image, which it doesn't see.
#[tokio::test]
async fn who_may_see_a_signature_is_found_among_the_logins() {
    let registry = Registry::behind(hidden).await;
    registry.put_manifest(&file("image.json"));
    let keys = keys("cosign.pub");
    let demand = Demand {
        by: "the rule `ours`",
        keys: &keys,
    };
    let mut credentials = Credentials::default();
    let images = [registry.image(), registry.image().pinned(&digest())];
    let verify = async |image: &Reference, credentials: &Credentials| {
        let (_folder, store) = store();
        fetcher()
            .verify(image, &[demand], credentials, &store)
            .await
    };
    let host = registry.fake.address.to_string();
    for (password, before, signed) in [
        ("wrong", Err("NotFound"), Err("NotFound")),
        ("s3cret", Err("NotSigned"), Ok(digest())),
    ] {
        credentials.add(&host, "u", password);
        for image in &images {
            registry.pages.lock().unwrap().remove(&tag());
            let found = verify(image, &credentials).await;
            assert_eq!(found.map_err(|error| error.reason()), before, "{image}");
            registry.sign_simply();
            let found = verify(image, &credentials).await;
            assert_eq!(found.map_err(|error| error.reason()), signed, "{image}");
        }
    }
}

/// Would fail if what was verified were asked for again, or a key that wasn't asked about were taken for one that was.
#[tokio::test]
async fn what_was_verified_stays_so_for_the_same_keys() {
    let registry = Registry::new().await;
    registry.sign_simply();
    let (_folder, store) = store();
    registry.verify("cosign.pub", &store).await.unwrap();
    let before = registry.fake.seen().len();
    let keys = keys("cosign.pub");
    let demand = Demand {
        by: "the rule `ours`",
        keys: &keys,
    };
    let pinned = registry.image().pinned(&digest());
    let nobody = Credentials::default();
    fetcher()
        .verify(&pinned, &[demand], &nobody, &store)
        .await
        .unwrap();
    assert_eq!(registry.fake.seen().len(), before);

    let error = registry.verify("p384/key.pub", &store).await.unwrap_err();
    assert_eq!(error.reason(), "UntrustedSignature");
    registry.attach("bundle");
    // Every demand is to be met.
    let stranger = self::keys("p384/key.pub");
    let demands = [
        demand,
        Demand {
            by: "the rule `theirs`",
            keys: &stranger,
        },
    ];
    let error = fetcher()
        .verify(&pinned, &demands, &nobody, &store)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("the rule `theirs`"), "{error}");
}
