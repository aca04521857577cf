//! Namespaces that refuse that a pod of a pool becomes a function's, as an admission policy may: each that is taken there is lost.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::live::lock;

/// So long no pod is taken in a namespace that refused one.
const REFUSED_FOR: Duration = Duration::from_secs(300);

/// When each namespace refused one last, and why.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<BTreeMap<String, (Instant, String)>>);

/// Whether the API server heard, and doesn't want it: an authorizer, a policy, or a validation.
pub(crate) fn is_refusal(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422))
}

impl Refusals {
    /// Takes note of a refusal.
    pub(super) fn note(&self, namespace: &str, why: String, now: Instant) {
        lock(&self.0).insert(namespace.to_owned(), (now, why));
    }

    /// It refuses nothing any more.
    pub(super) fn forget(&self, namespace: &str) {
        lock(&self.0).remove(namespace);
    }

    /// Why no pod is taken there as of `now`, if none is.
    pub(super) fn why(&self, namespace: &str, now: Instant) -> Option<String> {
        let refusals = lock(&self.0);
        let (at, why) = refusals.get(namespace)?;
        (now.saturating_duration_since(*at) < REFUSED_FOR).then(|| why.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if pods were lost one after the other, or none were ever taken again once a policy was mended.
    #[test]
    fn a_namespace_is_tried_again_after_a_while() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        refusals.note("shop", "denied".to_owned(), now);
        let why = |namespace, after| refusals.why(namespace, now + Duration::from_secs(after));
        assert_eq!(why("shop", 299).as_deref(), Some("denied"));
        assert_eq!((why("shop", 300), why("other", 0)), (None, None));
        refusals.forget("shop");
        assert_eq!(why("shop", 0), None);
    }
}
