//! From a registry to a stored file.

use bytes::Bytes;
use http::StatusCode;
use http::header::{ACCEPT, CONTENT_LENGTH};
use reqwest::Url;
use sha2::{Digest, Sha256};

use super::manifest::{Descriptor, Manifest};
use super::session::{Action, Session, may_see_more, told};
use super::{MANIFESTS, OCI_MANIFEST};
use crate::credentials::Credentials;
use crate::error::Error;
use crate::fetch::Fetcher;
use crate::reference::Reference;
use crate::store::{Expected, Place, Store};

/// What an artifact should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A WebAssembly component.
    Component,
    /// A model: one file.
    Model,
}

/// An artifact that was pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The SHA-256 of the image's manifest, in lower-case hex: what [`Reference::pinned`] takes.
    pub manifest: String,
    /// The SHA-256 of the file, in lower-case hex: its name in the store.
    pub sha256: String,
    /// How many bytes the file has.
    pub length: u64,
}

/// The most bytes of a manifest, as the distribution specification suggests, and of a page of a list of them.
pub(super) const LARGEST_MANIFEST: usize = 4 << 20;

impl Kind {
    pub(super) fn refuse(self, what: &str, why: String) -> Error {
        let what = what.to_owned();
        match self {
            Self::Component => Error::NotWasm { what, why },
            Self::Model => Error::NotModel { what, why },
        }
    }
}

impl Fetcher {
    /// Pulls the component or model that `image` is into `store`, with the first of the `credentials` for its registry that
    /// sees it. A digest in `image` is checked, and so is that of the file. What the store already has is not pulled again
    /// where it came from the same repository, or the same registry says that this one has it, too: a manifest can name
    /// whatever its author knows the digest of.
    ///
    /// # Errors
    /// When the image isn't there, isn't what it should be or has more than `limit` bytes, or the registry or the store
    /// fails.
    pub async fn pull(
        &self,
        image: &Reference,
        kind: Kind,
        credentials: &Credentials,
        store: &Store,
        limit: u64,
    ) -> Result<Pulled, Error> {
        let mut refused = None;
        for session in Session::each(self, image, Action::Pull, credentials) {
            match session.pull(kind, store, limit).await {
                Err(error) if may_see_more(&error) => {
                    refused = Some(told(refused.take(), error));
                }
                other => return other,
            }
        }
        // There was one at least.
        Err(refused.unwrap_or(Error::Thread))
    }
}

impl Session<'_> {
    async fn pull(&self, kind: Kind, store: &Store, limit: u64) -> Result<Pulled, Error> {
        let layer = self.fetcher.bounded(&self.subject, self.layer(kind));
        let (layer, manifest) = layer.await?;
        let sha256 = layer.sha256().ok_or_else(|| self.no_digest())?;
        if layer.size > limit {
            return Err(Error::TooLarge {
                what: self.subject.what.clone(),
                limit,
            });
        }
        let turn = store.turn(&self.subject.what, sha256);
        let known = || self.known(sha256, store);
        let blob = self.blob(&layer, sha256, store);
        let length = self.fetcher.alone(&self.subject, &turn, known, blob);
        let length = length.await?;
        Ok(Pulled {
            manifest,
            sha256: sha256.to_owned(),
            length,
        })
    }

    /// The layer that holds what is asked for, and the SHA-256 of the image's manifest.
    async fn layer(&self, kind: Kind) -> Result<(Descriptor, String), Error> {
        let what = &self.subject.what;
        let (mut manifest, digest) = self
            .manifest(&self.image.manifest(), self.image.sha256())
            .await?;
        if !manifest.manifests.is_empty() {
            let member = manifest.member(kind, what)?;
            let sha256 = member.sha256().ok_or_else(|| self.no_digest())?.to_owned();
            (manifest, _) = self
                .manifest(&format!("sha256:{sha256}"), Some(&sha256))
                .await?;
        }
        Ok((manifest.layer(kind, what)?.clone(), digest))
    }

    /// The length of the layer, where the store has it from this repository.
    async fn known(&self, sha256: &str, store: &Store) -> Result<Option<u64>, Error> {
        let found = store.find(sha256).await?;
        let is_own = found.is_some() && store.came_from(sha256, self.place()).await;
        Ok(found.map(|(_, length)| length).filter(|_| is_own))
    }

    fn place(&self) -> Place<'_> {
        Place::Repository(self.image.host(), self.image.repository())
    }

    /// Has the layer in the store, which doesn't have it from here, and gives its length.
    async fn blob(&self, layer: &Descriptor, sha256: &str, store: &Store) -> Result<u64, Error> {
        let url = self.url(&format!("blobs/sha256:{sha256}"))?;
        let (host, own) = (self.image.host(), self.place());
        // Its word is enough only of a registry that gave the bytes before: another would say anything of a digest.
        if let Some((_, length)) = store.find(sha256).await?
            && store.came_from(sha256, Place::Registry(host)).await
            && self.has(&url, length).await?
        {
            store.comes_from(sha256, &[own]).await?;
            return Ok(length);
        }
        let response = self.send(|client| client.get(url.clone())).await?;
        let response = self.success(response).await?;
        let expected = Expected {
            what: self.subject.what.clone(),
            sha256: Some(sha256.to_owned()),
            length: Some(layer.size),
            limit: layer.size,
        };
        let chunks = self.subject.stream(response, Some(layer.size));
        let stored = store.save(expected, chunks).await?;
        let places = [Place::Registry(host), own];
        store.comes_from(sha256, &places).await?;
        Ok(stored.length)
    }

    /// Whether the registry says that the repository has the blob, of `length` bytes. Some refuse to say, and yet give it; a page
    /// that whoever stands before the registry answers everything with says nothing.
    async fn has(&self, blob: &Url, length: u64) -> Result<bool, Error> {
        let response = self.send(|client| client.head(blob.clone())).await?;
        let told = response.headers().get(CONTENT_LENGTH);
        let told = told.and_then(|told| told.to_str().ok()?.parse().ok());
        Ok(response.status() == StatusCode::OK && told == Some(length))
    }

    /// A manifest and its SHA-256, which is compared with `expected`.
    pub(super) async fn manifest(
        &self,
        name: &str,
        expected: Option<&str>,
    ) -> Result<(Manifest, String), Error> {
        let url = self.url(&format!("manifests/{name}"))?;
        let accept = MANIFESTS.join(", ");
        let response = self
            .send(|client| client.get(url.clone()).header(ACCEPT, &accept))
            .await?;
        let response = self.success(response).await?;
        let body: Bytes = self.subject.body(response, LARGEST_MANIFEST).await?;
        let found = hex::encode(Sha256::digest(&body));
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(Error::DigestMismatch {
                what: self.subject.what.clone(),
                expected: expected.to_owned(),
                found,
            });
        }
        let manifest: Manifest = serde_json::from_slice(&body).map_err(|error| {
            self.subject
                .answer(format!("its manifest is none: {error}"))
        })?;
        if manifest.schema_version != 2 {
            return Err(self.subject.answer(format!(
                "its manifest has the schema version {} instead of 2 ({OCI_MANIFEST})",
                manifest.schema_version
            )));
        }
        Ok((manifest, found))
    }

    fn no_digest(&self) -> Error {
        self.subject
            .answer("its manifest names a layer by a digest that is no SHA-256")
    }
}
