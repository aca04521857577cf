//! The whole: wait to lead, watch, reconcile, scale, wake, serve.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use kube::runtime::Controller;
use kube::runtime::controller::{self, Action};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, Config, ResourceExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Mutex, SetOnce, watch};
use tokio_util::sync::CancellationToken;
use wisp_api::Function;
use wisp_artifacts::Apart;
use wisp_contract::FunctionId;
use wisp_contract::keys::Root;
use wisp_contract::log::chain;
use wisp_traces::Traces;

use crate::artifacts::{self, Artifacts, StoreArtifacts};
use crate::autoscale::Autoscaler;
use crate::cluster::{Change, Cluster, Writers, watch_all};
use crate::events::Events;
use crate::keys;
use crate::leader::Leader;
use crate::levels::Levels;
use crate::live::{Functions, lock};
use crate::metrics::Metrics;
use crate::options::Options;
use crate::pool::{Around, Defaults, Pools, Warm};
use crate::reconcile::desired::Settings;
use crate::reconcile::network::Peers;
use crate::reconcile::{self, Context, ReconcileError, hosts};
use crate::references::References;
use crate::resolver::Resolver;
use crate::server::{self, Api, Health, Port, Standing};
use crate::wake::{Deployments, Waker};

/// How many Functions are reconciled at once.
const CONCURRENCY: u16 = 32;
/// How long the last traces may take to be sent.
const FLUSH: Duration = Duration::from_secs(1);
/// How often it is looked whether the gateways are still told the keys: a Secret that is lost keeps new ones from starting.
const TOLD_AGAIN: Duration = Duration::from_secs(30);
/// How long after a failure one is reconciled again, at first.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Why a process that led leads no more. All that it knows may be old by now: it begins anew.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("another operator leads")]
pub struct LostLead;

/// An operator with its ports bound.
pub struct Operator {
    options: Options,
    client: Client,
    artifacts: Arc<dyn Artifacts>,
    metrics: Arc<Metrics>,
    api: TcpListener,
    health: TcpListener,
}

impl Operator {
    /// Opens the store, binds the ports and finds the API server.
    ///
    /// # Errors
    /// When one of these fails, with what it is.
    pub async fn build(options: Options) -> anyhow::Result<Self> {
        use anyhow::Context as _;
        let apart = Apart {
            program: std::env::current_exe().context("the operator's own program isn't known")?,
            memory: options
                .prepare_memory
                .map_or_else(artifacts::share_of_memory, |memory| memory.0),
            timeout: options.prepare_timeout,
        };
        let store = StoreArtifacts::open(
            &options.store,
            options.store_size.0,
            options.store_namespace_size.as_ref().map(|size| size.0),
            options.insecure_registry.clone(),
            options.signatures.clone(),
            options.cpu_level,
            Some(apart),
        )
        .with_context(|| format!("--store {} can't be used", options.store.display()))?;
        let metrics = Arc::new(Metrics::default());
        let store = store.counting(Arc::clone(&metrics));
        let bind = async |address| {
            TcpListener::bind(address)
                .await
                .with_context(|| format!("{address} can't be listened at"))
        };
        let cluster = Config::infer().await.context("no API server is known")?;
        let client = wisp_client::client(cluster);
        Ok(Self {
            api: bind(options.listen).await?,
            health: bind(options.health).await?,
            client: client.context("no client for the API server can be made")?,
            artifacts: Arc::new(store),
            metrics,
            options,
        })
    }

    /// Runs until `end`, or until another leads.
    ///
    /// # Errors
    /// When the installation's secret can't be had, or another leads.
    pub async fn run(self, end: CancellationToken) -> anyhow::Result<()> {
        let traces = Traces::from_environment("wisp-operator")?;
        let metrics = Arc::clone(&self.metrics);
        let live = Arc::new(Functions::default());
        let (cluster, feed) = Cluster::new();
        let is_ready = Arc::new(AtomicBool::new(false));
        let health = Health {
            is_ready: Arc::clone(&is_ready),
            metrics: Arc::clone(&metrics),
            cluster: Arc::clone(&cluster),
            live: Arc::clone(&live),
            artifacts: Arc::clone(&self.artifacts),
            counted: Mutex::default(),
        };
        let (doubt, doubted) = watch::channel(());
        let health = server::serve(
            self.health,
            Arc::new(health),
            Port::Open,
            end.clone(),
            doubted.clone(),
        );
        let health = tokio::spawn(health);
        let root = tokio::select! {
            root = keys::wait(&self.client, &self.options.namespace) => root?,
            () = end.cancelled() => return Ok(()),
        };
        is_ready.store(true, Ordering::Release);
        let (standing, leads) = watch::channel(Standing::Standby);
        let autoscaler = Arc::new(Autoscaler::new(
            self.client.clone(),
            Arc::clone(&cluster),
            Arc::clone(&live),
            Arc::clone(&metrics),
        ));
        let levels = Levels::new(
            Arc::clone(&self.artifacts),
            Arc::clone(&cluster),
            Arc::clone(&live),
        );
        let settings = settings(&self.options, root.clone());
        let pools = Pools::new(
            Around {
                client: self.client.clone(),
                cluster: Arc::clone(&cluster),
                live: Arc::clone(&live),
                autoscaler: Arc::clone(&autoscaler),
                artifacts: Arc::clone(&self.artifacts),
                levels: Arc::clone(&levels),
                metrics: Arc::clone(&metrics),
            },
            settings.clone(),
            Defaults {
                min: self.options.default_pool_min,
                max: self.options.default_pool_max,
                pod: self.options.default_pool_pod.clone(),
            },
        );
        let waker = Waker::new(
            Arc::clone(&cluster),
            Arc::clone(&live),
            Arc::clone(&autoscaler),
            Arc::new(Warm {
                pools: Arc::clone(&pools),
                deployments: Deployments(Arc::clone(&autoscaler)),
            }),
            Arc::clone(&metrics),
            traces.clone(),
        );
        let waker = Arc::new(waker.within(self.options.activate_timeout));
        let api = Arc::new(Api::new(
            root.clone(),
            waker,
            Arc::clone(&autoscaler),
            Arc::clone(&self.artifacts),
            Arc::clone(&levels),
            Arc::clone(&metrics),
            leads,
        ));
        let api = server::serve(self.api, api, Port::Keyed, end.clone(), doubted);
        let api = tokio::spawn(api);

        let leader = Leader::new(
            self.client.clone(),
            &self.options.namespace,
            self.options.pod_name.clone(),
        );
        tokio::select! {
            () = leader.acquire() => {}
            () = end.cancelled() => return Ok(()),
        }
        let (dirty, writers) = feed.split();
        let context = context(
            &self.options,
            &self.client,
            settings,
            &cluster,
            &live,
            &self.artifacts,
            &autoscaler,
            &metrics,
        );
        let recalled = SetOnce::new();
        let kept = async {
            // Pools fetch their models.
            recalled.wait().await;
            Arc::clone(&pools).run().await;
        };
        let told = async {
            loop {
                keys::tell(&self.client, &self.options.namespace, &root).await;
                tokio::time::sleep(TOLD_AGAIN).await;
            }
        };
        standing.send_replace(Standing::Learning);
        metrics.leads(true);
        let result = tokio::select! {
            () = lead(context, &pools, dirty, writers, &standing, &recalled) => Err(anyhow::anyhow!("the watches ended")),
            () = autoscaler.run() => Ok(()),
            () = kept => Ok(()),
            () = told => Ok(()),
            () = levels.run() => Ok(()),
            () = leader.hold(&doubt) => Err(LostLead.into()),
            () = end.cancelled() => Ok(()),
        };
        standing.send_replace(Standing::Standby);
        metrics.leads(false);
        // What was asked before is answered before another leads.
        end.cancel();
        let _ = api.await;
        let _ = tokio::time::timeout(FLUSH, traces.flush()).await;
        leader.release().await;
        let _ = health.await;
        result
    }
}

fn settings(options: &Options, root: Root) -> Settings {
    let cuda_image = options.runtime_cuda_image.as_ref();
    Settings {
        runtime_image: options.runtime_image.clone(),
        runtime_cuda_image: cuda_image.unwrap_or(&options.runtime_image).clone(),
        runtime_pull_policy: options.runtime_pull_policy.clone(),
        runtime_pull_secrets: options.runtime_pull_secrets.clone(),
        operator: options.advertised(),
        direct: options.direct(),
        gateway: options.gateway_host(),
        network: options.network_policies.then(|| Peers {
            namespace: options.namespace.clone(),
        }),
        root,
    }
}

#[expect(clippy::too_many_arguments, reason = "it only puts them side by side")]
fn context(
    options: &Options,
    client: &Client,
    settings: Settings,
    cluster: &Arc<Cluster>,
    live: &Arc<Functions>,
    artifacts: &Arc<dyn Artifacts>,
    autoscaler: &Arc<Autoscaler>,
    metrics: &Arc<Metrics>,
) -> Arc<Context> {
    let (known, remembered) = (Arc::clone(cluster), Arc::clone(live));
    let on_change = move |function: &FunctionId| {
        if let Some(live) = remembered.get(function) {
            live.inputs_changed();
        }
        known.reconcile(function);
    };
    Arc::new(Context {
        names: options.own_names(),
        client: client.clone(),
        options: options.clone(),
        cluster: Arc::clone(cluster),
        live: Arc::clone(live),
        references: References::new(client.clone(), Box::new(on_change)),
        resolver: Arc::new(Resolver::new(
            client.clone(),
            Arc::clone(cluster),
            Arc::clone(artifacts),
            Arc::clone(metrics),
            settings.root.clone(),
        )),
        settings,
        artifacts: Arc::clone(artifacts),
        autoscaler: Arc::clone(autoscaler),
        events: Events::new(client.clone(), options.pod_name.clone()),
        metrics: Arc::clone(metrics),
    })
}

/// Watches and reconciles until dropped.
async fn lead(
    context: Arc<Context>,
    pools: &Pools,
    mut dirty: UnboundedReceiver<ObjectRef<Function>>,
    writers: Writers,
    standing: &watch::Sender<Standing>,
    recalled: &SetOnce<()>,
) {
    let cluster = Arc::clone(&context.cluster);
    let watched = Arc::clone(&context);
    let watches = watch_all(
        context.client.clone(),
        Arc::clone(&cluster),
        writers,
        move |change| match change {
            Change::There(function) => changed(&watched, function, false),
            Change::Gone(function) => changed(&watched, function, true),
            Change::Listed => listed(&watched),
        },
    );
    let controller = async {
        // Who doesn't know yet what there is would make it anew.
        cluster.listed().await;
        reconcile::recall(&context);
        // Nobody else sets it.
        let _ = recalled.set(());
        pools.recovered().await;
        standing.send_replace(Standing::Leading);
        Controller::for_stream(futures::stream::pending(), cluster.functions().clone())
            .reconcile_on(futures::stream::poll_fn(move |task| dirty.poll_recv(task)))
            .with_config(controller::Config::default().concurrency(CONCURRENCY))
            .run(run, on_error, Arc::clone(&context))
            .for_each(|_| std::future::ready(()))
            .await;
    };
    futures::join!(watches, controller);
}

/// Forgets the Functions that went while nobody watched, also those that others have the names of by now.
fn listed(context: &Context) {
    let gone = context.live.gone(|id| context.cluster.function(id));
    for id in gone {
        reconcile::forget(context, &id);
    }
}

/// A Function changed: who shares a host with it may have it now, or no more.
fn changed(context: &Context, function: &Function, is_gone: bool) {
    let Ok(id) = function.id() else { return };
    let before = context.live.get(&id);
    let before = before.map(|live| lock(&live.claimed).take());
    let mut hosts = function.spec.hosts.clone();
    if is_gone {
        reconcile::forget(context, &id);
    } else {
        let claimed = hosts::claimed(function);
        let live = context.live.enter(&id, &function.uid().unwrap_or_default());
        lock(&live.claimed).clone_from(&claimed);
        if before.as_ref() == Some(&claimed) {
            return;
        }
    }
    let before = before.flatten().into_iter().flatten();
    hosts.extend(before.map(|(host, _)| host));
    let all = context.cluster.functions().state();
    let rivals = hosts::rivals(&id, &hosts, &all, &context.names);
    for rival in rivals.filter(|rival| *rival != id) {
        context.cluster.reconcile(&rival);
    }
}

async fn run(function: Arc<Function>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let result = reconcile::reconcile(Arc::clone(&function), Arc::clone(&context)).await;
    match &result {
        Ok(_) => {
            context.metrics.reconciled("succeeded");
            if let Some(live) = function.id().ok().and_then(|id| context.live.get(&id)) {
                *lock(&live.reconcile_failures) = 0;
            }
        }
        Err(error) => {
            context.metrics.reconciled(error.reason());
            tracing::warn!(function = %function.name_any(), namespace = function.namespace(), error = %chain(error), "a function can't be reconciled");
        }
    }
    result
}

#[expect(clippy::needless_pass_by_value, reason = "the controller calls it so")]
fn on_error(function: Arc<Function>, _: &ReconcileError, context: Arc<Context>) -> Action {
    let failures = function
        .id()
        .ok()
        .and_then(|id| context.live.get(&id))
        .map_or(0, |live| {
            let mut failures = lock(&live.reconcile_failures);
            *failures = failures.saturating_add(1);
            *failures
        });
    let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(6)));
    Action::requeue(pause)
}
