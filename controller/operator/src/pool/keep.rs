//! Keeps the pools as they should be: their objects, how many pods stand by, and what is said of them.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource as _, ResourceExt as _};
use serde_json::json;
use wisp_api::{RuntimePool, RuntimePoolStatus};
use wisp_contract::FunctionId;
use wisp_contract::operator::pod::POOL;

use super::claimable::Misfit;
use super::models::{self, State};
use super::near::{Near, Neighbourhoods};
use super::status::{Candidate, Observed, status};
use super::{PoolId, Pools, defaults, pool_id};
use crate::autoscale::{self, chain};
use crate::cluster::pods;
use crate::live::lock;
use crate::names::{self, MANAGER, SCALER};
use crate::reconcile::apply::{ApplyError, apply_pool};
use crate::reconcile::desired::{Settings, replicated};
use crate::reconcile::pod;

/// How often all pools are looked at.
const TICK: Duration = Duration::from_secs(1);
/// After so long a process that leads has seen all functions that were there before: those it knows nothing of by then it
/// can't resolve.
const RECALLED: Duration = Duration::from_secs(30);
/// So long applied objects are taken to be as they were applied.
const APPLIED_FOR: Duration = Duration::from_secs(600);

/// What was applied of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Applied {
    digest: u64,
    at: Instant,
}

/// Why a pool isn't as it should be.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error("the number of pods can't be set")]
    Scale(#[source] kube::Error),
    #[error("the status can't be written")]
    Status(#[source] kube::Error),
}

/// The Secret with the key of the pods' control ports, and with what they have ready.
pub(super) fn secret(pool: &RuntimePool, preload: &str, settings: &Settings) -> Secret {
    let name = pool.name_any();
    let key = settings.root.pool(&pool.uid().unwrap_or_default());
    Secret {
        metadata: names::owned(pool, &names::pool(&name), names::pool_labels(&name)),
        data: Some(
            [
                (
                    names::CONTROL_KEY.to_owned(),
                    ByteString(key.0.into_bytes()),
                ),
                (
                    names::PRELOAD_KEY.to_owned(),
                    ByteString(preload.as_bytes().to_vec()),
                ),
            ]
            .into(),
        ),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

/// The pods that stand by, without their number.
pub(super) fn deployment(
    pool: &RuntimePool,
    preload: &str,
    models: u64,
    settings: &Settings,
) -> Deployment {
    let name = pool.name_any();
    let template = pod::warm(pool, &models::digest(preload), models, settings);
    Deployment {
        metadata: names::owned(pool, &names::pool(&name), names::pool_labels(&name)),
        spec: replicated([(POOL.to_owned(), name)].into(), template),
        status: None,
    }
}

impl Pools {
    /// Keeps all pools, from when this process leads and knows what there is. Never returns.
    pub async fn run(self: Arc<Self>) {
        self.cluster.listed().await;
        let recovery = Arc::clone(&self);
        tokio::spawn(async move { recovery.recover_all().await });
        let trials = Arc::clone(&self);
        tokio::spawn(async move { trials.trials.keep(&*trials.artifacts).await });
        let began = Instant::now();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.cluster.pools_changed.notified() => {}
            }
            let now = Instant::now();
            self.tick(now, now.saturating_duration_since(began)).await;
        }
    }

    /// `age` is how long this process has led.
    async fn tick(self: &Arc<Self>, now: Instant, age: Duration) {
        self.forget(now);
        let pools = self.cluster.pools().state();
        self.ask_new_pods(&pools);
        self.queue.changed();
        let functions = Neighbourhoods::of(&self.cluster.functions().state());
        self.hold(now, &pools, &functions);
        self.default_pools(&pools, &functions).await;
        let known: BTreeSet<PoolId> = pools.iter().filter_map(|pool| pool_id(pool)).collect();
        lock(&self.known).retain(|id, _| {
            let is_there = known.contains(id);
            if !is_there {
                self.metrics.forget_pool(id);
                self.artifacts.release(&models::owner(id));
            }
            is_there
        });
        for pool in pools {
            let Some(id) = pool_id(&pool) else { continue };
            if pool.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let near = functions.near(id.namespace());
            if let Err(error) = self.keep(now, age, &id, &pool, near).await {
                tracing::warn!(pool = %id, error = %chain(&error), "a pool isn't as it should be");
            }
        }
    }

    async fn default_pools(&self, pools: &[Arc<RuntimePool>], functions: &Neighbourhoods) {
        let todo = defaults::todo(&functions.namespaces(), pools, self.defaults);
        for namespace in &todo.make {
            if let Err(error) = defaults::make(&self.client, namespace, self.defaults).await {
                tracing::debug!(namespace, %error, "the namespace could not be given a pool");
            }
        }
        let ours = pools.iter().filter(|pool| {
            defaults::is_default(pool) && todo.drop.contains(&pool.namespace().unwrap_or_default())
        });
        for pool in ours {
            if let Err(error) = defaults::drop_it(&self.client, pool).await {
                tracing::debug!(pool = %pool.name_any(), %error, "a pool could not be dropped");
            }
        }
    }

    async fn keep(
        self: &Arc<Self>,
        now: Instant,
        age: Duration,
        id: &PoolId,
        pool: &RuntimePool,
        near: &Near,
    ) -> Result<(), KeepError> {
        let models = self.models(now, id, pool);
        let found = self
            .cluster
            .warm_deployments
            .get(id, &names::pool(id.name()));
        let current = found
            .as_ref()
            .and_then(|deployment| deployment.spec.replicas);
        let (desired, claims, applied) = {
            let mut all = lock(&self.known);
            let known = all.entry(id.clone()).or_default();
            let (min, max) = (pool.spec.min_replicas, pool.spec.max_replicas);
            // Another operator knew how many are wanted beyond the fewest.
            let standing = current.and_then(|current| u32::try_from(current).ok());
            let more = standing.filter(|standing| *standing > min);
            known.wakes.assume(now, more.unwrap_or(0));
            (known.wakes.size(now, min, max), known.claims, known.applied)
        };
        // Until its models are there, the pool stays as it is.
        if let State::Here(kept) = &models {
            let preload = models::preload(kept, near.has_models, &self.settings);
            let preload = serde_json::to_string(&preload).unwrap_or_default();
            let secret = secret(pool, &preload, &self.settings);
            let deployment = deployment(pool, &preload, models::bytes(kept), &self.settings);
            let digest = digest(&secret, &deployment);
            let is_applied = applied.is_some_and(|applied| {
                applied.digest == digest && now.saturating_duration_since(applied.at) < APPLIED_FOR
            });
            if !is_applied || found.is_none() {
                apply_pool(&self.client, pool, &secret, &deployment, desired).await?;
                if let Some(known) = lock(&self.known).get_mut(id) {
                    known.applied = Some(Applied { digest, at: now });
                }
            }
        }
        let replicas = i32::try_from(desired).unwrap_or(i32::MAX);
        if current.is_some_and(|current| current != replicas) {
            self.scale(id, replicas).await.map_err(KeepError::Scale)?;
        }
        let candidates = self.candidates(age, pool, &near.functions, &models);
        self.say(id, pool, desired, claims, &models, candidates)
            .await
    }

    async fn scale(&self, id: &PoolId, replicas: i32) -> Result<(), kube::Error> {
        let api = Api::<Deployment>::namespaced(self.client.clone(), id.namespace());
        let parameters = PatchParams {
            field_manager: Some(SCALER.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        api.patch_scale(&names::pool(id.name()), &parameters, &patch)
            .await
            .map(drop)
    }

    async fn say(
        &self,
        id: &PoolId,
        pool: &RuntimePool,
        desired: u32,
        claims: i32,
        models: &State,
        candidates: Option<Vec<Candidate>>,
    ) -> Result<(), KeepError> {
        let standing = self.cluster.warm.of(id);
        let alive = standing.iter().filter(|pod| pods::is_alive(pod));
        let current = self.current(pool);
        let ready = current.iter().filter(|pod| pods::is_ready(pod));
        let deployment = self
            .cluster
            .warm_deployments
            .get(id, &names::pool(id.name()));
        let trouble = standing
            .iter()
            .find_map(|pod| pods::trouble(pod))
            .or_else(|| pods::refused(deployment.as_deref()?));
        let next = status(&Observed {
            pool,
            desired,
            alive: alive.count(),
            ready: ready.count(),
            claims,
            trouble,
            models,
            candidates,
            now: autoscale::now(),
        });
        self.metrics
            .pool(id, next.ready_replicas, next.desired_replicas);
        if pool.status.as_ref() == Some(&next) {
            return Ok(());
        }
        self.write(pool, &next).await.map_err(KeepError::Status)
    }

    /// Which of the functions `near` can take pods of `pool`. `None` while that is being found out: what pods they need, for
    /// as long as this process has led, or what models the pool's pods have.
    fn candidates(
        &self,
        age: Duration,
        pool: &RuntimePool,
        near: &[FunctionId],
        models: &State,
    ) -> Option<Vec<Candidate>> {
        let State::Here(kept) = models else {
            return None;
        };
        let bytes = models::bytes(kept);
        near.iter()
            .map(|function| {
                let live = self.live.get(function);
                let fits = live.and_then(|live| live.fits(pool, bytes));
                let fits = fits.or((age >= RECALLED).then_some(Err(Misfit::Unknown)))?;
                Some((function.name().to_owned(), fits))
            })
            .collect()
    }

    async fn write(&self, pool: &RuntimePool, next: &RuntimePoolStatus) -> Result<(), kube::Error> {
        let namespace = pool.namespace().unwrap_or_default();
        let api = Api::<RuntimePool>::namespaced(self.client.clone(), &namespace);
        let patch = json!({
            "apiVersion": RuntimePool::api_version(&()), "kind": RuntimePool::kind(&()),
            "metadata": {"name": pool.name_any(), "uid": pool.uid()},
            "status": next,
        });
        let parameters = PatchParams::apply(MANAGER).force();
        match api
            .patch_status(&pool.name_any(), &parameters, &Patch::Apply(&patch))
            .await
        {
            // It was deleted meanwhile, or made anew.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            other => other.map(drop),
        }
    }
}

fn digest(secret: &Secret, deployment: &Deployment) -> u64 {
    let mut hasher = DefaultHasher::new();
    for text in [
        serde_json::to_string(secret),
        serde_json::to_string(deployment),
    ] {
        text.unwrap_or_default().hash(&mut hasher);
    }
    hasher.finish()
}
