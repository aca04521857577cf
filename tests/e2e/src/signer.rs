//! A key that signs images as `cosign sign --key` does, as far as a registry can tell.

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT, CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Method};
use rcgen::{KeyPair, SigningKey as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use wisp_artifacts::Reference;
use wisp_integration::{Answer, Client, request};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const STATEMENT: &str = "application/vnd.in-toto+json";

/// A key, ECDSA on P-256.
pub struct Signer(KeyPair);

/// An image's repository in a registry without TLS.
struct Repository {
    client: Client,
    path: String,
}

impl Signer {
    /// A new key.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn new() -> Result<Self> {
        Ok(Self(KeyPair::generate()?))
    }

    /// Its public half in PEM: cosign.pub.
    #[must_use]
    pub fn public(&self) -> String {
        self.0.public_key_pem()
    }

    /// Signs as cosign 3 does: a bundle that refers to the image, whose digest it gives.
    ///
    /// # Errors
    /// When the registry doesn't take it.
    pub async fn sign(&self, image: &str) -> Result<String> {
        let (repository, manifest) = Repository::of(image).await?;
        let sha256 = sha256(&manifest.body);
        let statement = json!({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"digest": {"sha256": sha256}}],
            "predicateType": "https://sigstore.dev/cosign/sign/v1",
            "predicate": {},
        });
        let statement = statement.to_string();
        let (kind, length) = (STATEMENT.len(), statement.len());
        let message = format!("DSSEv1 {kind} {STATEMENT} {length} {statement}");
        let bundle = json!({
            "mediaType": BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": ""}},
            "dsseEnvelope": {
                "payload": STANDARD.encode(&statement),
                "payloadType": STATEMENT,
                "signatures": [{"sig": STANDARD.encode(self.0.sign(message.as_bytes())?)}],
            },
        });
        let layer = repository.blob(BUNDLE, &bundle.to_string()).await?;
        let referrer = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": BUNDLE,
            "config": repository.blob("application/vnd.oci.empty.v1+json", "{}").await?,
            "layers": [layer],
            "subject": {"mediaType": MANIFEST, "digest": format!("sha256:{sha256}"), "size": manifest.body.len()},
        });
        let (digest, size) = repository.manifest(MANIFEST, &referrer, None).await?;
        // The registry has no list of referrers: clients keep it under a tag.
        let index = json!({
            "schemaVersion": 2, "mediaType": INDEX,
            "manifests": [{"mediaType": MANIFEST, "artifactType": BUNDLE, "digest": digest, "size": size}],
        });
        let tag = format!("sha256-{sha256}");
        repository.manifest(INDEX, &index, Some(&tag)).await?;
        Ok(sha256)
    }

    /// Signs as cosign 2 does: under the tag `sha256-….sig`. Gives the image's digest.
    ///
    /// # Errors
    /// When the registry doesn't take it.
    pub async fn sign_simply(&self, image: &str) -> Result<String> {
        let (repository, manifest) = Repository::of(image).await?;
        let sha256 = sha256(&manifest.body);
        let payload = json!({
            "critical": {
                "identity": {"docker-reference": image},
                "image": {"docker-manifest-digest": format!("sha256:{sha256}")},
                "type": "cosign container image signature",
            },
            "optional": null,
        });
        let payload = payload.to_string();
        let kind = "application/vnd.dev.cosign.simplesigning.v1+json";
        let mut layer = repository.blob(kind, &payload).await?;
        let signature = STANDARD.encode(self.0.sign(payload.as_bytes())?);
        let annotations = json!({"dev.cosignproject.cosign/signature": signature});
        if let Some(layer) = layer.as_object_mut() {
            layer.insert("annotations".to_owned(), annotations);
        }
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": repository.blob("application/vnd.oci.image.config.v1+json", "{}").await?,
            "layers": [layer],
        });
        let tag = format!("sha256-{sha256}.sig");
        repository.manifest(MANIFEST, &manifest, Some(&tag)).await?;
        Ok(sha256)
    }
}

impl Repository {
    /// The image's, and its manifest.
    async fn of(image: &str) -> Result<(Self, Answer)> {
        let reference: Reference = image.parse()?;
        let repository = Self {
            client: Client::new(reference.registry().parse()?),
            path: format!("/v2/{}", reference.repository()),
        };
        let tag = reference.tag().unwrap_or("latest");
        let path = format!("{}/manifests/{tag}", repository.path);
        let mut request = request(Method::GET, &path, "")?;
        let kinds = HeaderValue::from_static(MANIFEST);
        request.headers_mut().insert(ACCEPT, kinds);
        let manifest = repository.client.fetch(request).await?;
        ensure!(manifest.status == 200, "{path}: {manifest:?}");
        Ok((repository, manifest))
    }

    /// Uploads a blob, and gives its descriptor.
    async fn blob(&self, kind: &str, text: &str) -> Result<Value> {
        let digest = format!("sha256:{}", sha256(text.as_bytes()));
        let uploads = format!("{}/blobs/uploads/", self.path);
        let begun = self.client.post(&uploads, "").await?;
        let location = begun
            .headers
            .get(LOCATION)
            .context("a place to upload to")?;
        let location: http::Uri = location.to_str()?.parse()?;
        let place = location.path_and_query().context("a path")?.as_str();
        let joint = if place.contains('?') { '&' } else { '?' };
        let place = format!("{place}{joint}digest={digest}");
        self.put(&place, "application/octet-stream", text).await?;
        Ok(json!({"mediaType": kind, "digest": digest, "size": text.len()}))
    }

    /// Uploads a manifest, by its digest where it gets no tag; gives digest and size.
    async fn manifest(
        &self,
        kind: &'static str,
        manifest: &Value,
        tag: Option<&str>,
    ) -> Result<(String, usize)> {
        let text = manifest.to_string();
        let digest = format!("sha256:{}", sha256(text.as_bytes()));
        let name = tag.unwrap_or(&digest);
        self.put(&format!("{}/manifests/{name}", self.path), kind, &text)
            .await?;
        Ok((digest, text.len()))
    }

    async fn put(&self, path: &str, kind: &'static str, text: &str) -> Result<()> {
        let mut request = request(Method::PUT, path, text.to_owned())?;
        let kind = HeaderValue::from_static(kind);
        request.headers_mut().insert(CONTENT_TYPE, kind);
        let answer = self.client.fetch(request).await?;
        ensure!(answer.status == 201, "{path}: {answer:?}");
        Ok(())
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
