//! One Function, from what it should be to what is said of it: resolve → desired → apply → plan → status.

pub mod apply;
pub mod assignment;
pub mod desired;
pub mod device;
pub mod due;
pub mod hosts;
pub mod network;
pub mod pod;
pub mod resources;
mod revisions;
mod say;
pub mod status;

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::runtime::controller::Action;
use kube::{Client, ResourceExt as _};
use wisp_api::Function;
use wisp_contract::FunctionId;
use wisp_contract::hosts::OwnNames;
use wisp_contract::log::chain;

use crate::artifacts::Artifacts;
use crate::attempts::digest_of;
use crate::autoscale::Autoscaler;
use crate::cluster::Cluster;
use crate::events::Events;
use crate::live::{Applied, Functions, Live, Plan, lock};
use crate::metrics::Metrics;
use crate::names;
use crate::options::Options;
use crate::pool::Claimable;
use crate::references::{self, References};
use crate::resolve::Resolved;
use crate::resolver::{Outcome, Resolver};
use apply::ApplyError;
use desired::{Desired, DesiredError, Settings};
use revisions::{hold, prune, records, reserve, resume, settle, to_keep};
use say::say;

/// How long after an earlier revision could not be removed that is tried again.
const PRUNED_AGAIN: Duration = Duration::from_secs(60);
/// How long after what was left of a deleted Function is looked at again.
const LEFTOVER: Duration = Duration::from_millis(500);

/// What reconciling needs.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// What the command line says.
    pub options: Options,
    /// What is the same for all Functions.
    pub settings: Settings,
    /// The hosts that nobody needs to claim, and nobody else can.
    pub names: OwnNames,
    /// What is known of the cluster.
    pub cluster: Arc<Cluster>,
    /// What is remembered of functions.
    pub live: Arc<Functions>,
    /// The watches on what Functions name.
    pub references: References,
    /// Resolves them.
    pub resolver: Arc<Resolver>,
    /// Keeps what they are resolved to.
    pub artifacts: Arc<dyn Artifacts>,
    /// Sets their replicas.
    pub autoscaler: Arc<Autoscaler>,
    /// Tells people.
    pub events: Events,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// Why a Function isn't as it should be.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// It has no objects.
    #[error(transparent)]
    Desired(#[from] DesiredError),
    /// Its objects can't be made.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// Its status can't be written.
    #[error("the status can't be written")]
    Status(#[source] Box<kube::Error>),
}

impl ReconcileError {
    /// A word for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Desired(_) => "desired",
            Self::Apply(ApplyError::Api { .. }) => "apply",
            Self::Apply(ApplyError::Foreign { .. }) => "foreign",
            Self::Apply(ApplyError::Leftover { .. }) => "leftover",
            Self::Status(_) => "status",
        }
    }
}

/// Forgets a Function that is no more.
pub fn forget(context: &Context, id: &FunctionId) {
    context.references.set(id, &Default::default());
    context.live.forget(id);
    context.artifacts.release(&id.to_string());
    context.resolver.forget(id);
    context.metrics.forget(id);
}

/// Makes a Function what it should be, and says how far it is.
///
/// # Errors
/// When the API server refuses; it is tried again.
pub async fn reconcile(
    function: Arc<Function>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let Ok(id) = function.id() else {
        return Ok(Action::await_change());
    };
    if function.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    // It was forgotten a moment ago, or another has its name by now.
    let now = context.cluster.function(&id);
    if now.is_none_or(|now| now.metadata.uid != function.metadata.uid) {
        return Ok(Action::await_change());
    }
    let live = context.live.enter(&id, &function.uid().unwrap_or_default());
    if live.plan().is_none()
        && let Some(serving) = served_before(&context, &id, &function)
    {
        resume(&context, &id, &function, &serving);
    }
    context.references.set(&id, &references::of(&function));
    let outcome = context.resolver.outcome(&id, &function, &live).await;
    let versions = lock(&live.resolution).versions.clone();
    if !versions.is_empty() {
        context.references.used(&id, &versions);
    }
    let mut retry = None;
    let mut failed = None;
    match &outcome {
        Outcome::Working => {}
        Outcome::Failed(_, at) => retry = at.map(|at| at.saturating_duration_since(Instant::now())),
        Outcome::Resolved(resolved) => {
            // What can't be applied is told in the status, too.
            match make(&context, &id, &function, &live, resolved).await {
                Ok(again) => retry = again,
                Err(error) => failed = Some(error),
            }
        }
    }
    adopt(&id, &function, &live, &context);
    for record in to_keep(&context.cluster, &id, &function, &live, &outcome) {
        let again = context.resolver.keep(&id, &function, &live, record);
        let again = again.map(|at| at.saturating_duration_since(Instant::now()));
        retry = retry.into_iter().chain(again).min();
    }
    say(&context, &id, &function, &live, &outcome, failed.as_ref()).await?;
    match failed {
        Some(ReconcileError::Apply(ApplyError::Leftover { .. })) => Ok(Action::requeue(LEFTOVER)),
        Some(error) => Err(error),
        None => Ok(retry.map_or_else(
            || Action::requeue(due::applied_for(&function.uid().unwrap_or_default())),
            |after| Action::requeue(after.max(Duration::from_millis(50))),
        )),
    }
}

/// Holds what the functions consist of that were there before this process began, as it is known of their revisions: before
/// anything is fetched.
pub fn recall(context: &Context) {
    revisions::recall(&context.cluster, &context.live, &*context.artifacts);
}

/// Applies the objects where that is due, and lets the revision serve once it can. Returns after how long something is left to do.
async fn make(
    context: &Context,
    id: &FunctionId,
    function: &Function,
    live: &Live,
    resolved: &Resolved,
) -> Result<Option<Duration>, ReconcileError> {
    let desired = desired::desired(function, resolved, &context.settings)?;
    let settings = &context.settings;
    let (service, direct) = (&settings.operator, &settings.direct);
    let claimable = Claimable::of(function, resolved, &desired, service, direct);
    live.remember(&desired.revision, claimable);
    context.cluster.notify(id);
    let before = live
        .plan()
        .map(|plan| plan.serving)
        .or_else(|| served_before(context, id, function));
    let first = match &before {
        None => function.spec.scaling.min_replicas,
        // The others get theirs from the autoscaler, once the plan has them.
        Some(_) => lock(&live.load).desired.unwrap_or(0),
    };
    // Before anything that may fail: what is fetched for others meanwhile must not push it out.
    reserve(&*context.artifacts, id, live, resolved);
    lock(&live.kept).insert(desired.revision.clone());
    ensure(context, id, function, live, &desired, first).await?;
    settle(context, id, live, &desired.revision, before, function).await;
    hold(&*context.artifacts, id, live, resolved);
    // What is left of earlier revisions keeps nobody from being served.
    if let Err(error) = prune(context, id, function, live).await {
        tracing::warn!(function = %id, error = chain(&error), "an earlier revision can't be removed; trying again");
        return Ok(Some(PRUNED_AGAIN));
    }
    Ok(None)
}

/// The revision that served before this process started, if it is still there.
fn served_before(context: &Context, id: &FunctionId, function: &Function) -> Option<String> {
    let revision = function.status.as_ref()?.revision.clone()?;
    let deployment = context.cluster.deployments.get(id, &revision)?;
    (names::ownership(function, &deployment.metadata) == names::Ownership::Ours).then_some(revision)
}

/// A Function that can't be resolved just now keeps what it had.
fn adopt(id: &FunctionId, function: &Function, live: &Live, context: &Context) {
    let mut plan = lock(&live.plan);
    if plan.is_none()
        && let Some(serving) = served_before(context, id, function)
    {
        *plan = Some(Plan {
            latest: serving.clone(),
            serving,
            scaled_at: None,
        });
        drop(plan);
        context.cluster.notify(id);
    }
}

async fn ensure(
    context: &Context,
    id: &FunctionId,
    function: &Function,
    live: &Live,
    desired: &Desired,
    replicas: u32,
) -> Result<(), ReconcileError> {
    let digest = digest(desired);
    let deployment = context.cluster.deployments.get(id, &desired.revision);
    let generation = deployment
        .as_ref()
        .and_then(|deployment| deployment.metadata.generation);
    let long = due::applied_for(&function.uid().unwrap_or_default());
    let is_applied = due::is_applied(
        lock(&live.applied).as_mut(),
        digest,
        deployment.as_deref(),
        long,
        Instant::now(),
    );
    if is_applied {
        return Ok(());
    }
    let number = number(&records(&context.cluster, id, function), &desired.revision);
    let applied = apply::apply(&context.client, function, desired, number, replicas).await?;
    *lock(&live.applied) = Some(Applied {
        digest,
        generation: applied.generation.max(generation),
        shape: applied.shape,
        at: Instant::now(),
        service: applied.service,
    });
    Ok(())
}

/// The number of a revision: after all others, so that one that comes back is the newest again.
fn number(records: &[Arc<ControllerRevision>], revision: &str) -> i64 {
    let newest = records.iter().max_by_key(|record| record.revision);
    match newest.map(|newest| (newest.name_any() == revision, newest.revision.unwrap_or(0))) {
        None => 1,
        Some((true, number)) => number,
        Some((false, number)) => number.saturating_add(1),
    }
}

fn digest(desired: &Desired) -> u64 {
    digest_of(&[
        serde_json::to_string(&desired.record).unwrap_or_default(),
        serde_json::to_string(&desired.secret).unwrap_or_default(),
        serde_json::to_string(&desired.deployment).unwrap_or_default(),
        serde_json::to_string(&desired.service).unwrap_or_default(),
        serde_json::to_string(&desired.policy).unwrap_or_default(),
    ])
}
