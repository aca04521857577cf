//! `wisp deploy`: from a folder to a function that answers in a cluster.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::FuturesOrdered;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use wisp_api::{Function, REQUESTED_AT};
use wisp_contract::FunctionId;

use crate::args::Deploy;
use crate::cluster::{self, Cluster, ClusterError, within};
use crate::dev::manifests::{Folder, discover, note};
use crate::failure::{Explain, Failure, chain};
use crate::paths;
use crate::terminal::{self, Terminal, harmless};

mod check;
mod plan;
mod render;
mod upload;
mod wait;

use plan::{Beside, Origin, Plan, Planned};
pub(crate) use plan::{id_of, namespace_of};
use wait::{Old, Wanted};

/// Who owns the fields that are applied.
const MANAGER: &str = "wisp";
/// Who owns the annotation that asks for another attempt: what is applied next doesn't have it, and so would take it away.
const ASKER: &str = "wisp-retry";

/// Why a function isn't deployed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeployError {
    #[error("{0} takes {1} from this machine, and no registry is named to push it to")]
    NoRegistry(FunctionId, &'static str),
    #[error("the {kind} `{name}` is in the namespace `{own}`, but `{asked}` was asked for")]
    Namespace {
        kind: &'static str,
        name: String,
        own: String,
        asked: String,
    },
    #[error("`{namespace}/{name}` is no function's name")]
    Id { namespace: String, name: String },
    #[error("the function {0} is declared twice")]
    Twice(FunctionId),
    #[error("the {kind} {namespace}/{name} is there twice, and the two differ")]
    Differing {
        kind: &'static str,
        namespace: String,
        name: String,
    },
    #[error("{what} has the sha256 {found}, but the manifest asks for {expected}")]
    Digest {
        what: String,
        found: String,
        expected: String,
    },
    #[error("{id} can't be deployed: there is no {}, which {what}", file.display())]
    NoFile {
        id: FunctionId,
        what: String,
        file: PathBuf,
    },
    #[error("{id} can't serve: {message}")]
    Failed {
        id: FunctionId,
        reason: String,
        message: String,
    },
    #[error("{id} isn't ready after {}: {message} ({reason})", terminal::duration(*patience))]
    NotReady {
        id: FunctionId,
        patience: Duration,
        reason: String,
        message: String,
    },
    #[error("{0} was deleted meanwhile")]
    Deleted(FunctionId),
    #[error(
        "--pull-secret names what images are pulled with, but {0} has none: neither its component nor a model is one"
    )]
    NoImage(FunctionId),
    #[error("there is nothing to deploy: no Function is declared in {0}")]
    Nothing(String),
}

impl Explain for DeployError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::NoRegistry(..) => {
                Some("name one with --registry or WISP_REGISTRY, such as ghcr.io/ada".to_owned())
            }
            Self::Failed { id, reason, .. } => Some(match reason.as_str() {
                "Unauthorized" => {
                    "name a Secret with the registry's credentials by --pull-secret; \
                                   `kubectl create secret docker-registry` makes one"
                        .to_owned()
                }
                _ => format!(
                    "`kubectl describe fn {} -n {}` tells more",
                    id.name(),
                    id.namespace()
                ),
            }),
            Self::NotReady { id, .. } => Some(format!(
                "it goes on without you: `wisp get {} -n {}` tells how it is",
                id.name(),
                id.namespace()
            )),
            Self::Differing { .. } => Some("give one of them another name or namespace".to_owned()),
            Self::Digest { .. } => {
                Some("correct the manifest's sha256, or leave it out".to_owned())
            }
            _ => None,
        }
    }
}

/// Builds, pushes, applies and waits.
pub(crate) fn run(args: &Deploy, terminal: &Terminal) -> Result<ExitCode, Failure> {
    let folders = discover(&args.paths, note(terminal))?;
    cluster::run(async {
        if args.render {
            return render::run(&folders, args, terminal).await;
        }
        let cluster = Cluster::connect(&args.cluster).await?;
        let mut plan = read(&folders, Some(&cluster.namespace), args, terminal)?;
        // All that can be wrong is found before minutes of building, and before the cluster is changed.
        let mut functions = foreseen(&plan, args)?;
        for function in &plan.functions {
            match cluster.function(&function.id).await {
                Ok(there) if !args.dry_run => release(function, &there, &cluster).await?,
                Ok(_) | Err(ClusterError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if args.dry_run {
            // What would be released isn't.
            functions.iter_mut().for_each(ask_for_nothing);
        }
        check::ask(&plan.beside, &functions, &cluster, args).await?;
        if args.dry_run {
            accepted(&plan, &cluster, terminal)?;
            return Ok(ExitCode::SUCCESS);
        }
        let uploads = upload(&mut plan, args, terminal).await?;
        let mut changed = Vec::new();
        for beside in &plan.beside {
            if apply_beside(&cluster, beside, args, terminal).await? {
                changed.push(beside);
            }
        }
        let since = tokio::time::Instant::now();
        // All are applied before one is waited for, and what becomes of one is told whatever becomes of the others.
        let (mut applied, mut code) = (Vec::new(), ExitCode::SUCCESS);
        for (function, (images, took)) in plan.functions.iter().zip(uploads) {
            let is_concerned = changed.iter().any(|beside| {
                beside.namespace == function.id.namespace() && function.mentions(&beside.name)
            });
            let mut deployment = Deployment {
                id: &function.id,
                images,
                took,
                began: Instant::now(),
                concerned: is_concerned.then_some(since),
                result: "",
                wanted: None,
            };
            match deployment.apply(function, &cluster, args, terminal).await {
                Ok(()) => applied.push(deployment),
                // The others are applied, whether or not somebody reads of it.
                Err(failure) if failure.is_end() => {}
                Err(failure) => code = failure.print(terminal),
            }
        }
        let waits = applied.into_iter();
        let waits = waits.map(|deployment| deployment.wait(&cluster, args, terminal));
        let mut waits: FuturesOrdered<_> = waits.collect();
        while let Some((deployment, waited)) = waits.next().await {
            let told = waited.and_then(|waited| deployment.tell(waited, terminal));
            match told {
                Err(failure) if failure.is_end() => break,
                Err(failure) => code = failure.print(terminal),
                Ok(()) => {}
            }
        }
        Ok(code)
    })
}

/// The plan for `folders`, `namespace` being that of objects that name none.
fn read(
    folders: &[Folder],
    namespace: Option<&str>,
    args: &Deploy,
    terminal: &Terminal,
) -> Result<Plan, Failure> {
    let is_fixed = args.cluster.namespace.is_some();
    let plan = Plan::read(folders, namespace, is_fixed, &paths::cache(None))?;
    for note in &plan.notes {
        terminal.note(&format!("{} {note}", terminal.err.yellow("note:")));
    }
    Ok(plan)
}

/// The functions as they will be applied, but for the digests of what is to be pushed.
///
/// # Errors
/// With what can be known to be wrong before anything is pushed.
fn foreseen(plan: &Plan, args: &Deploy) -> Result<Vec<Planned>, Failure> {
    let mut functions = Vec::new();
    for function in &plan.functions {
        match args.registry() {
            Some(_) => upload::check(function, args)?,
            None => needs_nothing(function)?,
        }
        if !args.pull_secrets.is_empty() && !function.pulls_images() {
            return Err(DeployError::NoImage(function.id.clone()).into());
        }
        let mut function = upload::stand_in(function, args)?;
        function.add_pull_secrets(&args.pull_secrets);
        function.check()?;
        functions.push(function);
    }
    Ok(functions)
}

/// Builds and pushes what the functions take from this machine, which is then named in the plan; returns the images of each,
/// and how long that took.
async fn upload(
    plan: &mut Plan,
    args: &Deploy,
    terminal: &Terminal,
) -> Result<Vec<(Value, Duration)>, Failure> {
    let mut uploads = Vec::new();
    for function in &mut plan.functions {
        let began = Instant::now();
        let images = upload::upload(function, args, terminal).await?;
        function.add_pull_secrets(&args.pull_secrets);
        function.check()?;
        uploads.push((images, began.elapsed()));
    }
    Ok(uploads)
}

/// Says that the cluster would take all of it.
fn accepted(plan: &Plan, cluster: &Cluster, terminal: &Terminal) -> Result<(), Failure> {
    let paint = terminal.out;
    let place = paint.dim(&format!("(dry run, in {})", cluster.server));
    for beside in &plan.beside {
        let what = format!("the {} {}/{}", beside.kind, beside.namespace, beside.name);
        terminal.say(&format!("{} {what} {place}", paint.green("accepted")))?;
    }
    for function in &plan.functions {
        let id = function.id.to_string();
        let told = paint.bold(&id);
        terminal.say(&format!("{} {told} {place}", paint.green("accepted")))?;
        terminal.json(&json!({"function": id, "result": "accepted"}))?;
    }
    Ok(())
}

fn needs_nothing(function: &Planned) -> Result<(), DeployError> {
    let what = match (&function.component, function.models.is_empty()) {
        (None, true) => return Ok(()),
        (Some(Origin::Project(_)), _) => "its component, a project,",
        (Some(Origin::File(_)), _) => "its component's file",
        (None, false) => "a model's file",
    };
    Err(DeployError::NoRegistry(function.id.clone(), what))
}

/// One function, whose `images` are pushed, which `took` so long. `concerned` says since when what it takes from beside it is
/// another, where it is.
struct Deployment<'a> {
    id: &'a FunctionId,
    images: Value,
    took: Duration,
    began: Instant,
    concerned: Option<tokio::time::Instant>,
    /// What applying it did.
    result: &'static str,
    /// What is waited for.
    wanted: Option<Wanted>,
}

impl Deployment<'_> {
    async fn apply(
        &mut self,
        function: &Planned,
        cluster: &Cluster,
        args: &Deploy,
        terminal: &Terminal,
    ) -> Result<(), Failure> {
        let Applied {
            result,
            is_same,
            function: applied,
        } = apply(function, cluster, args).await?;
        self.result = result;
        let paint = terminal.out;
        terminal.say(&format!(
            "{} {} {}",
            paint.green(result),
            paint.bold(&self.id.to_string()),
            paint.dim(&format!("(in {})", cluster.server))
        ))?;
        if is_same
            && let Some(reason) = wait::failed_attempt(&applied)
            && !asks_itself(function)
        {
            // It is applied, whether that can be asked or not.
            let asked = match ask_again(function, cluster).await {
                Ok(()) => "another is asked for".to_owned(),
                Err(error) => format!("another can't be asked for: {}", chain(&error)),
            };
            terminal.note(&format!(
                "{} the last attempt at what {} names failed ({}): {}",
                terminal.err.yellow("note:"),
                self.id,
                harmless(reason),
                harmless(&asked)
            ));
        }
        self.wanted = (!args.no_wait).then(|| Wanted {
            generation: applied.metadata.generation.unwrap_or_default(),
            old: is_same.then(|| Old::new(&applied, self.concerned.is_some())),
            since: self.concerned.unwrap_or_else(tokio::time::Instant::now),
        });
        Ok(())
    }

    /// Waits for it, where that is wanted. Gives what it is then.
    async fn wait(
        mut self,
        cluster: &Cluster,
        args: &Deploy,
        terminal: &Terminal,
    ) -> (Self, Result<Option<Function>, Failure>) {
        let waited = match self.wanted.take() {
            None => Ok(None),
            Some(wanted) => {
                let ready = wait::until_ready(cluster, self.id, wanted, args.timeout, terminal);
                ready.await.map(Some)
            }
        };
        self.took += self.began.elapsed();
        (self, waited)
    }

    /// Tells what became of it, which is `ready` where that was waited for.
    fn tell(self, ready: Option<Function>, terminal: &Terminal) -> Result<(), Failure> {
        let mut status = None;
        if let Some(ready) = ready {
            for told in wait::wanting(&ready) {
                terminal.note(&format!("{} {told}", terminal.err.yellow("note:")));
            }
            let now = ready.status.unwrap_or_default();
            let paint = terminal.out;
            terminal.say(&format!(
                "{} {} in {}",
                paint.green("ready"),
                paint.bold(now.url.as_deref().unwrap_or_default()),
                terminal::duration(self.took)
            ))?;
            status = Some(now);
        }
        terminal.json(&json!({
            "function": self.id.to_string(),
            "result": self.result,
            "images": self.images,
            "ready": status.is_some(),
            "url": status.as_ref().and_then(|status| status.url.clone()),
            "revision": status.and_then(|status| status.revision),
            "seconds": self.took.as_secs_f64(),
        }))?;
        Ok(())
    }
}

fn parameters(args: &Deploy) -> PatchParams {
    let parameters = PatchParams::apply(MANAGER);
    if args.force_conflicts {
        parameters.force()
    } else {
        parameters
    }
}

/// What applying a function did.
struct Applied {
    result: &'static str,
    /// Whether it asks for what it asked for before: what its status says may be of then. The version of an object says less:
    /// the operator writes to it, too.
    is_same: bool,
    /// What is there now.
    function: Function,
}

async fn apply(
    function: &Planned,
    cluster: &Cluster,
    args: &Deploy,
) -> Result<Applied, ClusterError> {
    let api = cluster.functions(function.id.namespace());
    let refused = |error| cluster.refused(format!("apply the function {}", function.id), error);
    let before = within(api.get_opt(function.id.name()))
        .await
        .map_err(refused)?;
    let patch = Patch::Apply(&function.written);
    let after = within(api.patch(function.id.name(), &parameters(args), &patch))
        .await
        .map_err(refused)?;
    let generation = after.metadata.generation;
    let is_same = before
        .as_ref()
        .is_some_and(|before| before.metadata.generation == generation);
    let result = match before {
        None => "created",
        Some(before) if before.resource_version() == after.resource_version() => "unchanged",
        Some(_) => "configured",
    };
    Ok(Applied {
        result,
        is_same,
        function: after,
    })
}

/// Whether the manifest has the annotation that asks for another attempt: who writes it themselves asks by that.
fn asks_itself(function: &Planned) -> bool {
    let annotations = function.written.pointer("/metadata/annotations");
    annotations.is_some_and(|annotations| annotations.get(REQUESTED_AT).is_some())
}

/// Takes the manifest's word for another attempt out of it.
fn ask_for_nothing(function: &mut Planned) {
    let annotations = function.written.pointer_mut("/metadata/annotations");
    if let Some(annotations) = annotations.and_then(Value::as_object_mut) {
        annotations.remove(REQUESTED_AT);
    }
}

/// Has the operator try again at once what failed, which may have been mended where it can't see it.
async fn ask_again(function: &Planned, cluster: &Cluster) -> Result<(), ClusterError> {
    let now = Timestamp::now().to_string();
    annotate(function, &now.into(), cluster).await
}

/// Takes away what [`ask_again`] wrote to the function that is `there`, where the manifest has a word of its own for it: the
/// two would conflict.
async fn release(
    function: &Planned,
    there: &Function,
    cluster: &Cluster,
) -> Result<(), ClusterError> {
    let is_asker = |entry: &ManagedFieldsEntry| entry.manager.as_deref() == Some(ASKER);
    if asks_itself(function) && there.managed_fields().iter().any(is_asker) {
        annotate(function, &Value::Null, cluster).await?;
    }
    Ok(())
}

async fn annotate(
    function: &Planned,
    value: &Value,
    cluster: &Cluster,
) -> Result<(), ClusterError> {
    let parameters = PatchParams {
        field_manager: Some(ASKER.to_owned()),
        ..PatchParams::default()
    };
    let patch = Patch::Merge(json!({"metadata": {"annotations": {REQUESTED_AT: value}}}));
    let api = cluster.functions(function.id.namespace());
    within(api.patch_metadata(function.id.name(), &parameters, &patch))
        .await
        .map(drop)
        .map_err(|error| cluster.refused(format!("annotate the function {}", function.id), error))
}

/// Applies what stands beside a function; returns whether that changed it.
async fn apply_beside(
    cluster: &Cluster,
    beside: &Beside,
    args: &Deploy,
    terminal: &Terminal,
) -> Result<bool, Failure> {
    let (client, namespace) = (cluster.client.clone(), &beside.namespace);
    let applied = if beside.kind == "Secret" {
        let api: Api<Secret> = Api::namespaced(client, namespace);
        apply_to(&api, beside, args).await
    } else {
        let api: Api<ConfigMap> = Api::namespaced(client, namespace);
        apply_to(&api, beside, args).await
    };
    let what = format!("the {} {namespace}/{}", beside.kind, beside.name);
    let is_changed = applied.map_err(|error| cluster.refused(format!("apply {what}"), error))?;
    let paint = terminal.out;
    terminal.say(&format!("{} {what}", paint.green("applied")))?;
    Ok(is_changed)
}

async fn apply_to<K>(api: &Api<K>, beside: &Beside, args: &Deploy) -> kube::Result<bool>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    // Who may write a Secret may not be allowed to read it: then it may have changed.
    let before = within(api.get_metadata_opt(&beside.name)).await.ok();
    let before = before
        .flatten()
        .and_then(|before| before.resource_version());
    let patch = Patch::Apply(&beside.written);
    let after = within(api.patch(&beside.name, &parameters(args), &patch)).await?;
    let version = &after.meta().resource_version;
    Ok(before.is_none() || before != *version)
}
