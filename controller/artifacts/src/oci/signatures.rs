//! Which signatures are kept beside an image? Where cosign puts them: the tag `sha256-….sig`, and referrers (OCI
//! distribution specification 1.1), in the place of which registries without them have the tag `sha256-…`.

use http::StatusCode;
use http::header::{ACCEPT, CONTENT_TYPE, LINK};
use reqwest::{Response, Url};
use sha2::{Digest, Sha256};

use super::manifest::{Descriptor, Manifest};
use super::pull::LARGEST_MANIFEST;
use super::session::{Action, Session, may_see_more, told};
use super::{OCI_INDEX, PREDICATE_TYPE, SIGNATURE};
use crate::credentials::Credentials;
use crate::error::Error;
use crate::fetch::Fetcher;
use crate::reference::Reference;
use crate::signature::{Judgement, PREDICATE, PublicKey, Signed};
use crate::store::{SIGNED, Store};

const SIMPLE_LAYER: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The beginning of a bundle's type, whose end is its version.
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle";
/// The most bytes of one payload or bundle.
const LARGEST: usize = 1 << 20;
/// The most signatures of each form that are looked at. Who may push to a repository may add as many as they like.
const MOST: usize = 64;
/// The most pages of a list of referrers.
const PAGES: usize = 8;

/// Who must have signed.
#[derive(Debug, Clone, Copy)]
pub struct Demand<'a> {
    /// Who demands it, for errors: `the rule x`.
    pub by: &'a str,
    /// One of them must have.
    pub keys: &'a [PublicKey],
}

/// What was found that isn't enough.
#[derive(Default)]
struct Seen {
    strangers: usize,
    others: Vec<String>,
}

impl Fetcher {
    /// Whether `image` is signed as each of the `demands` wants it; returns the SHA-256 of its manifest, in lower-case hex.
    /// What was found to be signed by a key of the same set before, as `store` knows, isn't looked up again: an image that
    /// is named by its digest then takes no request.
    ///
    /// # Errors
    /// [`Error::NotSigned`] and [`Error::Untrusted`] where a demand isn't met; or when there is no such image, or the
    /// registry fails.
    pub async fn verify(
        &self,
        image: &Reference,
        demands: &[Demand<'_>],
        credentials: &Credentials,
        store: &Store,
    ) -> Result<String, Error> {
        let mut refused = None;
        for mut session in Session::each(self, image, Action::Pull, credentials) {
            let subject = session.subject.clone();
            let verified = session.verify(demands, store);
            match self.bounded(&subject, verified).await {
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
    async fn verify(&mut self, demands: &[Demand<'_>], store: &Store) -> Result<String, Error> {
        let sha256 = match self.image.sha256() {
            Some(sha256) => sha256.to_owned(),
            None => {
                let (_, sha256) = self.manifest(&self.image.manifest(), None).await?;
                self.subject.what = format!("{} (sha256:{sha256})", self.image);
                sha256
            }
        };
        for demand in demands {
            let note = note(&sha256, demand.keys);
            if store.noted::<String>(&note).await.as_deref() == Some(&*sha256) {
                continue;
            }
            let met = self.meet(&sha256, demand).await;
            if let Err(Error::NotSigned { .. }) = met
                && self.image.sha256().is_some()
            {
                // Who doesn't see the image, which wasn't asked for yet, sees no signature either.
                self.manifest(&self.image.manifest(), Some(&sha256)).await?;
            }
            met?;
            store.note(&note, &sha256).await?;
        }
        Ok(sha256)
    }

    async fn meet(&self, sha256: &str, demand: &Demand<'_>) -> Result<(), Error> {
        let mut seen = Seen::default();
        let tag = format!("sha256-{sha256}.sig");
        if let Some(manifest) = passable(self.manifest(&tag, None).await)? {
            for layer in manifest.0.simple().take(MOST) {
                let payload = self.small(layer).await?;
                let signature = layer.annotations.get(SIGNATURE);
                let signed = payload
                    .zip(signature)
                    .and_then(|(payload, signature)| Signed::simple(&payload, signature));
                if seen.holds(signed, sha256, demand.keys) {
                    return Ok(());
                }
            }
        }
        let referrers = self.referrers(sha256).await?;
        for referrer in &referrers {
            let signed = self.bundle(referrer).await?;
            if seen.holds(signed, sha256, demand.keys) {
                return Ok(());
            }
        }
        Err(seen.error(&self.subject.what, demand.by))
    }

    /// The bundle that a referrer is; `None` where it is none.
    async fn bundle(&self, referrer: &Descriptor) -> Result<Option<Signed>, Error> {
        let Some(sha256) = referrer.sha256() else {
            return Ok(None);
        };
        let name = format!("sha256:{sha256}");
        let manifest = self.manifest(&name, Some(sha256)).await;
        let Some((manifest, _)) = passable(manifest)? else {
            return Ok(None);
        };
        let layer = manifest.layers.first();
        let Some(layer) = layer.filter(|layer| layer.media_type.starts_with(BUNDLE)) else {
            return Ok(None);
        };
        let json = self.small(layer).await?;
        Ok(json.and_then(|json| Signed::bundle(&json)))
    }

    /// What refers to the image and may be a signature: the first of it.
    async fn referrers(&self, sha256: &str) -> Result<Vec<Descriptor>, Error> {
        let mut next = Some(self.url(&format!("referrers/sha256:{sha256}"))?);
        let mut all = Vec::new();
        let add = |all: &mut Vec<_>, page: Vec<_>| {
            let room = MOST.saturating_sub(all.len());
            all.extend(page.into_iter().filter(may_sign).take(room));
        };
        for _ in 0..PAGES {
            let Some(url) = next.take().filter(|_| all.len() < MOST) else {
                break;
            };
            let response = self
                .send(|client| client.get(url.clone()).header(ACCEPT, OCI_INDEX))
                .await?;
            if !has_referrers(&response) {
                let tag = format!("sha256-{sha256}");
                let index = passable(self.manifest(&tag, None).await)?;
                add(
                    &mut all,
                    index.map_or_else(Vec::new, |(index, _)| index.manifests),
                );
                break;
            }
            let response = self.success(response).await?;
            next = match following(&response) {
                Some(url) if self.is_own(&url)? => Some(url),
                _ => None,
            };
            // What others' attachments say of themselves is in it, too.
            let body = self.subject.body(response, LARGEST_MANIFEST).await?;
            let page: Manifest = serde_json::from_slice(&body).map_err(|error| {
                self.subject
                    .answer(format!("its list of referrers is none: {error}"))
            })?;
            add(&mut all, page.manifests);
        }
        Ok(all)
    }

    /// The bytes of a small blob; `None` where they aren't there, are too many, or aren't what they should be.
    async fn small(&self, blob: &Descriptor) -> Result<Option<Vec<u8>>, Error> {
        let Some(sha256) = blob.sha256() else {
            return Ok(None);
        };
        let url = self.url(&format!("blobs/sha256:{sha256}"))?;
        let response = self.send(|client| client.get(url.clone())).await?;
        let body = match passable(self.success(response).await)? {
            Some(response) => passable(self.subject.body(response, LARGEST).await)?,
            None => None,
        };
        Ok(body
            .filter(|body| hex::encode(Sha256::digest(body)) == sha256)
            .map(Vec::from))
    }
}

impl Manifest {
    fn simple(&self) -> impl Iterator<Item = &Descriptor> {
        self.layers
            .iter()
            .filter(|layer| layer.media_type == SIMPLE_LAYER)
    }
}

impl Seen {
    fn holds(&mut self, signed: Option<Signed>, sha256: &str, keys: &[PublicKey]) -> bool {
        match signed.map(|signed| signed.judge(sha256, keys)) {
            Some(Judgement::Holds) => return true,
            Some(Judgement::Other(what)) => self.others.push(what),
            Some(Judgement::Stranger) | None => self.strangers += 1,
        }
        false
    }

    fn error(self, what: &str, by: &str) -> Error {
        let (what, by) = (what.to_owned(), by.to_owned());
        let why = match (self.others.into_iter().next(), self.strangers) {
            (Some(other), _) => format!("what such a key signed is {other}"),
            (None, 0) => return Error::NotSigned { what, by },
            (None, 1) => "the one that it has is by another, or damaged".to_owned(),
            (None, count) => format!("the {count} that it has are by others, or damaged"),
        };
        Error::Untrusted { what, by, why }
    }
}

/// `None` for what isn't there or isn't as it should be: others may have put it there, and it hides nothing else.
fn passable<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_transient() || matches!(error, Error::Unauthorized { .. }) => {
            Err(error)
        }
        Err(_) => Ok(None),
    }
}

/// Whether a referrer may be a signature. What a registry or a client says of it is only good for leaving it out.
fn may_sign(referrer: &Descriptor) -> bool {
    let kind = referrer.artifact_type.as_deref();
    let predicate = referrer.annotations.get(PREDICATE_TYPE);
    kind.is_none_or(|kind| kind.starts_with(BUNDLE))
        && predicate.is_none_or(|predicate| predicate == PREDICATE)
}

/// Whether the answer is a list of referrers, or a failure to give one. Registries without such lists refuse the path, or
/// answer with something else.
fn has_referrers(response: &Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE);
    let is_index = kind.is_some_and(|kind| kind.as_bytes().starts_with(OCI_INDEX.as_bytes()));
    match response.status() {
        StatusCode::NOT_FOUND
        | StatusCode::BAD_REQUEST
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::NOT_ACCEPTABLE
        | StatusCode::NOT_IMPLEMENTED => false,
        status => !status.is_success() || is_index,
    }
}

/// The next page of a list.
fn following(response: &Response) -> Option<Url> {
    let link = response.headers().get(LINK)?.to_str().ok()?;
    let (target, parameters) = link.strip_prefix('<')?.split_once('>')?;
    parameters.contains("next").then_some(())?;
    response.url().join(target).ok()
}

/// What is noted once a key of the set signed the image.
fn note(sha256: &str, keys: &[PublicKey]) -> String {
    let mut ids: Vec<&str> = keys.iter().map(PublicKey::id).collect();
    ids.sort_unstable();
    ids.dedup();
    let set = hex::encode(Sha256::digest(ids.join(",")));
    format!("{SIGNED}{sha256}-{set}")
}
