//! How much of the store may one namespace have? Its functions' artifacts, as long as they are held, and what is fetched for them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::folder::{Folder, State};
use super::{Store, Stored, blocking};
use crate::error::Error;

impl Store {
    /// The same for `whom`, a namespace: what is stored by this counts as its own, until its functions hold it.
    #[must_use]
    pub fn on_behalf_of(&self, whom: &str) -> Self {
        Self {
            whom: Some(whom.into()),
            ..self.clone()
        }
    }

    /// Counts `stored`, which was here before, as what is fetched: it isn't removed before it can be held. `what` is what it is
    /// called in errors.
    ///
    /// # Errors
    /// [`Error::ShareFull`] where the namespace may not have it, too.
    pub async fn claim(&self, what: &str, stored: &Stored) -> Result<(), Error> {
        let Some(whom) = self.whom.clone() else {
            return Ok(());
        };
        let (folder, stored, what) = (Arc::clone(&self.folder), stored.clone(), what.to_owned());
        blocking(move || folder.claim(&whom, &what, &stored)).await
    }
}

impl Folder {
    /// Refuses `whom` the last `more` of the `needed` bytes of `what`, where it may not have them.
    pub(super) fn check_share(
        &self,
        state: &State,
        whom: &str,
        what: &str,
        (needed, more): (u64, u64),
    ) -> Result<(), Error> {
        let Some(share) = self.share else {
            return Ok(());
        };
        let coming = state.coming.get(whom).copied().unwrap_or_default();
        let here = self.length_of(state.digests_of(whom, Instant::now()));
        let has = coming.saturating_add(here);
        if has.saturating_add(more) <= share {
            return Ok(());
        }
        Err(Error::ShareFull {
            what: what.to_owned(),
            whom: whom.to_owned(),
            needed,
            held: has.saturating_sub(needed.saturating_sub(more)),
            share,
            is_soon: here.saturating_add(needed) <= share,
        })
    }

    /// How many bytes those have that are here.
    fn length_of(&self, digests: BTreeSet<&str>) -> u64 {
        let files = digests.into_iter();
        let files = files.filter_map(|sha256| std::fs::metadata(self.file(sha256)).ok());
        files.fold(0, |sum, file| sum.saturating_add(file.len()))
    }

    /// Whether `whom` has the artifact.
    pub(super) fn is_of(&self, whom: &str, sha256: &str) -> bool {
        let state = self.state();
        state.digests_of(whom, Instant::now()).contains(sha256)
    }

    fn claim(&self, whom: &Arc<str>, what: &str, stored: &Stored) -> Result<(), Error> {
        let (mut state, now) = (self.state(), Instant::now());
        if !state.digests_of(whom, now).contains(&*stored.sha256) {
            self.check_share(&state, whom, what, (stored.length, stored.length))?;
        }
        state.came(&stored.sha256, Some(Arc::clone(whom)), now);
        Ok(())
    }
}

impl State {
    /// What the functions and pools of `whom` hold, and what came for them and isn't held yet.
    fn digests_of(&self, whom: &str, now: Instant) -> BTreeSet<&str> {
        let is_theirs = |(of, until): (&Option<Arc<str>>, &Instant)| {
            of.as_deref() == Some(whom) && now < *until
        };
        let fresh = self.fresh.iter();
        let fresh = fresh.filter(|(_, fresh)| fresh.iter().any(is_theirs));
        let fresh = fresh.map(|(sha256, _)| sha256.as_str());
        self.held_by(whom).chain(fresh).collect()
    }

    /// What the functions and pools of `whom` hold.
    fn held_by<'a>(&'a self, whom: &str) -> impl Iterator<Item = &'a str> {
        let held = self.held.iter();
        let held = held.filter(move |(owner, _)| namespace_of(owner) == Some(whom));
        held.flat_map(|(_, digests)| digests.iter().map(String::as_str))
    }
}

/// The namespace of an owner: `namespace/name`, and what kind it is before that where it is no function.
pub(super) fn namespace_of(owner: &str) -> Option<&str> {
    owner.rsplit('/').nth(1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Expected;
    use super::super::folder::FRESH;
    use super::*;

    /// Would fail if a namespace could have more than its share by fetching at once, by its pools or by what others fetched; if
    /// what two of its functions share counted twice; or if it kept others from having theirs.
    #[tokio::test]
    async fn a_namespace_has_its_share_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::shared(folder.path(), 100, Some(10)).unwrap();
        let (ours, theirs) = (store.on_behalf_of("shop"), store.on_behalf_of("bank"));
        let first = ours.put(&b"aaaa"[..]).await.unwrap();
        // It isn't held yet.
        let error = ours.put(&b"bbbbbbb"[..]).await.unwrap_err();
        assert_eq!(error.reason(), "ShareFull");
        assert!(!error.is_transient(), "what came is going to be held");
        let said = "`shop` may have 10 bytes of the store, and has 4 already: not the 7 bytes of";
        assert!(error.to_string().contains(said), "{error}");

        for owner in ["shop/f", "shop/g"] {
            store.hold(owner, [first.sha256.clone()]);
        }
        let second = ours.put(&b"bbbbbb"[..]).await.unwrap();
        store.hold("pool/shop/large", [second.sha256.clone()]);
        let error = ours.put(&b"c"[..]).await.unwrap_err();
        assert!(!error.is_transient(), "{error}");
        // What it has already it may name again, and others may have it, too.
        ours.claim("it", &first).await.unwrap();
        store.hold("shop/f", [first.sha256.clone()]);
        assert_eq!(ours.put(&b"aaaa"[..]).await.unwrap(), first);
        let again = Expected {
            what: "it".to_owned(),
            sha256: Some(first.sha256.clone()),
            length: Some(4),
            limit: 4,
        };
        let chunks = futures::stream::iter([Ok(b"aaaa"[..].into())]);
        assert_eq!(ours.save(again, chunks).await.unwrap(), first);
        theirs.claim("it", &second).await.unwrap();
        theirs.put(&b"ccccc"[..]).await.unwrap_err();
        let third = theirs.put(&b"dddd"[..]).await.unwrap();
        ours.claim("it", &third).await.unwrap_err();
        // What is nobody's has no bound.
        store.put(&b"eeeeeeeeeeeeeee"[..]).await.unwrap();

        store.release("shop/f");
        ours.claim("it", &third).await.unwrap_err();
        store.release("shop/g");
        ours.claim("it", &third).await.unwrap();
        ours.put(&b"f"[..]).await.unwrap_err();
    }

    /// Would fail if what is found again went as if it hadn't been, before it can be held.
    #[tokio::test]
    async fn what_is_claimed_again_is_fresh_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), 10).unwrap().on_behalf_of("shop");
        let stored = store.put(&b"aaaaaa"[..]).await.unwrap();
        let second = Duration::from_secs(1);
        store.folder.age(FRESH - second);
        store.claim("it", &stored).await.unwrap();
        store.folder.age(second);
        let error = store.put(&b"bbbbbb"[..]).await.unwrap_err();
        assert_eq!(error.reason(), "StoreFull");
    }

    /// Would fail if what a function's fetch found went with another function that held it, or with another namespace that found
    /// it, too.
    #[tokio::test]
    async fn what_came_for_one_waits_for_it_whatever_others_do() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), 10).unwrap();
        let (ours, theirs) = (store.on_behalf_of("shop"), store.on_behalf_of("bank"));
        let stored = ours.put(&b"aaaaaa"[..]).await.unwrap();
        let held = || [stored.sha256.clone()];
        store.hold("shop/old", held());
        ours.claim("it", &stored).await.unwrap();
        store.release("shop/old");
        let error = theirs.put(&b"bbbbbb"[..]).await.unwrap_err();
        assert_eq!(error.reason(), "StoreFull");

        theirs.claim("it", &stored).await.unwrap();
        store.hold("bank/g", held());
        store.release("bank/g");
        let error = theirs.put(&b"bbbbbb"[..]).await.unwrap_err();
        assert_eq!(error.reason(), "StoreFull");

        store.hold("shop/new", held());
        store.release("shop/new");
        theirs.put(&b"bbbbbb"[..]).await.unwrap();
        assert!(!store.has(&stored.sha256).await.unwrap());
    }
}
