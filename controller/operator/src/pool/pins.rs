//! What the tags of a pool's models meant, noted on the pool's Deployment, so that another operator takes the same, and replaces no
//! pod. Whoever may write Deployments could note there a digest of what others have: only what an operator noted counts.

use std::collections::BTreeMap;

use kube::ResourceExt as _;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use wisp_api::RuntimePool;
use wisp_contract::keys::Root;

use super::models::Kept;
use super::{PoolId, Pools};
use crate::names::{self, Ownership};
use crate::reconcile::desired::{PINNED_ANNOTATION, PINS_ANNOTATION, SPEC_ANNOTATION, pins_in};
use crate::resolve::{Pin, Pins};

impl Pools {
    /// What the tags of the pool's models meant when they were fetched first, by whatever operator.
    pub(super) fn pins(&self, id: &PoolId, pool: &RuntimePool) -> Pins {
        let deployments = &self.cluster.warm_deployments;
        let deployment = deployments.get(id, &names::pool(id.name()));
        let ours = deployment
            .filter(|found| names::ownership(pool, &found.metadata) == Ownership::Ours)
            .filter(|found| is_pinned(pool, found.annotations(), &self.settings.root));
        ours.map_or_else(Pins::default, |deployment| pins_in(&*deployment))
    }
}

/// What another operator takes the models by, as annotations of the pool's Deployment.
pub(super) fn notes(
    pool: &RuntimePool,
    kept: &[Kept],
    root: &Root,
) -> Option<BTreeMap<String, String>> {
    let pins = serde_json::to_string(&pins_of(kept)).ok()?;
    let spec = spec_digest(pool);
    let mac = root.pins(uid(pool), &spec, &pins).0;
    let notes = [
        (SPEC_ANNOTATION, spec),
        (PINS_ANNOTATION, pins),
        (PINNED_ANNOTATION, mac),
    ];
    let notes = notes.map(|(key, value)| (key.to_owned(), value));
    (!kept.is_empty()).then(|| notes.into())
}

/// What the tags of the models meant.
pub(super) fn pins_of(kept: &[Kept]) -> Pins {
    let pin = |kept: &Kept| Pin {
        image: kept.stored.pinned.clone(),
        sha256: kept.stored.source.clone(),
    };
    let models = kept.iter();
    Pins {
        component: None,
        models: models
            .map(|kept| (kept.model.name.clone(), pin(kept)))
            .collect(),
    }
}

/// Whether the notes are an operator's, of this pool and of the models as they are written now.
fn is_pinned(pool: &RuntimePool, notes: &BTreeMap<String, String>, root: &Root) -> bool {
    let (Some(pins), Some(mac)) = (notes.get(PINS_ANNOTATION), notes.get(PINNED_ANNOTATION)) else {
        return false;
    };
    let expected = root.pins(uid(pool), &spec_digest(pool), pins).0;
    mac.as_bytes().ct_eq(expected.as_bytes()).into()
}

fn uid(pool: &RuntimePool) -> &str {
    pool.metadata.uid.as_deref().unwrap_or_default()
}

/// A digest of the models as they are written. As long as it is the same, tags mean what they meant.
fn spec_digest(pool: &RuntimePool) -> String {
    let json = serde_json::to_vec(&pool.spec.models).unwrap_or_default();
    hex::encode(Sha256::digest(json))
}
