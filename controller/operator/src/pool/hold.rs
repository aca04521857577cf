//! What pods have ready while they stand by: machine code and small models of the functions which they may become.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use wisp_api::RuntimePool;
use wisp_contract::FunctionId;
use wisp_contract::assignment::{Assignment, Hold, artifact_named};
use wisp_contract::config::Model;
use wisp_contract::log::chain;

use super::models::{self, Kept};
use super::near::Neighbourhoods;
use super::{Claimable, Pools, parts, pool_id};
use crate::cluster::pods;
use crate::control::{self, Connection, ControlError, Part};
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

/// The most bytes that a pod has ready.
#[derive(Debug, Clone, Copy)]
struct Limits {
    code: u64,
    models: u64,
}

impl Limits {
    fn of(pool: &RuntimePool, kept: &[Kept]) -> Self {
        let resources = pool_resources(pool, models::bytes(kept));
        let memory = memory(resources.limits.as_ref()).unwrap_or(u64::MAX);
        Self {
            code: MOST.min(memory / PART),
            models: MOST_MODELS.min(memory / PART_MODELS),
        }
    }
}

/// What pods have ready, by their lives.
#[derive(Debug, Default)]
pub(super) struct Holds(Mutex<HashMap<String, Known>>);

/// What is known of one pod.
#[derive(Debug, Default)]
struct Known {
    /// Digests of what it has.
    has: BTreeSet<String>,
    /// What it was told to have last, whether or not it could be run there: that needn't be sent again.
    named: BTreeSet<String>,
    /// What was wanted then, whether or not there was room for it; `None` before it was first told anything.
    asked: Option<BTreeSet<String>>,
    /// Nothing is sent before.
    not_before: Option<Instant>,
    is_being_sent: bool,
    /// The engines whose code it runs, the best first; none until it told.
    engines: Vec<String>,
    /// How it was sent: whoever takes the pod needn't connect.
    connection: Option<Connection>,
}

/// What a pod has and is, for whoever takes it.
#[derive(Debug, Clone, Default)]
pub(super) struct Stock {
    /// Digests of what it has.
    pub(super) has: BTreeSet<String>,
    /// The engines whose code it runs, the best first; none where that isn't known.
    pub(super) engines: Vec<String>,
}

/// What became of sending a pod what it was to have.
#[derive(Debug)]
struct Sent {
    /// Digests of what it was told to have.
    named: BTreeSet<String>,
    /// Digests of what it has now, and the engines whose code it runs.
    stock: Stock,
    /// When to send it the rest, where the store didn't have all just now.
    again: Option<Instant>,
}

impl Holds {
    /// Whether the pod was told to have that.
    fn was_sent(&self, life: &str, sha256: &str) -> bool {
        let holds = lock(&self.0);
        holds
            .get(life)
            .is_some_and(|known| known.named.contains(sha256))
    }

    /// Whether the pod has that.
    pub(super) fn has(&self, life: &str, sha256: &str) -> bool {
        let holds = lock(&self.0);
        holds
            .get(life)
            .is_some_and(|known| known.has.contains(sha256))
    }

    /// The engines whose code the pod runs, the best first; none where that isn't known.
    fn engines(&self, life: &str) -> Vec<String> {
        let holds = lock(&self.0);
        holds
            .get(life)
            .map_or_else(Vec::new, |known| known.engines.clone())
    }

    /// What the pod has and is, and a connection to it if there is one: for whoever takes it.
    pub(super) fn take(&self, life: &str) -> (Stock, Option<Connection>) {
        let mut holds = lock(&self.0);
        let Some(known) = holds.get_mut(life) else {
            return Default::default();
        };
        let open = known.connection.take().filter(Connection::is_open);
        let stock = Stock {
            has: known.has.clone(),
            engines: known.engines.clone(),
        };
        (stock, open)
    }

    /// Forgets pods that are no more.
    pub(super) fn retain(&self, standing: &HashSet<String>) {
        lock(&self.0).retain(|life, _| standing.contains(life));
    }

    /// Whether the pod is to be sent these now; it counts as being sent them then.
    pub(super) fn begin(&self, life: &str, wanted: &BTreeSet<String>, now: Instant) -> bool {
        let mut holds = lock(&self.0);
        let known = holds.entry(life.to_owned()).or_default();
        let may = !known.is_being_sent
            && known.asked.as_ref() != Some(wanted)
            && known.not_before.is_none_or(|at| now >= at);
        known.is_being_sent |= may;
        may
    }

    /// Keeps a connection to the pod.
    pub(super) fn keep(&self, life: &str, connection: Connection) {
        if let Some(known) = lock(&self.0).get_mut(life) {
            known.connection = Some(connection);
        }
    }

    fn end(&self, life: &str, wanted: BTreeSet<String>, sent: Result<Sent, Instant>) {
        let mut holds = lock(&self.0);
        let Some(known) = holds.get_mut(life) else {
            return;
        };
        known.is_being_sent = false;
        match sent {
            Ok(sent) => {
                known.has = sent.stock.has;
                known.engines = sent.stock.engines;
                known.named = sent.named;
                known.not_before = sent.again;
                if sent.again.is_none() {
                    known.asked = Some(wanted);
                }
            }
            Err(not_before) => known.not_before = Some(not_before),
        }
    }
}

impl Pools {
    /// Sends pods that stand by the code that they are to have ready and don't have.
    pub(super) fn hold(
        self: &Arc<Self>,
        now: Instant,
        pools: &[Arc<RuntimePool>],
        functions: &Neighbourhoods,
    ) {
        for pool in pools {
            let Some(id) = pool_id(pool) else { continue };
            // Whoever waits takes the next pod as it is.
            if self.queue.is_awaited(&id) {
                continue;
            }
            let standing: Vec<Arc<Pod>> = self
                .current(pool)
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
            let kept = self.kept(&id);
            let limits = Limits::of(pool, &kept);
            let near = &functions.near(id.namespace()).functions;
            let claimables = self.claimables(pool, &kept, near);
            // An operator that has just started would have pods forget what they were told by the one before.
            if claimables.is_empty() && !self.knows_all_of(near) {
                continue;
            }
            for pod in standing {
                let life = pods::life(&pod);
                let wanted = digests(&claimables, &kept, &self.holds.engines(&life));
                if !self.holds.begin(&life, &wanted, now) {
                    continue;
                }
                let (this, claimables) = (Arc::clone(self), claimables.clone());
                let kept = Arc::clone(&kept);
                tokio::spawn(async move {
                    let sent = this.send(&pod, &life, &claimables, &kept, limits).await;
                    let sent = sent.map_err(|error| {
                        tracing::debug!(pod = %pod.name_any(), error = %chain(&error), "a pod isn't as ready as it could be");
                        Instant::now() + PAUSE
                    });
                    this.holds.end(&life, wanted, sent);
                });
            }
        }
    }

    /// Whether it is known of all these functions how pods become theirs.
    fn knows_all_of(&self, functions: &[FunctionId]) -> bool {
        functions.iter().all(|id| {
            self.live
                .get(id)
                .is_some_and(|live| live.knows_claimables())
        })
    }

    /// What turns pods of `pool`, which have the models `kept`, into replicas of those of the functions `near` that they can
    /// become.
    fn claimables(
        &self,
        pool: &RuntimePool,
        kept: &[Kept],
        near: &[FunctionId],
    ) -> Vec<Arc<Claimable>> {
        let bytes = models::bytes(kept);
        near.iter()
            .filter_map(|id| {
                let live = self.live.get(id)?;
                live.claimable(&live.plan()?.serving)
            })
            .filter(|claimable| claimable.fits(pool, bytes).is_ok())
            .collect()
    }

    /// Sends as much of what functions need as a pod is to have: the smallest, so that as many as can be are ready.
    async fn send(
        &self,
        pod: &Pod,
        life: &str,
        claimables: &[Arc<Claimable>],
        kept: &[Kept],
        limits: Limits,
    ) -> Result<Sent, ControlError> {
        let unreached = || ControlError::Unreached(std::io::ErrorKind::NotFound.into());
        let address = pods::address(pod).ok_or_else(unreached)?;
        let key = control::pool_key(&self.settings.root, pod).ok_or_else(unreached)?;
        let engines = self.holds.engines(life);
        let (mut code, mut models) = (BTreeMap::new(), BTreeMap::new());
        for claimable in claimables {
            let Some(mut assignment) = claimable.assignment.clone() else {
                continue;
            };
            self.trials.tell(&mut assignment, SystemTime::now());
            if let Some(compiled) = parts::best(assignment.compiled(), &engines) {
                code.insert(compiled.sha256.clone(), compiled.clone());
            }
            for (sha256, model) in models_to_have(&assignment, kept) {
                models.insert(sha256.to_owned(), model.clone());
            }
        }
        let wanted = code.len() + models.len();
        let (code, models) = (self.found(code).await, self.found(models).await);
        let are_there = code.len() + models.len() == wanted;
        let (code, models) = (chosen(code, limits.code), chosen(models, limits.models));
        let wanted = code.len() + models.len();
        let (code, models) = (self.opened(code).await, self.opened(models).await);
        let is_whole = are_there && code.len() + models.len() == wanted;
        let (mut hold, mut all) = (Hold::default(), Vec::new());
        for (part, compiled) in code {
            hold.code.push(compiled);
            all.push(part);
        }
        for (part, model) in models {
            hold.models.push(model);
            all.push(part);
        }
        let named = all.iter().map(|part| part.sha256.clone()).collect();
        all.retain(|part| !self.holds.was_sent(life, &part.sha256));
        let body = serde_json::to_vec(&hold).map_err(|error| ControlError::Broken(error.into()))?;
        let (_, open) = self.holds.take(life);
        let sent = async {
            let mut connection = Connection::kept_or_opened(open, address).await?;
            let held = connection.hold(&key, body.into(), all).await?;
            self.holds.keep(life, connection);
            Ok(held)
        };
        let held = tokio::time::timeout(PATIENCE, sent).await;
        let held = held.map_err(|elapsed| ControlError::Broken(elapsed.into()))??;
        if let Some(cpu) = &held.cpu {
            self.levels.told(cpu);
        }
        Ok(Sent {
            named,
            stock: Stock {
                has: held.code.into_iter().chain(held.models).collect(),
                engines: held.engines,
            },
            again: (!is_whole).then(|| Instant::now() + PAUSE),
        })
    }

    /// What of these is in the store, with its length. They are as many as there are functions: none is kept open.
    async fn found<T>(&self, all: BTreeMap<String, T>) -> Vec<(u64, (String, T))> {
        let mut found = Vec::new();
        for (sha256, one) in all {
            if let Some(part) = parts::open(&*self.artifacts, &sha256).await {
                found.push((part.length, (sha256, one)));
            }
        }
        found
    }

    /// Those that are in the store still.
    async fn opened<T>(&self, chosen: Vec<(String, T)>) -> Vec<(Part, T)> {
        let mut opened = Vec::new();
        for (sha256, one) in chosen {
            let part = parts::open(&*self.artifacts, &sha256).await;
            opened.extend(part.map(|part| (part, one)));
        }
        opened
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

/// The digests of what functions need of a pod that runs code of these `engines`, but for the models `kept`.
fn digests(claimables: &[Arc<Claimable>], kept: &[Kept], engines: &[String]) -> BTreeSet<String> {
    let assignments = claimables.iter().filter_map(|one| one.assignment.as_ref());
    assignments
        .flat_map(|assignment| {
            let code = parts::best(assignment.compiled(), engines);
            let code = code.map(|compiled| &*compiled.sha256);
            let models = models_to_have(assignment, kept).map(|(sha256, _)| sha256);
            code.into_iter().chain(models)
        })
        .map(str::to_owned)
        .collect()
}

/// The models that a pod is to have for a function, each with its file's digest: not those `kept`, which it has anyway, nor
/// those without batches, which have sessions of their own.
fn models_to_have<'a>(
    assignment: &'a Assignment,
    kept: &'a [Kept],
) -> impl Iterator<Item = (&'a str, &'a Model)> {
    assignment.config.models.iter().filter_map(|model| {
        let is_kept = kept.iter().any(|kept| kept.model.file == model.file);
        let sha256 = artifact_named(&model.file)?;
        (!is_kept && model.batching.max_size.get() > 1).then_some((sha256, model))
    })
}

#[cfg(test)]
mod tests {
    use wisp_contract::assignment::{Compiled, Facts, Wasi};

    use super::*;

    fn digests(of: &[&str]) -> BTreeSet<String> {
        of.iter().map(|digest| (*digest).to_owned()).collect()
    }

    fn sent(named: &[&str], has: &[&str], again: Option<Instant>) -> Result<Sent, Instant> {
        Ok(Sent {
            named: digests(named),
            stock: Stock {
                has: digests(has),
                engines: Vec::new(),
            },
            again,
        })
    }

    /// Would fail if a pod were sent the same again and again, two things at once, or nothing after a failure.
    #[test]
    fn a_pod_is_sent_what_changed_once_and_again_after_a_failure() {
        let (holds, now) = (Holds::default(), Instant::now());
        let (one, two) = (digests(&["a"]), digests(&["a", "b"]));
        assert!(holds.begin("pod", &one, now));
        assert!(!holds.begin("pod", &two, now), "while the first is sent");
        holds.end("pod", one.clone(), sent(&["a"], &["a"], None));
        assert!(holds.has("pod", "a") && !holds.has("pod", "b"));
        assert!(!holds.begin("pod", &one, now));
        assert!(holds.begin("pod", &two, now));
        holds.end("pod", two.clone(), Err(now + PAUSE));
        assert!(holds.has("pod", "a"));
        assert!(!holds.begin("pod", &two, now));
        assert!(holds.begin("pod", &two, now + PAUSE));
        // Its engine is another: it has nothing, and is left alone.
        holds.end("pod", two.clone(), sent(&["a", "b"], &[], None));
        assert!(!holds.has("pod", "a") && !holds.begin("pod", &two, now));
        assert!(holds.was_sent("pod", "a") && !holds.was_sent("pod", "c"));
        // The store didn't have all of it.
        let three = digests(&["a", "b", "c"]);
        assert!(holds.begin("pod", &three, now));
        holds.end(
            "pod",
            three.clone(),
            sent(&["a"], &["a"], Some(now + PAUSE)),
        );
        assert!(holds.has("pod", "a") && !holds.begin("pod", &three, now));
        assert!(holds.begin("pod", &three, now + PAUSE));
        assert!(holds.begin("another", &two, now));
        holds.retain(&HashSet::from(["another".to_owned()]));
        assert!(holds.begin("pod", &two, now));
    }

    /// Would fail if a pod whose processor isn't known were not asked for it, or were sent another's code once it is.
    #[test]
    fn what_a_pod_is_sent_fits_its_processor() {
        let holds = Holds::default();
        assert!(holds.begin("pod", &digests(&[]), Instant::now()));
        let stock = Stock {
            engines: vec!["v3".to_owned(), "v2".to_owned()],
            ..Stock::default()
        };
        let told = Sent {
            named: digests(&[]),
            stock,
            again: None,
        };
        holds.end("pod", digests(&[]), Ok(told));
        let engines = holds.engines("pod");
        assert_eq!(engines, ["v3", "v2"]);
        let facts = Facts {
            wasi: Wasi::P2,
            core_instances: 1,
            memories: 1,
            tables: 1,
            asks_models: false,
        };
        let code = |engine: &str| Compiled {
            engine: engine.to_owned(),
            sha256: engine.repeat(2),
            url: String::new(),
            key: None,
            facts,
        };
        let best = |compiled: &[Compiled], engines: &[String]| {
            parts::best(compiled, engines).map(|code| code.engine.clone())
        };
        let (all, lower) = ([code("v2"), code("v3")], [code("v2")]);
        assert_eq!(best(&all, &engines).as_deref(), Some("v3"));
        assert_eq!(best(&lower, &engines).as_deref(), Some("v2"));
        assert_eq!(best(&[code("v4")], &engines), None);
        assert_eq!(best(&all, &[]).as_deref(), Some("v2"), "unknown");
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
