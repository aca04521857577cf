//! The process' life: it starts, serves, and drains.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kube::Client;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wisp_contract::log::event;
use wisp_gateway::{Gateway, Options, Server};
use wisp_traces::Traces;

use crate::certificate::{Current, Source};
use crate::clients::Clients;
use crate::counts::Counts;
use crate::descriptors;
use crate::directory::Directory;
use crate::health::{Health, Phase};
use crate::logs::{Access, Log};
use crate::operator::Operator;
use crate::options::Cli;
use crate::table::Table;
use crate::wake::Waker;
use crate::{keys, memory, reporter, watches};

/// How long the last traces may take to be sent.
const FLUSH: Duration = Duration::from_secs(2);

/// Serves until SIGTERM or SIGINT, then drains; a second signal ends the drain.
///
/// # Errors
/// When a port can't be bound, or the cluster's configuration can't be found.
pub(crate) async fn run(cli: Cli, log: Log) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("signals cannot be listened to")?;
    let counts = Arc::<Counts>::default();
    let health = Arc::new(Health::new(Arc::clone(&counts)));
    let listener = TcpListener::bind(cli.health)
        .await
        .with_context(|| format!("the health port cannot be bound to {}", cli.health))?;
    tracing::info!(health = %listener.local_addr()?, "the gateway starts");
    // All that runs beside the serving threads; it ends when this returns.
    let mut background = JoinSet::new();
    background.spawn(Arc::clone(&health).serve(listener));
    let started = tokio::select! {
        started = start(&cli, log, &counts, &health, &mut background) => started?,
        () = signals.any() => return Ok(()),
    };
    let Started {
        gateway,
        mut servers,
        stop,
        reporting,
        silence,
        replaced,
        traces,
    } = started;
    tokio::select! {
        () = signals.any() => {}
        // Kubernetes starts it anew, and then it has the new ones.
        () = replaced.cancelled() => tracing::warn!("the gateways have other keys by now: this one ends"),
        // A serving thread that fails ends the process: Kubernetes starts it anew.
        failed = servers.join_next() => return ended(failed),
    }
    health.enter(Phase::Draining);
    gateway.leave();
    tracing::info!(event = event::DRAINING, "the gateway drains");
    // Whoever leads clients here needs a moment to learn that it is to stop.
    tokio::select! {
        () = tokio::time::sleep(cli.drain_delay) => {}
        () = signals.any() => {}
        failed = servers.join_next() => return ended(failed),
    }
    stop.cancel();
    let drained = async {
        while let Some(server) = servers.join_next().await {
            ended(Some(server))?;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        drained = drained => drained?,
        () = signals.any() => return Ok(()),
    }
    silence.cancel();
    let _ = reporting.await;
    let _ = tokio::time::timeout(FLUSH, traces.flush()).await;
    Ok(())
}

fn ended(
    server: Option<Result<std::io::Result<()>, tokio::task::JoinError>>,
) -> anyhow::Result<()> {
    match server {
        Some(served) => served
            .context("a listener panicked")?
            .context("a listener failed"),
        None => Ok(()),
    }
}

/// What serves.
struct Started {
    gateway: Arc<Gateway>,
    servers: JoinSet<std::io::Result<()>>,
    /// Begins the drain of the servers.
    stop: CancellationToken,
    reporting: tokio::task::JoinHandle<()>,
    /// Ends the reports.
    silence: CancellationToken,
    /// The keys that it began with aren't the gateways' any more.
    replaced: CancellationToken,
    traces: Traces,
}

async fn start(
    cli: &Cli,
    log: Log,
    counts: &Arc<Counts>,
    health: &Health,
    background: &mut JoinSet<()>,
) -> anyhow::Result<Started> {
    let config = kube::Config::infer()
        .await
        .context("neither a cluster around the process nor a KUBECONFIG was found")?;
    let namespace = cli
        .namespace
        .clone()
        .unwrap_or_else(|| config.default_namespace.clone());
    let client = wisp_client::client(config).context("no client for the API server can be made")?;

    health.enter(Phase::Starting(
        "the Secret with the gateway's keys is missing",
    ));
    let keys = keys::wait(client.clone(), &namespace, &cli.keys_secret).await;
    let operator = Operator::new(cli.operator.clone(), &keys.operator)
        .context("the operator's key is none that a header can hold")?;
    let operator = Arc::new(operator);

    let table = Arc::new(Table::new(Directory::new(keys.data.clone())));
    let replaced = CancellationToken::new();
    let (tell, of, name) = (replaced.clone(), namespace.clone(), cli.keys_secret.clone());
    let looking = client.clone();
    background.spawn(async move {
        keys::replaced(looking, &of, &name, &keys).await;
        tell.cancel();
    });
    let waker = Waker {
        operator: Arc::clone(&operator),
        table: Arc::clone(&table),
        counts: Arc::clone(counts),
        patience: cli.activate_timeout,
    };
    let traces = Traces::from_environment("wisp-gateway")?;
    let clients = Clients::new(client.clone(), Arc::clone(counts));
    let options = Options {
        namespaces: Some(Arc::new(clients)),
        ..options(cli, &namespace, log, traces.clone())
    };
    let gateway = Gateway::new(Arc::new(waker), options, Handle::current());
    table.lead(&gateway);
    health.show(Arc::clone(&gateway), Arc::clone(&table));
    background.spawn(watches::run(
        client.clone(),
        Arc::clone(&table),
        Arc::clone(counts),
    ));

    let (stop, silence) = (CancellationToken::new(), CancellationToken::new());
    let mut servers = JoinSet::new();
    let workers = cli
        .threads
        .or_else(|| std::thread::available_parallelism().ok())
        .unwrap_or(NonZeroUsize::MIN);
    let plain = gateway
        .bind(cli.http, workers)
        .with_context(|| format!("the port for HTTP cannot be bound to {}", cli.http))?;
    let mut listening = vec![("http", plain)];
    if let (Some(address), Some(source)) = (cli.https, source(cli, &namespace)) {
        health.enter(Phase::Starting("the certificate is missing"));
        let current = certificate(source, client, counts, background).await;
        let secure = gateway
            .bind_tls(address, workers, current)
            .with_context(|| format!("the port for HTTPS cannot be bound to {address}"))?;
        listening.push(("https", secure));
    }
    for (scheme, server) in listening {
        tracing::info!(event = event::LISTENING, scheme, address = %Server::local_addr(&server), "the gateway listens");
        servers.spawn(server.run(stop.clone()));
    }
    health.enter(Phase::Serving);

    let name = cli
        .pod
        .clone()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .unwrap_or_else(|| "gateway".to_owned());
    let reporting = tokio::spawn(reporter::run(
        Arc::clone(&gateway),
        operator,
        Arc::clone(counts),
        name,
        silence.clone(),
    ));
    Ok(Started {
        gateway,
        servers,
        stop,
        reporting,
        silence,
        replaced,
        traces,
    })
}

fn options(cli: &Cli, namespace: &str, log: Log, traces: Traces) -> Options {
    Options {
        domains: cli.all_domains(),
        reserved_hosts: cli.own_hosts(namespace),
        trusts_peer: cli.trust_forwarded,
        max_connections: descriptors::connections(cli.max_connections),
        queue_memory: cli
            .queue_memory
            .map_or_else(memory::share_of_memory, |size| size.0),
        idle_timeout: cli.idle_timeout,
        activate_timeout: cli.activate_timeout,
        drain_timeout: cli.drain_timeout,
        reporter: cli.access_log.then(|| Arc::new(Access(log)) as _),
        traces,
        ..Options::default()
    }
}

fn source(cli: &Cli, namespace: &str) -> Option<Source> {
    if let (Some(certificate), Some(key)) = (&cli.tls_certificate, &cli.tls_key) {
        return Some(Source::Files {
            certificate: certificate.clone(),
            key: key.clone(),
        });
    }
    cli.tls_secret.as_ref().map(|name| Source::Secret {
        namespace: namespace.to_owned(),
        name: name.clone(),
    })
}

/// The first certificate that can be used, and those that follow it in the same place.
async fn certificate(
    source: Source,
    client: Client,
    counts: &Arc<Counts>,
    background: &mut JoinSet<()>,
) -> Current {
    let (sender, mut receiver) = watch::channel(None);
    background.spawn(source.follow(client, sender, Arc::clone(counts)));
    loop {
        if let Ok(current) = receiver.wait_for(Option::is_some).await
            && let Some(current) = &*current
        {
            return Arc::clone(current);
        }
        // The task that sends never ends on its own.
        std::future::pending::<()>().await;
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
