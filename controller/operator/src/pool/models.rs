//! The models that a pool's pods have ready: fetched into the store once per change of the pool's spec.

use std::sync::Arc;
use std::time::Instant;

use kube::ResourceExt as _;
use kube::api::ObjectMeta;
use sha2::{Digest as _, Sha256};
use wisp_api::{ComponentSource, Files, Function, FunctionSpec, RuntimePool};
use wisp_contract::assignment::{Preload, artifact_file};
use wisp_contract::config::{Env, Model};

use super::{PoolId, Pools};
use crate::artifacts::Stored;
use crate::live::lock;
use crate::reconcile::assignment::artifact;
use crate::reconcile::desired::Settings;
use crate::resolve::{self, Bytes, Pins, ResolveError};
use crate::resolver::pause;

/// How far the models of a pool are.
#[derive(Debug, Clone)]
pub(super) enum State {
    /// They are being fetched.
    Working,
    /// They are in the store.
    Here(Arc<[Kept]>),
    /// They can't be fetched, and are tried again then.
    Failed(ResolveError, Instant),
}

/// The models of one generation of a pool.
#[derive(Debug, Clone)]
pub(super) struct Models {
    generation: i64,
    failures: u32,
    pub(super) state: State,
}

/// A model in the store.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Kept {
    pub(super) model: Model,
    pub(super) stored: Stored,
}

impl State {
    /// Those that pods have, or will.
    pub(super) fn kept(&self) -> &[Kept] {
        match self {
            Self::Here(kept) => kept,
            Self::Working | Self::Failed(..) => &[],
        }
    }
}

impl Pools {
    /// The models of the pool. What isn't known begins to be found out.
    pub(super) fn models(self: &Arc<Self>, now: Instant, id: &PoolId, pool: &RuntimePool) -> State {
        let generation = pool.metadata.generation.unwrap_or(0);
        let mut all = lock(&self.known);
        let known = all.entry(id.clone()).or_default();
        if pool.spec.models.is_empty() {
            if known.models.take().is_some() {
                self.artifacts.release(&owner(id));
            }
            return State::Here(Arc::default());
        }
        let failures = match &known.models {
            Some(models) if models.generation == generation => match models.state {
                State::Failed(_, retry_at) if now >= retry_at => models.failures,
                _ => return models.state.clone(),
            },
            _ => 0,
        };
        known.models = Some(Models {
            generation,
            failures,
            state: State::Working,
        });
        drop(all);
        let (this, id, pool) = (Arc::clone(self), id.clone(), pool.clone());
        tokio::spawn(async move {
            let found = this.fetch(&pool).await;
            let mut all = lock(&this.known);
            let known = all.get_mut(&id).and_then(|known| known.models.as_mut());
            if let Some(models) = known.filter(|models| models.generation == generation) {
                models.state = match found {
                    Ok(kept) => {
                        let digests = kept.iter().flat_map(|kept| kept.stored.digests());
                        this.artifacts.hold(&owner(&id), digests.collect());
                        State::Here(kept.into())
                    }
                    Err(error) => {
                        tracing::warn!(pool = %id, reason = error.reason, %error, "a pool's models can't be fetched");
                        let pause = pause(models.failures, error.is_transient);
                        models.failures = models.failures.saturating_add(1);
                        State::Failed(error, Instant::now() + pause)
                    }
                };
            }
            drop(all);
            this.cluster.pools_changed.notify_one();
        });
        State::Working
    }

    async fn fetch(&self, pool: &RuntimePool) -> Result<Vec<Kept>, ResolveError> {
        let function = as_function(pool);
        let gathered = resolve::gather(&self.client, &function).await?;
        let found =
            resolve::models(&function, &gathered, &Pins::default(), &*self.artifacts).await?;
        let stored: Vec<Stored> = found
            .into_iter()
            .filter_map(|(_, bytes)| match bytes {
                Bytes::Stored(stored) => Some(stored),
                Bytes::Volume(_) => None,
            })
            .collect();
        Ok(kept(&function, stored))
    }
}

/// What pods are told to have ready: the library, where there are functions with models, and the pool's own models.
pub(super) fn preload(kept: &[Kept], has_models: bool, settings: &Settings) -> Preload {
    let at = |kept: &Kept| artifact(&kept.stored, &settings.root, &settings.operator);
    Preload {
        onnxruntime: has_models || !kept.is_empty(),
        models: kept.iter().map(|kept| kept.model.clone()).collect(),
        artifacts: kept.iter().map(at).collect(),
    }
}

/// As an annotation.
pub(super) fn digest(preload: &str) -> String {
    hex::encode(Sha256::digest(preload))
        .chars()
        .take(16)
        .collect()
}

/// How many bytes the models have.
pub(super) fn bytes(kept: &[Kept]) -> u64 {
    kept.iter()
        .fold(0, |sum, kept| sum.saturating_add(kept.stored.size))
}

/// Who holds them in the store.
pub(super) fn owner(id: &PoolId) -> String {
    format!("pool/{id}")
}

/// A Function with the same models, which are resolved as any Function's.
fn as_function(pool: &RuntimePool) -> Function {
    Function {
        metadata: ObjectMeta {
            name: Some(pool.name_any()),
            namespace: pool.namespace(),
            ..ObjectMeta::default()
        },
        spec: FunctionSpec {
            component: Some(ComponentSource {
                pull_secrets: pool.spec.pull_secrets.clone(),
                ..ComponentSource::default()
            }),
            models: pool.spec.models.clone(),
            ..FunctionSpec::default()
        },
        status: None,
    }
}

fn kept(function: &Function, stored: Vec<Stored>) -> Vec<Kept> {
    let names = function.spec.models.iter().map(|model| model.name.clone());
    let file = |stored: &Stored| artifact_file(&stored.sha256);
    let files = Files {
        component: Default::default(),
        models: names.zip(stored.iter().map(file)).collect(),
        key_value: Default::default(),
    };
    let models = function
        .to_config(&files, Env::default())
        .map(|config| config.models)
        .unwrap_or_default();
    models
        .into_iter()
        .zip(stored)
        .map(|(model, stored)| Kept {
            model: Model {
                sha256: None,
                ..model
            },
            stored,
        })
        .collect()
}
