//! The models that a pool's pods have ready: fetched into the store once per change of them, or of a Secret or ConfigMap that they
//! are fetched with, which are watched.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use kube::ResourceExt as _;
use kube::api::ObjectMeta;
use sha2::{Digest as _, Sha256};
use wisp_api::{ComponentSource, Files, Function, FunctionSpec, REQUESTED_AT, RuntimePool, Values};
use wisp_contract::assignment::{Preload, artifact_file};
use wisp_contract::config::Model;

use super::pins::pins_of;
use super::{PoolId, Pools};
use crate::artifacts::Stored;
use crate::attempts::digest_of;
use crate::live::lock;
use crate::reconcile::assignment::artifact;
use crate::reconcile::desired::Settings;
use crate::references;
use crate::resolve::{self, Bytes, Coming, Pins, ResolveError};
use crate::resolver::pause;

/// How far the models of a pool are.
#[derive(Debug, Clone)]
pub(super) enum State {
    /// They are being fetched.
    Working,
    /// They are in the store.
    Here(Arc<[Kept]>),
    /// They can't be fetched, and are tried again then; pods have those that were there before.
    Failed(ResolveError, Instant, Arc<[Kept]>),
}

/// The models of a pool.
#[derive(Debug, Clone)]
pub(super) struct Models {
    /// A digest of what says which these are, and how they are fetched.
    of: u64,
    /// What the annotation says by which somebody asks for another attempt.
    requested: Option<String>,
    /// The number of the last attempt: an earlier one, of what the models were before, counts no more.
    attempt: u64,
    /// Whether it goes on.
    is_tried: bool,
    /// Whether what they are fetched with has changed since it began.
    has_changed: bool,
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
    /// Those that pods have, or will; `None` while none were there.
    pub(super) fn kept(&self) -> Option<&Arc<[Kept]>> {
        match self {
            Self::Here(kept) => Some(kept),
            Self::Failed(_, _, kept) if !kept.is_empty() => Some(kept),
            Self::Working | Self::Failed(..) => None,
        }
    }

    /// The state while they are fetched anew: what is there stays, and why there is nothing newer.
    fn meanwhile(&self) -> Self {
        self.kept().map_or(Self::Working, |_| self.clone())
    }
}

impl Pools {
    /// The models of the pool. What isn't known begins to be found out.
    pub(super) fn models(self: &Arc<Self>, now: Instant, id: &PoolId, pool: &RuntimePool) -> State {
        let spec = &pool.spec;
        let named = serde_json::to_string(&(&spec.models, &spec.pull_secrets)).unwrap_or_default();
        let of = digest_of(&(&pool.metadata.uid, named));
        let mut all = lock(&self.known);
        let known = all.entry(id.clone()).or_default();
        if pool.spec.models.is_empty() {
            if known.models.take().is_some() {
                self.release_models(id);
            }
            return State::Here(Arc::default());
        }
        let requested = pool.annotations().get(REQUESTED_AT).cloned();
        let (failures, state) = match &known.models {
            Some(models) if models.of == of => {
                let is_asked = requested.is_some() && models.requested != requested;
                let is_mended = models.has_changed || is_asked;
                let is_due =
                    matches!(models.state, State::Failed(_, retry_at, _) if now >= retry_at);
                if models.is_tried || !(is_mended || is_due) {
                    return models.state.clone();
                }
                let failures = if is_mended { 0 } else { models.failures };
                // What is here stays until it is known what comes.
                (failures, models.state.meanwhile())
            }
            _ => (0, State::Working),
        };
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed);
        known.models = Some(Models {
            of,
            requested,
            attempt,
            is_tried: true,
            has_changed: false,
            failures,
            state: state.clone(),
        });
        drop(all);
        let named = references::of(&as_function(pool));
        self.references.set(id, &named);
        let mut pins = match state.kept() {
            Some(kept) => pins_of(kept),
            None => self.pins(id, pool),
        };
        if !pins.models.is_empty() {
            // What is fetched for others meanwhile must not push it out.
            let known = pins.models.values().map(|pin| pin.sha256.clone());
            self.artifacts.hold(&owner(id), known.collect());
        }
        let (this, id, function) = (Arc::clone(self), id.clone(), as_function(pool));
        tokio::spawn(async move {
            // Until it is held, or of no use.
            let coming = Coming::new(&*this.artifacts, &id);
            let found = loop {
                let found = this.fetch(&id, &function, &pins, &coming).await;
                let error = found.as_ref().err();
                let Some(image) = error.and_then(|error| pins.lose(&function, error)) else {
                    break found;
                };
                tracing::info!(pool = %id, image, "what the tag of a pool's model meant is no more: it is resolved anew");
            };
            let mut all = lock(&this.known);
            let known = all.get_mut(&id).and_then(|known| known.models.as_mut());
            if let Some(models) = known.filter(|models| models.attempt == attempt) {
                models.is_tried = false;
                models.state = match found {
                    Ok(kept) => {
                        let digests = kept.iter().flat_map(|kept| kept.stored.digests());
                        this.artifacts.hold(&owner(&id), digests.collect());
                        State::Here(kept.into())
                    }
                    Err(error) => {
                        tracing::warn!(pool = %id, reason = error.reason, %error, "a pool's models can't be fetched");
                        let pause = pause(models.failures, &error);
                        models.failures = models.failures.saturating_add(1);
                        let kept = models.state.kept().cloned().unwrap_or_default();
                        State::Failed(error, Instant::now() + pause, kept)
                    }
                };
            }
            drop(all);
            this.cluster.pools_changed.notify_one();
        });
        state
    }

    /// Something changed that the pool's models are fetched with: they are fetched anew.
    pub(super) fn inputs_changed(&self, id: &PoolId) {
        if let Some(known) = lock(&self.known).get_mut(id)
            && let Some(models) = &mut known.models
        {
            models.has_changed = true;
        }
        self.cluster.pools_changed.notify_one();
    }

    /// The pool has no models any more.
    pub(super) fn release_models(&self, id: &PoolId) {
        self.artifacts.release(&owner(id));
        self.references.set(id, &BTreeSet::new());
    }

    async fn fetch(
        &self,
        id: &PoolId,
        function: &Function,
        pins: &Pins,
        coming: &Coming<'_>,
    ) -> Result<Vec<Kept>, ResolveError> {
        let gathered = resolve::gather(&self.client, function).await?;
        if !gathered.versions.is_empty() {
            self.references.used(id, &gathered.versions);
        }
        let found = resolve::models(function, &gathered, pins, coming).await?;
        let stored: Vec<Stored> = found
            .into_iter()
            .filter_map(|(_, bytes)| match bytes {
                Bytes::Stored(stored) => Some(stored),
                Bytes::Volume(_) => None,
            })
            .collect();
        Ok(kept(function, stored))
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
        .to_config(&files, Values::default())
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
