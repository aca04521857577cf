//! Who gave an artifact, and so may have it? Its digest is no secret: whoever names a place has to show that this place has
//! the bytes before those that are here already are used for it.
//!
//! Kept as notes, which survive restarts, and go with the artifact. What they say of a place is a digest: URLs may hold
//! passwords.

use std::sync::{Arc, PoisonError};

use sha2::{Digest, Sha256};

use super::folder::Folder;
use super::{Store, blocking};
use crate::error::Error;
use crate::reference::is_sha256;

/// How many places are remembered of each artifact; the latest. The others have to show it again.
const MOST: usize = 64;

/// Where artifacts come from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place<'a> {
    /// A URL: whoever knows it may have what is there.
    Url(&'a str),
    /// A repository of a registry, by both their names: whoever may read its manifests may read its blobs.
    Repository(&'a str, &'a str),
    /// A registry as such: it has the bytes, in one repository or another.
    Registry(&'a str),
}

impl Place<'_> {
    fn id(self) -> String {
        let text = match self {
            Self::Url(url) => format!("url {url}"),
            Self::Repository(host, name) => format!("repository {host} {name}"),
            Self::Registry(host) => format!("registry {host}"),
        };
        hex::encode(Sha256::digest(text))
    }
}

impl Store {
    /// Whether the artifact came from there before.
    pub(crate) async fn came_from(&self, sha256: &str, place: Place<'_>) -> bool {
        let (folder, sha256, id) = (Arc::clone(&self.folder), sha256.to_owned(), place.id());
        blocking(move || Ok(folder.origins(&sha256).contains(&id)))
            .await
            .unwrap_or_default()
    }

    /// Notes that the artifact came from there.
    ///
    /// # Errors
    /// When it can't be written.
    pub(crate) async fn comes_from(&self, sha256: &str, places: &[Place<'_>]) -> Result<(), Error> {
        let ids: Vec<String> = places.iter().map(|place| place.id()).collect();
        let (folder, sha256) = (Arc::clone(&self.folder), sha256.to_owned());
        blocking(move || folder.add_origins(&sha256, ids)).await
    }
}

impl Folder {
    /// The name of the note.
    pub(super) fn origins_key(sha256: &str) -> String {
        format!("origins-{sha256}")
    }

    fn origins(&self, sha256: &str) -> Vec<String> {
        if !is_sha256(sha256) {
            return Vec::new();
        }
        let bytes = self.noted(&Self::origins_key(sha256));
        bytes
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    fn add_origins(&self, sha256: &str, ids: Vec<String>) -> Result<(), Error> {
        let _alone = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = self.origins(sha256);
        known.retain(|id| !ids.contains(id));
        known.extend(ids);
        let surplus = known.len().saturating_sub(MOST);
        known.drain(..surplus);
        let bytes = serde_json::to_vec(&known).unwrap_or_default();
        self.write_note(&Self::origins_key(sha256), &bytes)
    }
}
