//! Keeps the pools as they should be: their objects, how many pods stand by, and what is said of them.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource as _, ResourceExt as _};
use serde::Serialize;
use serde_json::json;
use wisp_api::{RuntimePool, RuntimePoolStatus};
use wisp_contract::FunctionId;
use wisp_contract::log::chain;
use wisp_contract::operator::pod::POOL;

use super::claimable::Misfit;
use super::models::{self, Kept, State};
use super::near::{Near, Neighbourhoods};
use super::status::{Candidate, Observed, status};
use super::{PoolId, Pools, defaults, pins, pool_id};
use crate::attempts::{Attempts, digest_of};
use crate::autoscale;
use crate::cluster::pods;
use crate::live::lock;
use crate::names::{self, MANAGER, SCALER};
use crate::reconcile::apply::{ApplyError, apply_pool};
use crate::reconcile::desired::{Settings, replicated};
use crate::reconcile::due::applied_for;
use crate::reconcile::{network, pod};

/// How often all pools are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How often it is looked whether pods that functions took have what these ask for.
const RESIZED_EVERY: Duration = Duration::from_secs(10);
/// After so long a process that leads has seen all functions that were there before: those it knows nothing of by then it
/// can't resolve.
const RECALLED: Duration = Duration::from_secs(30);
/// How long the watch may take to show a Deployment that was made.
const SEEN_WITHIN: Duration = Duration::from_secs(5);
/// How often a pool's status is written at the most: where many functions are woken, it changes with each. What is so in the end is
/// written as pools are looked at again.
pub(super) const SAID_EVERY: Duration = TICK;
/// So long a status that was written isn't written again that the cluster shows otherwise: CustomResourceDefinitions of an
/// older version drop what they don't know.
const SAID_FOR: Duration = Duration::from_secs(300);
/// How much is written at once.
pub(super) const WRITTEN_AT_ONCE: usize = 32;
/// The longest that the API server may take for one of them: its webhooks may take 30 s.
const WRITTEN_WITHIN: Duration = Duration::from_secs(40);

/// What was applied of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Applied {
    digest: u64,
    at: Instant,
}

/// What was said of a pool.
#[derive(Debug, Clone)]
pub(super) struct Said {
    /// The pool's uid.
    of: Option<String>,
    status: RuntimePoolStatus,
    at: Instant,
}

/// The objects of a pool.
struct Objects {
    policy: Option<NetworkPolicy>,
    secret: Secret,
    deployment: Deployment,
    digest: u64,
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
    #[error("the namespace's default pool can't be made, changed or removed")]
    Default(#[source] kube::Error),
}

/// The Secret with the key of the pods' control ports, and with what they have ready.
pub(super) fn secret(pool: &RuntimePool, preload: &str, settings: &Settings) -> Secret {
    let name = pool.name_any();
    let key = pod::warm_key(pool, settings);
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
    kept: &[Kept],
    settings: &Settings,
) -> Deployment {
    let name = pool.name_any();
    let (digest, bytes) = (models::digest(preload), models::bytes(kept));
    let template = pod::warm(pool, &digest, bytes, settings);
    let mut metadata = names::owned(pool, &names::pool(&name), names::pool_labels(&name));
    metadata.annotations = pins::notes(pool, kept, &settings.root);
    Deployment {
        metadata,
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
        let (trials, artifacts) = (Arc::clone(&self.trials), Arc::clone(&self.artifacts));
        tokio::spawn(async move { trials.keep(&*artifacts).await });
        let began = Instant::now();
        let [mut ticks, mut resizes] = [TICK, RESIZED_EVERY].map(|period| {
            let mut ticks = tokio::time::interval(period);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            ticks
        });
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = resizes.tick() => self.resize_missed(Instant::now()),
                () = self.cluster.pools_changed.notified() => {}
            }
            let now = Instant::now();
            self.tick(now, now.saturating_duration_since(began));
        }
    }

    /// `age` is how long this process has led.
    pub(super) fn tick(self: &Arc<Self>, now: Instant, age: Duration) {
        self.forget(now);
        let pools = self.cluster.pools().state();
        self.ask_new_pods(&pools);
        self.queue.changed();
        let functions = Neighbourhoods::of(&self.cluster.functions().state());
        self.hold(now, &pools, &functions);
        self.default_pools(now, &pools, &functions);
        let known: BTreeSet<PoolId> = pools.iter().filter_map(|pool| pool_id(pool)).collect();
        lock(&self.known).retain(|id, _| {
            let is_there = known.contains(id);
            if !is_there {
                self.metrics.forget_pool(id);
                self.release_models(id);
            }
            is_there
        });
        for attempts in [&self.objects, &self.statuses] {
            attempts.retain(|id| known.contains(id));
        }
        for pool in pools {
            let Some(id) = pool_id(&pool) else { continue };
            if pool.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let near = functions.near(id.namespace());
            self.keep(now, age, &id, &pool, near);
        }
    }

    /// Has something written, unless it is being written, or failed a moment ago.
    fn write<K>(
        self: &Arc<Self>,
        attempts: fn(&Self) -> &Attempts<K>,
        key: K,
        what: u64,
        now: Instant,
        write: impl Future<Output = Result<(), KeepError>> + Send + 'static,
    ) where
        K: Ord + Clone + Display + Send + 'static,
    {
        if !attempts(self).begin(&key, what, now) {
            return;
        }
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let turn = this.writing.acquire().await;
            let result = match tokio::time::timeout(WRITTEN_WITHIN, write).await {
                Ok(result) => result.map_err(|error| chain(&error)),
                Err(_) => Err(format!(
                    "the API server doesn't answer within {} s",
                    WRITTEN_WITHIN.as_secs()
                )),
            };
            drop(turn);
            if let Err(error) = &result {
                tracing::warn!(pool = %key, error, "a pool isn't as it should be");
            }
            attempts(&this).end(&key, result, Instant::now());
            this.cluster.pools_changed.notify_one();
        });
    }

    fn default_pools(
        self: &Arc<Self>,
        now: Instant,
        pools: &[Arc<RuntimePool>],
        functions: &Neighbourhoods,
    ) {
        let todo = defaults::todo(&functions.namespaces(), pools, &self.defaults);
        self.default_pools
            .retain(|namespace| todo.contains_key(namespace));
        for (namespace, what) in todo {
            let (client, defaults) = (self.client.clone(), self.defaults.clone());
            let digest = digest_of(&(&what, text(&defaults.pod), defaults.min, defaults.max));
            let key = namespace.clone();
            let done = async move {
                let done = defaults::make_so(&client, &namespace, what, &defaults).await;
                done.map_err(KeepError::Default)
            };
            self.write(|pools| &pools.default_pools, key, digest, now, done);
        }
    }

    fn keep(
        self: &Arc<Self>,
        now: Instant,
        age: Duration,
        id: &PoolId,
        pool: &Arc<RuntimePool>,
        near: &Near,
    ) {
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
        let kept_for = if found.is_some() {
            applied_for(&pool.uid().unwrap_or_default())
        } else {
            SEEN_WITHIN
        };
        let is_applied = |digest| {
            applied.is_some_and(|applied| {
                applied.digest == digest && now.saturating_duration_since(applied.at) < kept_for
            })
        };
        // Until its models are there, the pool stays as it is.
        let objects = models.kept().map(|kept| self.objects(pool, kept, near));
        let objects = objects.filter(|objects| !is_applied(objects.digest));
        let replicas = i32::try_from(desired).unwrap_or(i32::MAX);
        let scale = current
            .is_some_and(|current| current != replicas)
            .then_some(replicas);
        if objects.is_some() || scale.is_some() {
            let digest = digest_of(&(objects.as_ref().map(|objects| objects.digest), scale));
            let made = Arc::clone(self).make(id.clone(), Arc::clone(pool), desired, objects, scale);
            self.write(|pools| &pools.objects, id.clone(), digest, now, made);
        }
        let candidates = self.candidates(age, pool, &near.functions, &models);
        self.say(now, id, pool, desired, claims, &models, candidates);
    }

    /// What `pool` is made of, with the models that it keeps.
    fn objects(&self, pool: &RuntimePool, kept: &[Kept], near: &Near) -> Objects {
        let preload = models::preload(kept, near.has_models, &self.settings);
        let preload = serde_json::to_string(&preload).unwrap_or_default();
        let peers = self.settings.network.as_ref();
        let policy = peers.map(|peers| network::pool_policy(pool, peers));
        let secret = secret(pool, &preload, &self.settings);
        let mut deployment = deployment(pool, &preload, kept, &self.settings);
        if self.has_outdated(pool) {
            let strategy = deployment.spec.strategy.as_mut();
            if let Some(rolling) = strategy.and_then(|strategy| strategy.rolling_update.as_mut()) {
                // The next may find no room beside them.
                rolling.max_unavailable = Some(IntOrString::String("100%".to_owned()));
            }
        }
        Objects {
            digest: digest_of(&[text(&policy), text(&secret), text(&deployment)]),
            policy,
            secret,
            deployment,
        }
    }

    /// Makes the objects, and has so many pods stand by.
    async fn make(
        self: Arc<Self>,
        id: PoolId,
        pool: Arc<RuntimePool>,
        desired: u32,
        objects: Option<Objects>,
        scale: Option<i32>,
    ) -> Result<(), KeepError> {
        if let Some(objects) = objects {
            let Objects {
                policy,
                secret,
                deployment,
                ..
            } = &objects;
            let policy = policy.as_ref();
            apply_pool(&self.client, &pool, policy, secret, deployment, desired).await?;
            if let Some(known) = lock(&self.known).get_mut(&id) {
                known.applied = Some(Applied {
                    digest: objects.digest,
                    at: Instant::now(),
                });
            }
        }
        match scale {
            Some(replicas) => self.scale(&id, replicas).await.map_err(KeepError::Scale),
            None => Ok(()),
        }
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

    #[expect(clippy::too_many_arguments, reason = "it only puts them side by side")]
    fn say(
        self: &Arc<Self>,
        now: Instant,
        id: &PoolId,
        pool: &Arc<RuntimePool>,
        desired: u32,
        claims: i32,
        models: &State,
        candidates: Option<Vec<Candidate>>,
    ) {
        let standing = self.standing(pool);
        let alive = standing.iter().filter(|pod| pods::is_alive(pod));
        let deployment = self
            .cluster
            .warm_deployments
            .get(id, &names::pool(id.name()));
        let trouble = standing
            .iter()
            .find_map(|pod| pods::trouble(pod))
            .or_else(|| pods::refused(deployment.as_deref()?));
        let said = lock(&self.known)
            .get(id)
            .and_then(|known| known.said.clone())
            .filter(|said| said.of == pool.uid() && now < said.at + SAID_FOR);
        let shown = pool.status.as_ref();
        let before = said.as_ref().map(|said| &said.status).or(shown);
        let next = status(&Observed {
            pool,
            before: before.cloned().unwrap_or_default(),
            not_applied: self.objects.error(id),
            desired,
            alive: alive.count(),
            ready: self.ready(pool),
            claims,
            trouble,
            models,
            refused: self.refusals.why(id.namespace(), now),
            candidates,
            now: autoscale::now(),
        });
        self.metrics
            .pool(id, next.ready_replicas, next.desired_replicas);
        if before == Some(&next) {
            return;
        }
        let text = serde_json::to_string(&next).unwrap_or_default();
        let (this, pool, of) = (Arc::clone(self), Arc::clone(pool), id.clone());
        let written = async move {
            this.tell(&pool, &next).await.map_err(KeepError::Status)?;
            if let Some(known) = lock(&this.known).get_mut(&of) {
                known.said = Some(Said {
                    of: pool.uid(),
                    status: next,
                    at: Instant::now(),
                });
            }
            Ok(())
        };
        self.write(
            |pools| &pools.statuses,
            id.clone(),
            digest_of(&text),
            now,
            written,
        );
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
        let bytes = models::bytes(models.kept()?);
        near.iter()
            .map(|function| {
                let live = self.live.get(function);
                let fits = live.and_then(|live| live.fits(pool, bytes));
                let fits = fits.or((age >= RECALLED).then_some(Err(Misfit::Unknown)))?;
                Some((function.name().to_owned(), fits))
            })
            .collect()
    }

    async fn tell(&self, pool: &RuntimePool, next: &RuntimePoolStatus) -> Result<(), kube::Error> {
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

fn text(object: &impl Serialize) -> String {
    serde_json::to_string(object).unwrap_or_default()
}
