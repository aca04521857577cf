//! What the operator remembers of functions while it runs: all of it can be had anew from the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use tokio::task::AbortHandle;
use wisp_api::{Function, RuntimePool};
use wisp_contract::FunctionId;
use wisp_contract::operator::Replica;

use crate::artifacts::{Artifacts, Stage};
use crate::autoscale::{Load, Rollout};
use crate::cluster::pods::Trouble;
use crate::pool::{Claimable, Misfit};
use crate::reconcile::apply::ServiceName;
use crate::references::Versions;
use crate::resolve::{Bytes, ResolveError, Resolved};
use crate::wake::Running;

/// The functions that are remembered.
#[derive(Debug, Default)]
pub struct Functions {
    entries: DashMap<FunctionId, Arc<Live>>,
}

/// What is remembered of one function.
#[derive(Debug, Default)]
pub struct Live {
    uid: String,
    /// Which revisions there are.
    pub plan: Mutex<Option<Plan>>,
    /// Which of them is on trial, and which can't serve. Locked before the plan, where both are.
    pub rollout: Mutex<Rollout>,
    /// What it resolves to.
    pub resolution: Mutex<Resolution>,
    /// What was applied, so that it isn't applied again and again.
    pub applied: Mutex<Option<Applied>>,
    /// Its load, and how many replicas it should have.
    pub load: Mutex<Load>,
    /// Pods of pools that were taken and that the cluster doesn't show as the function's yet, by name.
    pub claims: Mutex<BTreeMap<String, Claim>>,
    /// What turns pods of pools into replicas, or why nothing does: of the revision that serves, of the one that does again
    /// if that can't, and of the latest, as they were told.
    claimables: Mutex<Vec<(String, Told)>>,
    /// When its pods, which were refused, were last asked for anew.
    pub asked_anew: Mutex<Option<Instant>>,
    /// Held while its replicas are set.
    pub scaling: tokio::sync::Mutex<()>,
    /// The wake-up that goes on.
    pub waking: Mutex<Option<Running>>,
    /// What its replicas told of themselves: the revision, and the device.
    pub device: Mutex<Option<(String, Option<String>)>>,
    /// What is kept for its replicas in the store.
    held: Mutex<Held>,
    /// What is kept for them beside that, of revisions that were there before this process began.
    pub recalled: Mutex<Vec<String>>,
    /// The revisions of which all that can be had anew is in the store.
    pub kept: Mutex<BTreeSet<String>>,
    /// When they last asked for something that the store didn't have.
    lacked: Mutex<Option<Instant>>,
    /// The hosts that it claims, as others were told last; `None` before, and where it is being deleted.
    pub claimed: Mutex<Claimed>,
    /// Failures to reconcile it, in a row.
    pub reconcile_failures: Mutex<u32>,
    /// When its status was written last.
    pub said: Mutex<Option<Instant>>,
}

/// Hosts, each with the time since when a function has it.
type Claimed = Option<Vec<(String, Option<MicroTime>)>>;

/// What is kept for a function's replicas in the store.
#[derive(Debug, Default)]
struct Held {
    digests: Vec<String>,
    /// The function is no more.
    is_over: bool,
}

/// What turns pods of pools into replicas of a revision, or why nothing does.
type Told = Result<Arc<Claimable>, Misfit>;

/// A pod that was taken from a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The revision that it becomes a replica of.
    pub revision: String,
    /// Where it serves, once it does.
    pub replica: Option<Replica>,
}

/// Which revisions a function has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The one that its spec means.
    pub latest: String,
    /// The one that serves; another while the latest has yet to show that it can.
    pub serving: String,
    /// When the number of its replicas was last changed.
    pub scaled_at: Option<Time>,
}

/// What it was resolved from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inputs {
    /// The spec's generation.
    pub generation: i64,
    /// How often what it names has changed.
    pub change: u64,
    /// What the annotation says by which somebody asks for another attempt.
    pub requested: Option<String>,
}

/// What a function resolves to.
#[derive(Debug, Default)]
pub struct Resolution {
    /// How often what it names has changed.
    pub change: u64,
    /// The last result.
    pub last: Option<Settled>,
    /// What goes on.
    pub running: Option<AbortHandle>,
    /// How far the component is that it goes on for.
    pub stage: Stage,
    /// What was read last of the objects that it names.
    pub versions: Versions,
    /// Failures in a row.
    pub failures: u32,
    /// Whether machine code was made while it went on, which it may have missed.
    pub has_missed: bool,
}

/// A result.
#[derive(Debug, Clone)]
pub struct Settled {
    /// What was resolved.
    pub inputs: Inputs,
    /// How it ended.
    pub outcome: Result<Arc<Resolved>, ResolveError>,
    /// When it is tried again, where it failed.
    pub retry_at: Option<Instant>,
}

/// What was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// A digest of the objects.
    pub digest: u64,
    /// The Deployment's generation thereafter.
    pub generation: Option<i64>,
    /// A digest of what the Deployment is thereafter, but for the number of its replicas.
    pub shape: u64,
    /// When.
    pub at: Instant,
    /// What came of the Service.
    pub service: ServiceName,
}

/// A function whose artifacts the store lacks isn't resolved anew for it once more before.
const LACKED_FOR: Duration = Duration::from_secs(30);

impl Functions {
    /// What is remembered of this function; nothing, if `uid` is another object's than what was.
    #[must_use]
    pub fn enter(&self, function: &FunctionId, uid: &str) -> Arc<Live> {
        let fresh = || {
            Arc::new(Live {
                uid: uid.to_owned(),
                ..Live::default()
            })
        };
        let mut entry = self.entries.entry(function.clone()).or_insert_with(fresh);
        if entry.uid != uid {
            std::mem::replace(&mut *entry, fresh()).end();
        }
        Arc::clone(&entry)
    }

    /// What is remembered of this function, if anything is.
    #[must_use]
    pub fn get(&self, function: &FunctionId) -> Option<Arc<Live>> {
        self.entries.get(function).map(|entry| Arc::clone(&entry))
    }

    /// Forgets a function that is no more.
    pub fn forget(&self, function: &FunctionId) {
        if let Some((_, live)) = self.entries.remove(function) {
            live.end();
        }
    }

    /// Those that `now` doesn't have any more, or has another of the name of.
    pub fn gone<F: AsRef<Function>>(
        &self,
        now: impl Fn(&FunctionId) -> Option<F>,
    ) -> Vec<FunctionId> {
        let is_gone = |id: &FunctionId, live: &Live| {
            now(id).is_none_or(|function| !live.is_of(function.as_ref()))
        };
        let entries = self.entries.iter();
        let gone = entries.filter(|entry| is_gone(entry.key(), entry.value()));
        gone.map(|entry| entry.key().clone()).collect()
    }

    /// Which there are.
    #[must_use]
    pub fn ids(&self) -> Vec<FunctionId> {
        self.entries
            .iter()
            .map(|entry| entry.key().clone())
            .collect()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl Live {
    /// Whether this is what is remembered of `function`, and not of one that had its name and was deleted.
    #[must_use]
    pub fn is_of(&self, function: &Function) -> bool {
        function.metadata.uid.as_deref().unwrap_or_default() == self.uid
    }

    /// The function is no more, whoever still has this.
    fn end(&self) {
        lock(&self.held).is_over = true;
        if let Some(task) = &lock(&self.resolution).running {
            task.abort();
        }
    }

    /// From now on what `next` makes of what is kept for the function's replicas stays in the store. Not of one that is no more:
    /// what goes on for it ends after it was released, and nobody would release it again.
    pub fn hold(
        &self,
        function: &FunctionId,
        artifacts: &dyn Artifacts,
        next: impl FnOnce(&[String]) -> Vec<String>,
    ) {
        let mut held = lock(&self.held);
        if held.is_over {
            return;
        }
        let digests = next(&held.digests);
        if held.digests != digests {
            held.digests.clone_from(&digests);
            artifacts.hold(&function.to_string(), digests);
        }
    }

    /// Something changed that the function names: it is resolved anew.
    pub fn inputs_changed(&self) {
        let mut resolution = lock(&self.resolution);
        resolution.change = resolution.change.wrapping_add(1);
        resolution.failures = 0;
    }

    /// There is machine code of `component` for more processors than before. Who uses it is resolved anew; who is being
    /// resolved, thereafter. Returns whether the first is so.
    pub fn code_was_made(&self, component: &str) -> bool {
        let mut resolution = lock(&self.resolution);
        if resolution.running.is_some() {
            // What it pulls isn't pulled again: it is resolved anew, if need be, once it is known.
            resolution.has_missed = true;
            return false;
        }
        let last = resolution.last.as_ref();
        let resolved = last.and_then(|settled| settled.outcome.as_ref().ok());
        let uses_it = resolved.is_some_and(|resolved| match &resolved.component {
            Bytes::Stored(stored) => stored.sha256 == component,
            Bytes::Volume(_) => false,
        });
        if uses_it {
            resolution.change = resolution.change.wrapping_add(1);
        }
        uses_it
    }

    /// The store doesn't have what was asked for as of `now`. Who needs it is resolved anew, which fetches it; not where that
    /// goes on, or failed and is tried again in its time. What its latest isn't made of is looked for in the revisions before.
    /// Neither is so all the time, where it doesn't help. Returns whether anything is.
    pub fn lacks(&self, sha256: &str, now: Instant) -> bool {
        let is_needed = |held: &Held| held.digests.iter().any(|held| held == sha256);
        if !is_needed(&lock(&self.held)) {
            return false;
        }
        let mut resolution = lock(&self.resolution);
        let last = resolution.last.as_ref();
        let resolved = last.and_then(|settled| settled.outcome.as_ref().ok());
        let is_of_latest =
            resolved.is_some_and(|resolved| resolved.digests().iter().any(|has| has == sha256));
        let is_resolved = resolved.is_some() && resolution.running.is_none();
        let mut kept = lock(&self.kept);
        let is_looked_for = !is_of_latest && !kept.is_empty();
        let mut lacked = lock(&self.lacked);
        let is_due = lacked.is_none_or(|at| now.saturating_duration_since(at) >= LACKED_FOR);
        let is_of_use = is_resolved || is_looked_for;
        if !is_of_use || !is_due {
            return false;
        }
        *lacked = Some(now);
        if is_looked_for {
            kept.clear();
        }
        if is_resolved {
            resolution.change = resolution.change.wrapping_add(1);
        }
        true
    }

    /// What turns a pod of a pool into a replica of `revision`, where that is known and pods can be.
    #[must_use]
    pub fn claimable(&self, revision: &str) -> Option<Arc<Claimable>> {
        self.told(revision)?.ok()
    }

    /// Whether pods of `pool`, whose models have so many bytes, become replicas of the revision that serves; `None` where
    /// that isn't known yet.
    #[must_use]
    pub fn fits(&self, pool: &RuntimePool, models: u64) -> Option<Result<(), Misfit>> {
        let told = self.told(&self.plan()?.serving)?;
        Some(told.and_then(|claimable| claimable.fits(pool, models)))
    }

    fn told(&self, revision: &str) -> Option<Told> {
        let claimables = lock(&self.claimables);
        let mut all = claimables.iter();
        let (_, told) = all.find(|(known, _)| known == revision)?;
        Some(told.clone())
    }

    /// Remembers what turns pods into replicas of the latest revision, or why nothing does. What is known of the one that
    /// serves is kept, and of the one that does again if that can't.
    pub fn remember(&self, revision: &str, claimable: Result<Claimable, Misfit>) {
        let serving = self.plan().map(|plan| plan.serving);
        let before = lock(&self.rollout).before().map(str::to_owned);
        let mut claimables = lock(&self.claimables);
        claimables.retain(|(known, _)| known != revision);
        claimables.retain(|(known, _)| {
            serving.as_ref().is_none_or(|serving| known == serving)
                || Some(known) == before.as_ref()
        });
        claimables.push((revision.to_owned(), claimable.map(Arc::new)));
        let superfluous = claimables.len().saturating_sub(3);
        claimables.drain(..superfluous);
    }

    /// Whether it is known by now how pods of pools become this function's, if they can.
    #[must_use]
    pub fn knows_claimables(&self) -> bool {
        !lock(&self.claimables).is_empty()
    }

    /// Which revisions it has, once it has any.
    #[must_use]
    pub fn plan(&self) -> Option<Plan> {
        lock(&self.plan).clone()
    }

    /// Has the revision serve again that did before, where the one that serves is on trial and is in `trouble`. Returns
    /// whether it does.
    pub fn fall_back(&self, trouble: &Trouble) -> bool {
        let mut rollout = lock(&self.rollout);
        let mut plan = lock(&self.plan);
        let Some(plan) = plan.as_mut() else {
            return false;
        };
        let before = rollout.fall_back(&plan.serving, trouble);
        let falls_back = before.is_some();
        plan.serving = before.unwrap_or_else(|| std::mem::take(&mut plan.serving));
        falls_back
    }

    /// Why it can't be resolved, if it can't.
    #[must_use]
    pub fn failure(&self) -> Option<ResolveError> {
        let resolution = lock(&self.resolution);
        resolution
            .last
            .as_ref()
            .and_then(|settled| settled.outcome.clone().err())
    }
}

/// Locks; what a panic left behind is taken as it is.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts::Stored;
    use crate::resolve::tests::Store;

    fn resolved(component: &str) -> Settled {
        let stored = Stored {
            source: "cc".into(),
            size: 1,
            sha256: component.into(),
            pinned: None,
            compiled: Vec::new(),
            memory: 0,
        };
        Settled {
            inputs: Inputs {
                generation: 1,
                change: 0,
                requested: None,
            },
            outcome: Ok(Arc::new(Resolved {
                component: Bytes::Stored(stored),
                models: Vec::new(),
                values: wisp_api::Values::default(),
            })),
            retry_at: None,
        }
    }

    /// Would fail if replicas asked in vain for ever for what the store has lost, or had their function resolved again and
    /// again, or another's.
    #[tokio::test]
    async fn who_needs_what_the_store_lacks_is_resolved_anew() {
        let (live, now) = (Live::default(), Instant::now());
        assert!(!live.lacks("aa", now), "nothing is known of it");
        lock(&live.resolution).last = Some(resolved("aa"));
        assert!(!live.lacks("aa", now), "it isn't known yet what it needs");
        lock(&live.held).digests.push("aa".to_owned());
        assert!(!live.lacks("bb", now), "another's");
        assert!(live.lacks("aa", now));
        assert_eq!(lock(&live.resolution).change, 1);
        assert!(!live.lacks("aa", now), "it is on its way");
        assert!(live.lacks("aa", now + LACKED_FOR));
        let goes_on = tokio::spawn(std::future::pending::<()>());
        lock(&live.resolution).running = Some(goes_on.abort_handle());
        assert!(!live.lacks("aa", now + LACKED_FOR * 2));

        // Of the revision before, of which resolving fetches nothing.
        lock(&live.held).digests.push("dd".to_owned());
        lock(&live.kept).insert("f-1".to_owned());
        assert!(!live.lacks("aa", now + LACKED_FOR * 2));
        assert!(!lock(&live.kept).is_empty(), "that isn't its");
        assert!(live.lacks("dd", now + LACKED_FOR * 2));
        assert!(lock(&live.kept).is_empty());
        assert_eq!(lock(&live.resolution).change, 2);
        assert!(!live.lacks("dd", now + LACKED_FOR * 3), "it is on its way");
        goes_on.abort();
    }

    /// Would fail if what still goes on for a function that was deleted held something that nobody lets go of again, or took
    /// the place of what another of its name holds.
    #[test]
    fn who_is_no_more_holds_nothing_again() {
        let (functions, store) = (Functions::default(), Store::default());
        let id: FunctionId = "n/f".parse().unwrap();
        let hold = |live: &Live, what: &str| {
            live.hold(&id, &store, |held| {
                [held.to_vec(), vec![what.to_owned()]].concat()
            });
        };
        let first = functions.enter(&id, "1");
        hold(&first, "a");
        hold(&first, "b");
        assert_eq!(store.held("n/f"), ["a", "b"]);
        let second = functions.enter(&id, "2");
        hold(&second, "c");
        hold(&first, "d");
        assert_eq!(store.held("n/f"), ["c"]);
        let made_as = |uid: &str| {
            let mut function = Function::new("f", wisp_api::FunctionSpec::default());
            function.metadata.uid = Some(uid.to_owned());
            Arc::new(function)
        };
        assert!(functions.gone(|_| Some(made_as("2"))).is_empty());
        let all = [id.clone()];
        assert_eq!(functions.gone(|_| Some(made_as("3"))), all);
        assert_eq!(functions.gone(|_| None::<Arc<Function>>), all);
        functions.forget(&id);
        hold(&second, "e");
        assert_eq!(store.held("n/f"), ["c"], "as it was released");
    }

    /// Would fail if a function kept code for fewer processors than there is, or one were resolved anew for another's.
    #[tokio::test]
    async fn who_uses_a_component_is_resolved_anew_when_there_is_more_code_of_it() {
        let live = Live::default();
        assert!(!live.code_was_made("aa"), "nothing is known of it");
        assert_eq!(lock(&live.resolution).change, 0);

        let goes_on = tokio::spawn(std::future::pending::<()>());
        lock(&live.resolution).running = Some(goes_on.abort_handle());
        assert!(!live.code_was_made("aa"), "it isn't known yet");
        assert!(lock(&live.resolution).has_missed, "it may turn out so");
        goes_on.abort();

        *lock(&live.resolution) = Resolution {
            last: Some(resolved("aa")),
            ..Resolution::default()
        };
        assert!(!live.code_was_made("bb"), "another's");
        assert!(live.code_was_made("aa"));
        let resolution = lock(&live.resolution);
        assert_eq!((resolution.change, resolution.has_missed), (1, false));
    }
}
