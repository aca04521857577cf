//! What pods have ready while they stand by: machine code and small models of the functions which they may become.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use wisp_api::RuntimePool;
use wisp_contract::assignment::{ARTIFACT, Compiled, Hold};
use wisp_contract::config::Model;

use super::models::{self, Kept};
use super::{Claimable, Pools, pool_id};
use crate::autoscale::chain;
use crate::cluster::pods;
use crate::control::{self, ControlError, Part};
use crate::live::lock;
use crate::reconcile::resources::{memory, pool_resources};

/// The most bytes of machine code that a pod has ready, and as a part of its memory limit.
const MOST: u64 = 64 << 20;
const PART: u64 = 4;
/// The most bytes of models' files, likewise. Loaded, they take twice as much.
const MOST_MODELS: u64 = 32 << 20;
const PART_MODELS: u64 = 16;
/// The longest that sending it may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// After a failure it is sent again then.
const PAUSE: Duration = Duration::from_secs(10);

/// What pods are to have ready, by digests.
#[derive(Debug, Clone, Default)]
struct Wanted {
    code: BTreeMap<String, Compiled>,
    models: BTreeMap<String, Model>,
    most_code: u64,
    most_models: u64,
}

/// What pods have ready.
#[derive(Debug, Default)]
pub(super) struct Holds(Mutex<HashMap<String, Known>>);

/// What is known of one pod.
#[derive(Debug, Default)]
struct Known {
    /// Digests of what it has.
    has: BTreeSet<String>,
    /// What it was sent last, whether or not it could be run there.
    asked: BTreeSet<String>,
    /// Nothing is sent before.
    not_before: Option<Instant>,
    is_being_sent: bool,
}

impl Holds {
    /// Whether the pod has that.
    pub(super) fn has(&self, uid: &str, sha256: &str) -> bool {
        let holds = lock(&self.0);
        holds
            .get(uid)
            .is_some_and(|known| known.has.contains(sha256))
    }

    /// What the pod has.
    pub(super) fn of(&self, uid: &str) -> BTreeSet<String> {
        let holds = lock(&self.0);
        holds
            .get(uid)
            .map(|known| known.has.clone())
            .unwrap_or_default()
    }

    /// Forgets pods that are no more.
    pub(super) fn retain(&self, standing: &HashSet<String>) {
        lock(&self.0).retain(|uid, _| standing.contains(uid));
    }

    /// Whether the pod is to be sent these now; it counts as being sent them then.
    fn begin(&self, uid: &str, wanted: &BTreeSet<String>, now: Instant) -> bool {
        let mut holds = lock(&self.0);
        let known = holds.entry(uid.to_owned()).or_default();
        let may = !known.is_being_sent
            && known.asked != *wanted
            && known.not_before.is_none_or(|at| now >= at);
        known.is_being_sent |= may;
        may
    }

    fn end(&self, uid: &str, wanted: BTreeSet<String>, has: Result<Vec<String>, Instant>) {
        let mut holds = lock(&self.0);
        let Some(known) = holds.get_mut(uid) else {
            return;
        };
        known.is_being_sent = false;
        match has {
            Ok(has) => {
                known.has = has.into_iter().collect();
                known.asked = wanted;
                known.not_before = None;
            }
            Err(not_before) => known.not_before = Some(not_before),
        }
    }
}

impl Pools {
    /// Sends pods that stand by the code that they are to have ready and don't have.
    pub(super) fn hold(self: &Arc<Self>, now: Instant, pools: &[Arc<RuntimePool>]) {
        for pool in pools {
            let Some(id) = pool_id(pool) else { continue };
            let standing: Vec<Arc<Pod>> = self
                .cluster
                .warm
                .of(&id)
                .into_iter()
                .filter(|pod| self.queue.is_standing(pod) && pods::is_alive(pod))
                .filter(|pod| {
                    let uid = pod.uid().unwrap_or_default();
                    !lock(&self.taken).contains_key(&uid)
                })
                .collect();
            if standing.is_empty() {
                continue;
            }
            let ready = self.wanted(pool, &self.kept(&id));
            let digests = ready.code.keys().chain(ready.models.keys());
            let wanted: BTreeSet<String> = digests.cloned().collect();
            for pod in standing {
                let uid = pod.uid().unwrap_or_default();
                if !self.holds.begin(&uid, &wanted, now) {
                    continue;
                }
                let (this, ready, wanted) = (Arc::clone(self), ready.clone(), wanted.clone());
                tokio::spawn(async move {
                    let has = this.send(&pod, &uid, ready).await;
                    let has = has.map_err(|error| {
                        tracing::debug!(pod = %pod.name_any(), error = %chain(&error), "a pod isn't as ready as it could be");
                        Instant::now() + PAUSE
                    });
                    this.holds.end(&uid, wanted, has);
                });
            }
        }
    }

    /// What the functions need that pods of `pool` can become, but for the models `kept`, which they have anyway.
    fn wanted(&self, pool: &RuntimePool, kept: &[Kept]) -> Wanted {
        let bytes = models::bytes(kept);
        let resources = pool_resources(pool, bytes);
        let limit = memory(resources.limits.as_ref()).unwrap_or(u64::MAX);
        let mut wanted = Wanted {
            most_code: MOST.min(limit / PART),
            most_models: MOST_MODELS.min(limit / PART_MODELS),
            ..Wanted::default()
        };
        let namespace = pool.namespace().unwrap_or_default();
        let ids = self.live.ids().into_iter();
        for claimable in ids
            .filter(|id| id.namespace() == namespace)
            .filter_map(|id| {
                let live = self.live.get(&id)?;
                live.claimable(&live.plan()?.serving)
            })
            .filter(|claimable| claimable.fits(pool, bytes))
        {
            if let Some(compiled) = compiled(&claimable) {
                let digest = compiled.sha256.clone();
                wanted.code.insert(digest, compiled.clone());
            }
            let Some(mut assignment) = claimable.assignment.clone() else {
                continue;
            };
            self.trials.tell(&mut assignment);
            for model in assignment.config.models {
                let is_kept = kept.iter().any(|kept| kept.model.file == model.file);
                let digest = model
                    .file
                    .to_str()
                    .and_then(|file| file.strip_prefix(ARTIFACT));
                // Who wants no batches has sessions of its own.
                if let (Some(digest), false, true) =
                    (digest, is_kept, model.batching.max_size.get() > 1)
                {
                    wanted.models.insert(digest.to_owned(), model);
                }
            }
        }
        wanted
    }

    /// Sends as much of what is `wanted` as a pod is to have: the smallest, so that as many functions as can be are ready.
    async fn send(
        &self,
        pod: &Pod,
        uid: &str,
        wanted: Wanted,
    ) -> Result<Vec<String>, ControlError> {
        let unreached = || ControlError::Unreached(std::io::ErrorKind::NotFound.into());
        let address = pods::address(pod).ok_or_else(unreached)?;
        let key = control::pool_key(&self.settings.root, pod).ok_or_else(unreached)?;
        let mut hold = Hold::default();
        let mut all = Vec::new();
        let code = self.found(wanted.code).await;
        for (part, compiled) in chosen(code, wanted.most_code) {
            hold.code.push(compiled);
            all.push(part);
        }
        let models = self.found(wanted.models).await;
        for (part, model) in chosen(models, wanted.most_models) {
            hold.models.push(model);
            all.push(part);
        }
        all.retain(|part| !self.holds.has(uid, &part.sha256));
        let body = serde_json::to_vec(&hold).map_err(|error| ControlError::Broken(error.into()))?;
        let sent = async {
            let stream = control::connect(address).await?;
            control::hold(stream, &key, body.into(), all).await
        };
        let held = tokio::time::timeout(PATIENCE, sent).await;
        let held = held.map_err(|elapsed| ControlError::Broken(elapsed.into()))??;
        Ok([held.code, held.models].concat())
    }

    /// What of these is in the store, with its length and its file.
    async fn found<T>(&self, all: BTreeMap<String, T>) -> Vec<(u64, (Part, T))> {
        let mut found = Vec::new();
        for (sha256, one) in all {
            if let Ok(Some((file, length))) = self.artifacts.open(&sha256).await {
                let part = Part {
                    sha256,
                    length,
                    file,
                };
                found.push((length, (part, one)));
            }
        }
        found
    }
}

/// As many as have `most` bytes together, the smallest first; each comes with its length.
fn chosen<T>(mut all: Vec<(u64, T)>, most: u64) -> Vec<T> {
    all.sort_by_key(|(length, _)| *length);
    let mut left = most;
    let few = all.into_iter().map_while(|(length, one)| {
        left = left.checked_sub(length)?;
        Some(one)
    });
    few.collect()
}

/// The machine code of a revision's component.
pub(super) fn compiled(claimable: &Claimable) -> Option<&Compiled> {
    let assignment = claimable.assignment.as_ref()?;
    let component = &assignment.config.component.file;
    let mut artifacts = assignment.artifacts.iter();
    let artifact = artifacts.find(|artifact| artifact.file() == *component)?;
    artifact.compiled.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(of: &[&str]) -> BTreeSet<String> {
        of.iter().map(|digest| (*digest).to_owned()).collect()
    }

    /// Would fail if a pod were sent the same again and again, two things at once, or nothing after a failure.
    #[test]
    fn a_pod_is_sent_what_changed_once_and_again_after_a_failure() {
        let (holds, now) = (Holds::default(), Instant::now());
        let (one, two) = (digests(&["a"]), digests(&["a", "b"]));
        assert!(holds.begin("pod", &one, now));
        assert!(!holds.begin("pod", &two, now), "while the first is sent");
        holds.end("pod", one.clone(), Ok(vec!["a".to_owned()]));
        assert!(holds.has("pod", "a") && !holds.has("pod", "b"));
        assert!(!holds.begin("pod", &one, now));
        assert!(holds.begin("pod", &two, now));
        holds.end("pod", two.clone(), Err(now + PAUSE));
        assert!(holds.has("pod", "a"));
        assert!(!holds.begin("pod", &two, now));
        assert!(holds.begin("pod", &two, now + PAUSE));
        // Its engine is another: it has nothing, and is left alone.
        holds.end("pod", two.clone(), Ok(Vec::new()));
        assert!(!holds.has("pod", "a") && !holds.begin("pod", &two, now));
        assert!(holds.begin("another", &two, now));
        holds.retain(&HashSet::from(["another".to_owned()]));
        assert!(holds.begin("pod", &two, now));
    }

    /// Would fail if more were sent than the pod may have, or the large were preferred to the many.
    #[test]
    fn the_smallest_are_ready_first() {
        let lengths = |most: u64| chosen(vec![(9, 'c'), (1, 'a'), (5, 'b')], most);
        assert_eq!(lengths(100), ['a', 'b', 'c']);
        assert_eq!(lengths(14), ['a', 'b']);
        assert!(lengths(0).is_empty());
    }
}
