//! Resolves functions beside everything else: a slow registry keeps nothing waiting but the function that names it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::{Client, ResourceExt as _};
use wisp_api::Function;
use wisp_contract::FunctionId;

use crate::artifacts::Artifacts;
use crate::attempts::{Attempts, digest_of};
use crate::cluster::Cluster;
use crate::live::{Inputs, Live, Settled, lock};
use crate::metrics::Metrics;
use crate::reconcile::desired::{pins_in, pins_of};
use crate::resolve::{self, ResolveError, Resolved};

/// What is quick is waited for, so that no status tells of it.
const QUICK: Duration = Duration::from_millis(300);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Resolves functions.
pub struct Resolver {
    client: Client,
    cluster: Arc<Cluster>,
    artifacts: Arc<dyn Artifacts>,
    metrics: Arc<Metrics>,
    /// The fetching anew of what serves.
    kept: Attempts<FunctionId>,
}

/// How far it is.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// It goes on.
    Working,
    /// This is it.
    Resolved(Arc<Resolved>),
    /// It failed, and is tried again then; without a time it is being tried already.
    Failed(ResolveError, Option<Instant>),
}

impl Resolver {
    /// Resolves with `artifacts`.
    #[must_use]
    pub fn new(
        client: Client,
        cluster: Arc<Cluster>,
        artifacts: Arc<dyn Artifacts>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            client,
            cluster,
            artifacts,
            metrics,
            kept: Attempts::default(),
        }
    }

    /// What the function resolves to. What takes longer goes on, and has the function reconciled when it is there.
    pub async fn outcome(
        self: &Arc<Self>,
        id: &FunctionId,
        function: &Function,
        live: &Arc<Live>,
    ) -> Outcome {
        let mut changes = self.cluster.changes(id);
        let Some(inputs) = self.begin(id, function, live) else {
            return known(function, live);
        };
        let settled = async {
            loop {
                changes.borrow_and_update();
                if lock(&live.resolution)
                    .last
                    .as_ref()
                    .is_some_and(|last| last.inputs == inputs)
                {
                    return;
                }
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        // Elapsed or not: what is known counts.
        let _ = tokio::time::timeout(QUICK, settled).await;
        known(function, live)
    }

    /// Begins to resolve where that is due. Returns what is being resolved, unless it was before.
    fn begin(
        self: &Arc<Self>,
        id: &FunctionId,
        function: &Function,
        live: &Arc<Live>,
    ) -> Option<Inputs> {
        let mut resolution = lock(&live.resolution);
        let inputs = Inputs {
            generation: function.metadata.generation.unwrap_or(0),
            change: resolution.change,
        };
        if let Some(last) = &resolution.last
            && last.inputs == inputs
            && last.retry_at.is_none_or(|at| Instant::now() < at)
        {
            return None;
        }
        if let Some((running, task)) = &resolution.running {
            if *running == inputs && !task.is_finished() {
                return None;
            }
            task.abort();
        }
        if resolution
            .last
            .as_ref()
            .is_some_and(|last| last.inputs != inputs)
        {
            resolution.failures = 0;
        }
        let (this, id, function) = (Arc::clone(self), id.clone(), function.clone());
        let (live, of) = (Arc::clone(live), inputs.clone());
        let task = tokio::spawn(async move {
            let outcome = this.resolve(&id, &function).await;
            this.settle(&id, &live, of, outcome);
        });
        resolution.running = Some((inputs.clone(), task.abort_handle()));
        resolution.has_missed = false;
        Some(inputs)
    }

    /// Has what the revision `serving` was made of in the store, of a function whose latest can't be resolved: this process may
    /// have begun with a store that has nothing.
    pub fn keep(
        self: &Arc<Self>,
        id: &FunctionId,
        function: &Function,
        live: &Arc<Live>,
        serving: &str,
    ) {
        // Nothing was resolved since it began, or it would be held.
        if !lock(&live.held).is_empty() {
            return;
        }
        let Some(record) = self.cluster.revisions.get(id, serving) else {
            return;
        };
        if !self.kept.begin(id, digest_of(&serving), Instant::now()) {
            return;
        }
        let (this, live, id) = (Arc::clone(self), Arc::clone(live), id.clone());
        let (function, serving) = (function.clone(), serving.to_owned());
        tokio::spawn(async move {
            let refetched = async {
                let gathered = resolve::gather(&this.client, &function).await?;
                resolve::refetch(&pins_in(&record), &gathered, &*this.artifacts).await
            };
            let result = refetched
                .await
                .map(|digests| this.hold(&id, &live, digests));
            if let Err(error) = &result {
                tracing::warn!(function = %id, revision = serving, %error, "what serves can't be fetched anew");
            }
            let result = result.map_err(|error| error.to_string());
            this.kept.end(&id, result, Instant::now());
        });
    }

    /// Keeps `digests` in the store, beside what may be known to be needed by now.
    fn hold(&self, id: &FunctionId, live: &Live, digests: Vec<String>) {
        let mut held = lock(&live.held);
        held.extend(digests);
        held.extend(lock(&live.recalled).iter().cloned());
        held.sort();
        held.dedup();
        self.artifacts.hold(&id.to_string(), held.clone());
    }

    /// Forgets a function that is no more.
    pub fn forget(&self, id: &FunctionId) {
        self.kept.retain(|known| known != id);
    }

    async fn resolve(
        &self,
        id: &FunctionId,
        function: &Function,
    ) -> Result<Resolved, ResolveError> {
        let gathered = resolve::gather(&self.client, function).await?;
        let records = self.cluster.revisions.of(id);
        let ours = records.iter().filter(|record| {
            record
                .owner_references()
                .iter()
                .any(|owner| Some(&owner.uid) == function.metadata.uid.as_ref())
        });
        let pins = pins_of(function, ours.map(|record| &**record));
        resolve::resolve(function, &gathered, &pins, &*self.artifacts).await
    }

    fn settle(
        &self,
        id: &FunctionId,
        live: &Live,
        inputs: Inputs,
        outcome: Result<Resolved, ResolveError>,
    ) {
        let mut resolution = lock(&live.resolution);
        let retry_at = match &outcome {
            Ok(_) => {
                resolution.failures = 0;
                self.metrics.resolved("succeeded");
                None
            }
            Err(error) => {
                let pause = pause(resolution.failures, error.is_transient);
                resolution.failures = resolution.failures.saturating_add(1);
                self.metrics.resolved(error.reason);
                tracing::warn!(function = %id, reason = error.reason, %error, "the function can't be resolved");
                Instant::now().checked_add(pause)
            }
        };
        let is_resolved = outcome.is_ok();
        resolution.last = Some(Settled {
            inputs,
            outcome: outcome.map(Arc::new),
            retry_at,
        });
        resolution.running = None;
        let has_missed = std::mem::take(&mut resolution.has_missed);
        // What failed is tried again in its time.
        if has_missed && is_resolved {
            resolution.change = resolution.change.wrapping_add(1);
        }
        drop(resolution);
        self.cluster.notify(id);
        self.cluster.reconcile(id);
    }
}

/// What may pass is tried again soon, what somebody must mend less so; either ever less often.
pub(crate) fn pause(failures: u32, is_transient: bool) -> Duration {
    let first = if is_transient { 1 } else { 5 };
    Duration::from_secs(first)
        .saturating_mul(2_u32.saturating_pow(failures))
        .min(LONGEST_PAUSE)
}

/// The last result for this spec, even if what it names has changed since.
fn known(function: &Function, live: &Live) -> Outcome {
    let resolution = lock(&live.resolution);
    let generation = function.metadata.generation.unwrap_or(0);
    match resolution
        .last
        .as_ref()
        .filter(|last| last.inputs.generation == generation)
    {
        None => Outcome::Working,
        Some(settled) => match &settled.outcome {
            Ok(resolved) => Outcome::Resolved(Arc::clone(resolved)),
            Err(error) => {
                // An attempt that goes on has the function reconciled when it ends: its time has come already.
                let running = resolution.running.as_ref();
                let is_tried = running.is_some_and(|(_, task)| !task.is_finished());
                let retry_at = settled.retry_at.filter(|_| !is_tried);
                Outcome::Failed(error.clone(), retry_at)
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_made_ever_less_often_and_never_stop() {
        let pauses =
            |is_transient| [0, 1, 5, 40].map(|failures| pause(failures, is_transient).as_secs());
        assert_eq!(pauses(true), [1, 2, 30, 30]);
        assert_eq!(pauses(false), [5, 10, 30, 30]);
    }

    /// Would fail if a function were reconciled again and again while its registry is asked once more, or never again once
    /// an attempt ended without a word.
    #[tokio::test]
    async fn what_is_being_tried_again_has_no_time_at_which_to_try() {
        let (live, mut function) = (Live::default(), Function::new("f", Default::default()));
        function.metadata.generation = Some(1);
        let inputs = Inputs {
            generation: 1,
            change: 0,
        };
        let retry_at = Instant::now();
        let error = ResolveError {
            part: crate::resolve::Part::Component,
            reason: "Unreachable",
            message: "m".to_owned(),
            is_transient: true,
        };
        lock(&live.resolution).last = Some(Settled {
            inputs: inputs.clone(),
            outcome: Err(error),
            retry_at: Some(retry_at),
        });
        let at = || match known(&function, &live) {
            Outcome::Failed(_, at) => at,
            other => panic!("{other:?}"),
        };
        assert_eq!(at(), Some(retry_at));
        let attempt = tokio::spawn(std::future::pending::<()>());
        lock(&live.resolution).running = Some((inputs, attempt.abort_handle()));
        assert_eq!(at(), None);
        attempt.abort();
        assert!(attempt.await.is_err());
        assert_eq!(at(), Some(retry_at));
    }
}
