//! Resolves functions beside everything else: a slow registry keeps nothing waiting but the function that names it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::{Client, ResourceExt as _};
use wisp_api::{Function, REQUESTED_AT};
use wisp_contract::FunctionId;
use wisp_contract::keys::Root;

use crate::artifacts::{Artifacts, Stage};
use crate::attempts::{Attempts, digest_of};
use crate::cluster::Cluster;
use crate::live::{Inputs, Live, Resolution, Settled, lock};
use crate::metrics::Metrics;
use crate::pins::{pins_in, pins_of};
use crate::reconcile::desired::artifacts_in;
use crate::resolve::{self, Coming, ResolveError, Resolved};

/// What is quick is waited for, so that no status tells of it.
const QUICK: Duration = Duration::from_millis(300);
/// The longest pause between two attempts at what may pass.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The longest where somebody must mend it, as kubelets have it for images: each attempt may download all of it, or count with
/// a registry that allows a hundred requests in six hours.
const LONGEST_FOR_PEOPLE: Duration = Duration::from_secs(300);

/// Resolves functions.
pub struct Resolver {
    client: Client,
    cluster: Arc<Cluster>,
    artifacts: Arc<dyn Artifacts>,
    metrics: Arc<Metrics>,
    /// What shows which notes are an operator's.
    root: Root,
    /// The fetching anew of what serves, or does again: by function and revision.
    kept: Attempts<(FunctionId, String)>,
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
    /// Resolves with `artifacts`, and believes what was noted before by who has `root`.
    #[must_use]
    pub fn new(
        client: Client,
        cluster: Arc<Cluster>,
        artifacts: Arc<dyn Artifacts>,
        metrics: Arc<Metrics>,
        root: Root,
    ) -> Self {
        Self {
            client,
            cluster,
            artifacts,
            metrics,
            root,
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
        let inputs = inputs(function, &resolution);
        if let Some(last) = &resolution.last
            && last.inputs == inputs
            && last.retry_at.is_none_or(|at| Instant::now() < at)
        {
            return None;
        }
        let running = resolution.running.as_ref();
        if running.is_some_and(|task| !task.is_finished()) {
            // It sees for itself whether what it fetches is still what is needed.
            drop(resolution);
            self.cluster.notify(id);
            return None;
        }
        if resolution
            .last
            .as_ref()
            .is_some_and(|last| last.inputs != inputs)
        {
            resolution.failures = 0;
        }
        let (this, live, id) = (Arc::clone(self), Arc::clone(live), id.clone());
        let function = function.clone();
        let task = tokio::spawn(async move { this.run(&id, &live, function).await });
        resolution.running = Some(task.abort_handle());
        Some(inputs)
    }

    /// Resolves a function until the result is of all that it is made of by then.
    async fn run(&self, id: &FunctionId, live: &Live, mut function: Function) {
        let mut coming = Coming::new(&*self.artifacts, id);
        loop {
            let inputs = {
                let mut resolution = lock(&live.resolution);
                resolution.has_missed = false;
                resolution.stage = Stage::default();
                inputs(&function, &resolution)
            };
            let outcome = self.resolve(id, &function, live, &inputs, &coming).await;
            let Some(now) = self.present(id, live) else {
                return;
            };
            match outcome.map(|outcome| self.settle(id, live, &now, inputs, outcome)) {
                Some(true) => return,
                Some(false) => {}
                None => coming = Coming::new(&*self.artifacts, id),
            }
            function = now;
        }
    }

    /// The function as it is now, unless it is gone.
    fn present(&self, id: &FunctionId, live: &Live) -> Option<Function> {
        let function = self.cluster.function(id)?;
        live.is_of(&function).then(|| Function::clone(&function))
    }

    /// Has what the revision of `record` was made of in the store, of which resolving the function fetches nothing: this process
    /// may have begun with a store that has nothing. Returns when it is tried again, where it failed.
    pub fn keep(
        self: &Arc<Self>,
        id: &FunctionId,
        function: &Function,
        live: &Arc<Live>,
        record: Arc<ControllerRevision>,
    ) -> Option<Instant> {
        let revision = record.name_any();
        if lock(&live.kept).contains(&revision) {
            return None;
        }
        let key = (id.clone(), revision);
        let what = {
            let resolution = lock(&live.resolution);
            let inputs = inputs(function, &resolution);
            digest_of(&(inputs.generation, inputs.requested, &resolution.versions))
        };
        if !self.kept.begin(&key, what, Instant::now()) {
            return self.kept.due(&key);
        }
        let (this, live, function) = (Arc::clone(self), Arc::clone(live), function.clone());
        tokio::spawn(async move {
            let (id, revision) = &key;
            let coming = Coming::new(&*this.artifacts, id);
            let result = this.fetch_kept(&function, &record, &coming).await;
            let least = match &result {
                Ok(_) => Duration::ZERO,
                Err(error) if error.is_transient => asked(error),
                Err(_) => LONGEST_FOR_PEOPLE,
            };
            let result = match result {
                Ok(digests) => {
                    this.hold(id, &live, digests);
                    lock(&live.kept).insert(revision.clone());
                    Ok(())
                }
                Err(error) => {
                    tracing::warn!(function = %id, revision, %error, "what serves, or does again if the latest can't, can't be fetched anew");
                    Err(error.to_string())
                }
            };
            let has_failed = result.is_err();
            this.kept.end_for(&key, result, Instant::now(), least);
            if has_failed {
                // For the time at which it is tried again.
                this.cluster.reconcile(id);
            }
        });
        None
    }

    /// Fetches what the revision of `record` was made of, unless all of that is there. Gives the digests.
    async fn fetch_kept(
        &self,
        function: &Function,
        record: &ControllerRevision,
        coming: &Coming<'_>,
    ) -> Result<Vec<String>, ResolveError> {
        let noted = artifacts_in(record);
        if self.has_all(&noted).await {
            return Ok(noted);
        }
        let gathered = resolve::gather(&self.client, function).await?;
        resolve::refetch(&pins_in(record), &gathered, coming).await
    }

    async fn has_all(&self, digests: &[String]) -> bool {
        for sha256 in digests {
            if !matches!(self.artifacts.open(sha256).await, Ok(Some(_))) {
                return false;
            }
        }
        true
    }

    /// Keeps `digests` in the store, beside what may be known to be needed by now.
    fn hold(&self, id: &FunctionId, live: &Live, digests: Vec<String>) {
        // One lock after the other: whoever has both takes this one first.
        let recalled = lock(&live.recalled).clone();
        live.hold(id, &*self.artifacts, |held| {
            let mut all = [held.to_vec(), digests, recalled].concat();
            all.sort();
            all.dedup();
            all
        });
    }

    /// Forgets a function that is no more.
    pub fn forget(&self, id: &FunctionId) {
        self.kept.retain(|(known, _)| known != id);
    }

    /// Resolves `function`. What is fetched may take long, and stays with `coming`: where something else changes meanwhile, that
    /// goes on; `None` where it would be in vain.
    async fn resolve(
        &self,
        id: &FunctionId,
        function: &Function,
        live: &Live,
        inputs: &Inputs,
        coming: &Coming<'_>,
    ) -> Option<Result<Resolved, ResolveError>> {
        let gathered = match resolve::gather(&self.client, function).await {
            Ok(gathered) => gathered,
            Err(error) => return Some(Err(error)),
        };
        lock(&live.resolution).versions = gathered.versions.clone();
        let records = self.cluster.revisions.of(id);
        let records = records.iter().map(|record| &**record);
        let mut pins = pins_of(function, records, &self.root);
        let sources = gathered.sources(function);
        let began = Instant::now();
        let told = |stage| {
            lock(&live.resolution).stage = stage;
            // Until then who waits for what is quick tells it.
            if began.elapsed() > QUICK / 2 {
                self.cluster.reconcile(id);
            }
        };
        let resolved = async {
            loop {
                let outcome = resolve::resolve(function, &gathered, &pins, coming, &told).await;
                let error = outcome.as_ref().err();
                let Some(image) = error.and_then(|error| pins.lose(function, error)) else {
                    return outcome;
                };
                tracing::info!(function = %id, image, "what a tag of the function meant is no more: it is resolved anew");
            }
        };
        tokio::select! {
            biased;
            outcome = resolved => Some(outcome),
            () = self.until_in_vain(id, live, inputs.clone(), sources) => None,
        }
    }

    /// Waits until the function has other sources than those with the digest `sources`, which it had as of `known`.
    async fn until_in_vain(&self, id: &FunctionId, live: &Live, mut known: Inputs, sources: u64) {
        let mut changes = self.cluster.changes(id);
        loop {
            changes.borrow_and_update();
            let Some(now) = self.present(id, live) else {
                return;
            };
            let inputs = inputs(&now, &lock(&live.resolution));
            if inputs != known
                // What can't be read is read again when it is fetched.
                && let Ok(gathered) = resolve::gather(&self.client, &now).await
            {
                if gathered.sources(&now) != sources {
                    return;
                }
                known = inputs;
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Takes note of how it ended for `function` as it was with `inputs`, unless it isn't as it is `now`. Returns whether
    /// it did.
    fn settle(
        &self,
        id: &FunctionId,
        live: &Live,
        now: &Function,
        of: Inputs,
        outcome: Result<Resolved, ResolveError>,
    ) -> bool {
        let mut resolution = lock(&live.resolution);
        if inputs(now, &resolution) != of {
            return false;
        }
        let retry_at = match &outcome {
            Ok(_) => {
                resolution.failures = 0;
                self.metrics.resolved("succeeded");
                None
            }
            Err(error) => {
                let pause = pause(resolution.failures, error);
                resolution.failures = resolution.failures.saturating_add(1);
                self.metrics.resolved(error.reason);
                tracing::warn!(function = %id, reason = error.reason, %error, "the function can't be resolved");
                Instant::now().checked_add(pause)
            }
        };
        let digests = outcome.as_ref().map(Resolved::digests).ok();
        let is_resolved = outcome.is_ok();
        resolution.last = Some(Settled {
            inputs: of,
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
        // Before it is let go as what came.
        if let Some(digests) = digests {
            self.hold(id, live, digests);
        }
        self.cluster.notify(id);
        self.cluster.reconcile(id);
        true
    }
}

/// What a function is resolved from, as of now.
fn inputs(function: &Function, resolution: &Resolution) -> Inputs {
    Inputs {
        generation: function.metadata.generation.unwrap_or(0),
        change: resolution.change,
        requested: function.annotations().get(REQUESTED_AT).cloned(),
    }
}

/// How long after so many failures before, and `error`, it is tried again: no sooner than whoever was asked wants it, unless that is
/// longer than the longest.
pub(crate) fn pause(failures: u32, error: &ResolveError) -> Duration {
    back_off(failures, error.is_transient).max(asked(error))
}

/// How long whoever was asked is left alone.
fn asked(error: &ResolveError) -> Duration {
    error
        .retry_after
        .unwrap_or_default()
        .min(LONGEST_FOR_PEOPLE)
}

/// What may pass is tried again soon, what somebody must mend less so; either ever less often.
pub(crate) fn back_off(failures: u32, is_transient: bool) -> Duration {
    let (first, longest) = if is_transient {
        (1, LONGEST_PAUSE)
    } else {
        (5, LONGEST_FOR_PEOPLE)
    };
    Duration::from_secs(first)
        .saturating_mul(2_u32.saturating_pow(failures))
        .min(longest)
}

/// The last result for this spec, even if what it names has changed since. Who asks for another attempt is told of that one.
fn known(function: &Function, live: &Live) -> Outcome {
    let resolution = lock(&live.resolution);
    let now = inputs(function, &resolution);
    match resolution.last.as_ref().filter(|last| {
        last.inputs.generation == now.generation
            && (last.outcome.is_ok() || last.inputs.requested == now.requested)
    }) {
        None => Outcome::Working,
        Some(settled) => match &settled.outcome {
            Ok(resolved) => Outcome::Resolved(Arc::clone(resolved)),
            Err(error) => {
                // An attempt that goes on has the function reconciled when it ends: its time has come already.
                let running = resolution.running.as_ref();
                let is_tried = running.is_some_and(|task| !task.is_finished());
                let retry_at = settled.retry_at.filter(|_| !is_tried);
                Outcome::Failed(error.clone(), retry_at)
            }
        },
    }
}

#[cfg(test)]
mod tests;
