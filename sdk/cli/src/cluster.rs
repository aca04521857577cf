//! The user's cluster: who it is, and what it says when it refuses.
//!
//! It is asked by the `kube` client and not by running the user's `kubectl`. `wisp logs --follow` watches pods and
//! reads as many logs at once, `wisp deploy` watches a status, `wisp invoke` speaks HTTP over a forwarded port: by
//! kubectl that would be a process of 45 MB and a fifth of a second for every stream, a second parser of its output,
//! and errors to be guessed from its texts. What a user knows of kubectl holds: kubeconfigs and how they merge,
//! contexts, credential plugins, proxies. No crate is built for this alone but that of WebSockets: the operator and the
//! gateway need the same.

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Api, Client, Config};
use wisp_api::Function;
use wisp_contract::FunctionId;

use crate::args::ClusterArgs;

mod error;
mod forward;
mod watch;

pub(crate) use error::ClusterError;
pub(crate) use forward::Gateway;
pub(crate) use watch::Watch;

/// A cluster that can be asked.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) client: Client,
    /// What is meant where no namespace is named.
    pub(crate) namespace: String,
    /// The API server, for errors.
    pub(crate) server: String,
}

impl Cluster {
    /// The cluster that `args` name: as kubectl would take it, or the one that this process runs in.
    ///
    /// # Errors
    /// When none is configured.
    pub(crate) async fn connect(args: &ClusterArgs) -> Result<Self, ClusterError> {
        // The crypto provider is named because the crates that use rustls don't agree on one; set once is enough.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut config = configuration(args).await?;
        if let Some(namespace) = &args.namespace {
            config.default_namespace.clone_from(namespace);
        }
        // A log that is followed may be silent for long.
        config.read_timeout = None;
        let server = config.cluster_url.to_string();
        let namespace = config.default_namespace.clone();
        let client = Client::try_from(config).map_err(ClusterError::Client)?;
        Ok(Self {
            client,
            namespace,
            server: server.trim_end_matches('/').to_owned(),
        })
    }

    /// The functions of a namespace.
    pub(crate) fn functions(&self, namespace: &str) -> Api<Function> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// What `text`, a name or `namespace/name`, names here.
    ///
    /// # Errors
    /// When it names nothing that could be a function.
    pub(crate) fn id(&self, text: &str) -> Result<FunctionId, ClusterError> {
        let id = match text.split_once('/') {
            Some(_) => text.parse(),
            None => FunctionId::new(&self.namespace, text),
        };
        id.map_err(|_| ClusterError::Name(text.to_owned()))
    }

    /// One function.
    ///
    /// # Errors
    /// When it isn't there, or the cluster refuses to tell.
    pub(crate) async fn function(&self, id: &FunctionId) -> Result<Function, ClusterError> {
        self.functions(id.namespace())
            .get(id.name())
            .await
            .map_err(|error| self.refused(format!("get the function {id}"), error))
    }

    /// What the cluster says no with. `what` completes "can't".
    pub(crate) fn refused(&self, what: impl Into<String>, error: kube::Error) -> ClusterError {
        ClusterError::from_kube(what.into(), &self.server, error)
    }
}

async fn configuration(args: &ClusterArgs) -> Result<Config, ClusterError> {
    let options = KubeConfigOptions {
        context: args.context.clone(),
        ..KubeConfigOptions::default()
    };
    let read = |source| ClusterError::Kubeconfig {
        file: args.kubeconfig.clone(),
        source,
    };
    if let Some(file) = &args.kubeconfig {
        let kubeconfig = Kubeconfig::read_from(file).map_err(read)?;
        return Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .map_err(read);
    }
    match Config::from_kubeconfig(&options).await {
        Ok(config) => Ok(config),
        // Nobody said which: perhaps this runs in a pod.
        Err(error) if args.context.is_none() && is_missing(&error) => {
            Config::incluster().map_err(|_| read(error))
        }
        Err(error) => Err(read(error)),
    }
}

fn is_missing(error: &KubeconfigError) -> bool {
    matches!(
        error,
        KubeconfigError::FindPath
            | KubeconfigError::ReadConfig(..)
            | KubeconfigError::CurrentContextNotSet
    )
}

/// Runs a command's asynchronous part.
///
/// # Errors
/// When the system refuses what that needs.
pub(crate) fn run<T, E: From<ClusterError>>(
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ClusterError::System)?
        .block_on(work)
}
