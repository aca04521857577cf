//! From a file to a registry.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::StatusCode;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use reqwest::{Response, Url};
use serde_json::json;
use sha2::{Digest, Sha256};
use wisp_engine::inspect;

use super::manifest::{Descriptor, Manifest};
use super::session::{Action, Session};
use super::upload::Blob;
use super::{EMPTY_CONFIG, MODEL, MODEL_LAYER, OCI_MANIFEST, TITLE, WASM_CONFIG, WASM_LAYER};
use crate::credentials::Credentials;
use crate::error::Error;
use crate::fetch::Fetcher;
use crate::reference::Reference;
use crate::store::Stored;

/// What is pushed.
#[derive(Debug, Clone)]
pub enum Package {
    /// A component that a host would serve.
    Component(Bytes),
    /// A model's file, by its path.
    Model(PathBuf),
}

/// An artifact that was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The SHA-256 of the image's manifest, in lower-case hex: what [`Reference::pinned`] takes. The same file gives the
    /// same one.
    pub manifest: String,
    /// The SHA-256 of the file, in lower-case hex.
    pub sha256: String,
    /// How many bytes the file has.
    pub length: u64,
    /// Whether the registry had the file already.
    pub existed: bool,
}

impl Fetcher {
    /// Pushes `package` to `image`'s tag (`latest` where it has none), with the first of the `credentials` for its
    /// registry. It may take as long as the registry goes on reading. A tag that means it already isn't written again.
    ///
    /// # Errors
    /// When the component is none that a host would serve, the file can't be read, or the registry refuses or fails.
    pub async fn push(
        &self,
        image: &Reference,
        package: Package,
        credentials: &Credentials,
    ) -> Result<Pushed, Error> {
        let logins = credentials.of(image);
        let session = Session::new(self, image, Action::Push, logins.first().copied());
        match package {
            Package::Component(bytes) => session.push_component(bytes).await,
            Package::Model(path) => session.push_model(&path).await,
        }
    }
}

impl Session<'_> {
    async fn push_component(&self, bytes: Bytes) -> Result<Pushed, Error> {
        let inspection = inspect(&bytes).map_err(Error::Component)?;
        let layer = Descriptor {
            media_type: WASM_LAYER.to_owned(),
            ..described(&bytes)
        };
        let imports: Vec<String> = inspection.imports.iter().map(ToString::to_string).collect();
        // The layout demands the time; a fixed one keeps the digest the same for the same component.
        let config = json!({
            "created": "1970-01-01T00:00:00Z",
            "architecture": "wasm",
            "os": "wasip2",
            "layerDigests": [layer.digest],
            "component": {"exports": [inspection.handler], "imports": imports, "target": null},
        });
        self.push_artifact(layer, Blob::Bytes(bytes), WASM_CONFIG, &config, None)
            .await
    }

    async fn push_model(&self, path: &Path) -> Result<Pushed, Error> {
        let Stored { sha256, length } = crate::store::measure(path).await?;
        let title = path
            .file_name()
            .map_or_else(|| "model".into(), |name| name.to_string_lossy());
        let layer = Descriptor {
            media_type: MODEL_LAYER.to_owned(),
            digest: format!("sha256:{sha256}"),
            size: length,
            annotations: [(TITLE.to_owned(), title.into_owned())].into(),
            ..Descriptor::default()
        };
        let blob = Blob::File(path.to_owned());
        self.push_artifact(layer, blob, EMPTY_CONFIG, &json!({}), Some(MODEL))
            .await
    }

    async fn push_artifact(
        &self,
        layer: Descriptor,
        blob: Blob,
        config_type: &str,
        config: &serde_json::Value,
        artifact_type: Option<&str>,
    ) -> Result<Pushed, Error> {
        let config = Bytes::from(config.to_string());
        let config_descriptor = Descriptor {
            media_type: config_type.to_owned(),
            ..described(&config)
        };
        let existed = self.push_blob(&layer, blob).await?;
        self.push_blob(&config_descriptor, Blob::Bytes(config))
            .await?;
        let sha256 = layer.sha256().unwrap_or_default().to_owned();
        let length = layer.size;
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(OCI_MANIFEST.to_owned()),
            artifact_type: artifact_type.map(str::to_owned),
            config: Some(config_descriptor),
            layers: vec![layer],
            ..Manifest::default()
        };
        let manifest = serde_json::to_vec(&manifest)
            .map(Bytes::from)
            .map_err(|error| self.subject.answer(error.to_string()))?;
        let digest = hex::encode(Sha256::digest(&manifest));
        let tag = self.image.tag().unwrap_or("latest");
        let url = self.url(&format!("manifests/{tag}"))?;
        // Where tags are immutable, even the same isn't taken twice.
        if !self.means(&url, &digest).await? {
            let response = self
                .send(|client| {
                    client
                        .put(url.clone())
                        .header(CONTENT_TYPE, OCI_MANIFEST)
                        .body(manifest.clone())
                })
                .await?;
            self.taken(response).await?;
        }
        Ok(Pushed {
            manifest: digest,
            sha256,
            length,
            existed,
        })
    }

    /// Whether the registry says that the tag at `url` means the manifest of this SHA-256.
    async fn means(&self, url: &Url, sha256: &str) -> Result<bool, Error> {
        let response = self
            .send(|client| client.head(url.clone()).header(ACCEPT, OCI_MANIFEST))
            .await?;
        let digest = response.headers().get("docker-content-digest");
        let is_same = digest.is_some_and(|digest| *digest == format!("sha256:{sha256}"));
        Ok(response.status().is_success() && is_same)
    }

    /// Uploads a blob in one piece, as `POST` and `PUT`; returns whether it was there already.
    async fn push_blob(&self, descriptor: &Descriptor, blob: Blob) -> Result<bool, Error> {
        let url = self.url(&format!("blobs/{}", descriptor.digest))?;
        let response = self.send(|client| client.head(url.clone())).await?;
        match response.status() {
            status if status.is_success() => return Ok(true),
            // Some registries refuse to tell those who may push.
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN => {}
            _ => {
                self.success(response).await?;
            }
        }
        let url = self.url("blobs/uploads/")?;
        let response = self
            .send(|client| client.post(url.clone()).header(CONTENT_LENGTH, 0))
            .await?;
        let response = self.taken(response).await?;
        let location = self.location(&response, &descriptor.digest)?;
        self.upload(location, descriptor.size, &blob).await?;
        Ok(false)
    }

    /// The response to what is pushed, where it is taken. What isn't there otherwise is a place for it: never the image itself.
    pub(super) async fn taken(&self, response: Response) -> Result<Response, Error> {
        let status = response.status();
        if status != StatusCode::NOT_FOUND {
            return self.success(response).await;
        }
        let said = self.subject.said(response).await;
        Err(Error::NotTaken {
            host: self.subject.host.clone(),
            what: self.subject.what.clone(),
            why: format!("{status}{said}"),
        })
    }

    /// Where the upload goes: what the registry said, which may be a path, and the digest.
    fn location(&self, response: &Response, digest: &str) -> Result<Url, Error> {
        let mut url = response
            .headers()
            .get(LOCATION)
            .and_then(|location| location.to_str().ok())
            .and_then(|location| response.url().join(location).ok())
            .ok_or_else(|| self.subject.answer("it doesn't say where to upload to"))?;
        if self.url("")?.scheme() == "https" && url.scheme() != "https" {
            return Err(self.subject.answer("it wants the upload without TLS"));
        }
        url.query_pairs_mut().append_pair("digest", digest);
        Ok(url)
    }
}

fn described(bytes: &Bytes) -> Descriptor {
    Descriptor {
        digest: format!("sha256:{}", hex::encode(Sha256::digest(bytes))),
        size: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        ..Descriptor::default()
    }
}
