//! What the tags of a pool's models meant, noted on the pool's Deployment.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use wisp_api::RuntimePool;
use wisp_contract::keys::Root;

use super::models::Kept;
use super::{PoolId, Pools};
use crate::names::{self, Ownership};
use crate::pins;
use crate::resolve::{Pin, Pins};

impl Pools {
    /// What the tags of the pool's models meant when they were fetched first, by whatever operator.
    pub(super) fn pins(&self, id: &PoolId, pool: &RuntimePool) -> Pins {
        let deployments = &self.cluster.warm_deployments;
        let deployment = deployments.get(id, &names::pool(id.name()));
        let ours =
            deployment.filter(|found| names::ownership(pool, &found.metadata) == Ownership::Ours);
        let root = &self.settings.root;
        ours.and_then(|found| pins::noted(&*found, root, uid(pool), &spec_digest(pool)))
            .unwrap_or_default()
    }
}

/// What another operator takes the models by, as annotations of the pool's Deployment.
pub(super) fn notes(
    pool: &RuntimePool,
    kept: &[Kept],
    root: &Root,
) -> Option<BTreeMap<String, String>> {
    let notes = pins::notes(root, uid(pool), spec_digest(pool), &pins_of(kept)).ok()?;
    (!kept.is_empty()).then_some(notes)
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

fn uid(pool: &RuntimePool) -> &str {
    pool.metadata.uid.as_deref().unwrap_or_default()
}

/// A digest of the models as they are written. As long as it is the same, tags mean what they meant.
fn spec_digest(pool: &RuntimePool) -> String {
    let json = serde_json::to_vec(&pool.spec.models).unwrap_or_default();
    hex::encode(Sha256::digest(json))
}
