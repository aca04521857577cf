//! The user's cluster: who it is, and what it says when it refuses.
//!
//! It is asked by the `kube` client and not by running the user's `kubectl`. `wisp logs --follow` watches pods and
//! reads as many logs at once, `wisp deploy` watches a status, `wisp invoke` speaks HTTP over a forwarded port: by
//! kubectl that would be a process of 45 MB and a fifth of a second for every stream, a second parser of its output,
//! and errors to be guessed from its texts. What a user knows of kubectl holds: kubeconfigs and how they merge,
//! contexts, credential plugins, proxies. No crate is built for this alone but that of WebSockets: the operator and the
//! gateway need the same.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::Duration;

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Api, Client, Config};
use wisp_api::Function;
use wisp_contract::FunctionId;
use wisp_contract::assignment::is_dns_label;

use crate::args::ClusterArgs;
use crate::terminal;

mod error;
mod forward;
mod watch;

pub(crate) use error::ClusterError;
pub(crate) use forward::Gateway;
pub(crate) use watch::Watch;

/// How long a single request may take: an API server that is reached and doesn't answer shall not look like work. What is
/// watched or followed may be silent for as long as it likes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster that can be asked.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) client: Client,
    /// What is meant where no namespace is named.
    pub(crate) namespace: String,
    /// Whether the user asked for that one.
    is_fixed: bool,
    /// Whether this process runs in it: names of its network lead somewhere here.
    pub(crate) is_around: bool,
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
        let (mut config, is_around) = configuration(args).await?;
        if let Some(namespace) = &args.namespace {
            if !is_dns_label(namespace) {
                return Err(ClusterError::Namespace(namespace.clone()));
            }
            config.default_namespace.clone_from(namespace);
        }
        // A log that is followed may be silent for long.
        config.read_timeout = None;
        let server = config.cluster_url.to_string();
        let namespace = config.default_namespace.clone();
        let plugin = config.auth_info.exec.as_ref();
        let plugin = plugin.and_then(|plugin| plugin.command.clone());
        let client =
            Client::try_from(config).map_err(|error| ClusterError::of_client(error, plugin))?;
        Ok(Self {
            client,
            namespace,
            is_fixed: args.namespace.is_some(),
            is_around,
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
    /// When it names nothing that could be a function, or one of another namespace than was asked for.
    pub(crate) fn id(&self, text: &str) -> Result<FunctionId, ClusterError> {
        let id = match text.split_once('/') {
            Some(_) => text.parse::<FunctionId>(),
            None => FunctionId::new(&self.namespace, text),
        };
        let id = id.map_err(|_| ClusterError::Name(text.to_owned()))?;
        if self.is_fixed && id.namespace() != self.namespace {
            return Err(ClusterError::Elsewhere {
                name: text.to_owned(),
                asked: self.namespace.clone(),
            });
        }
        Ok(id)
    }

    /// One function.
    ///
    /// # Errors
    /// When it isn't there, or the cluster refuses to tell.
    pub(crate) async fn function(&self, id: &FunctionId) -> Result<Function, ClusterError> {
        within(self.functions(id.namespace()).get(id.name()))
            .await
            .map_err(|error| self.refused(format!("get the function {id}"), error))
    }

    /// What the cluster says no with. `what` completes "can't".
    pub(crate) fn refused(&self, what: impl Into<String>, error: kube::Error) -> ClusterError {
        ClusterError::from_kube(what.into(), &self.server, error)
    }
}

/// The answer to a single request, which comes within [`PATIENCE`] or not at all.
///
/// # Errors
/// What the cluster says no with, or that it says nothing.
pub(crate) async fn within<T>(
    answer: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, kube::Error> {
    tokio::time::timeout(PATIENCE, answer)
        .await
        .unwrap_or_else(|_| Err(kube::Error::Service(Box::new(Silent))))
}

/// Why a cluster counts as one that doesn't answer.
#[derive(Debug, thiserror::Error)]
#[error("there was no answer within {}", terminal::duration(PATIENCE))]
struct Silent;

/// The cluster that is configured, and whether it is the one that this process runs in.
async fn configuration(args: &ClusterArgs) -> Result<(Config, bool), ClusterError> {
    let options = KubeConfigOptions {
        context: args.context.clone(),
        ..KubeConfigOptions::default()
    };
    let read = |error| ClusterError::of_kubeconfig(args.kubeconfig.clone(), error);
    let found = match &args.kubeconfig {
        Some(file) => Kubeconfig::read_from(file),
        None => kubeconfig(std::env::var_os("KUBECONFIG")),
    };
    let found = async {
        let kubeconfig = found?;
        let own = own_proxy(&kubeconfig, args.context.as_deref());
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
        let found = config.proxy_url.take();
        config.proxy_url = proxy(own, found, &config.cluster_url, &Matcher::from_env())?;
        Ok(config)
    };
    match found.await {
        Ok(config) => Ok((config, false)),
        // Nobody said which: perhaps this runs in a pod.
        Err(error) if args.kubeconfig.is_none() && args.context.is_none() && is_missing(&error) => {
            let config = Config::incluster().map_err(|_| read(error))?;
            Ok((config, true))
        }
        Err(error) => Err(read(error)),
    }
}

/// What the files that the variable lists tell of clusters, or the user's own where it lists none. Of several files some may
/// be missing, as for kubectl.
fn kubeconfig(listed: Option<OsString>) -> Result<Kubeconfig, KubeconfigError> {
    let files: Vec<_> = listed
        .iter()
        .flat_map(std::env::split_paths)
        .filter(|file| !file.as_os_str().is_empty())
        .collect();
    let mut missing = None;
    let mut merged: Option<Kubeconfig> = None;
    for file in &files {
        match Kubeconfig::read_from(file) {
            Ok(next) => merged = Some(merged.unwrap_or_default().merge(next)?),
            Err(KubeconfigError::ReadConfig(error, path))
                if error.kind() == ErrorKind::NotFound =>
            {
                missing.get_or_insert(KubeconfigError::ReadConfig(error, path));
            }
            Err(error) => return Err(error),
        }
    }
    match (merged, missing) {
        (Some(merged), _) => Ok(merged),
        (None, Some(missing)) => Err(missing),
        (None, None) => Kubeconfig::read(),
    }
}

/// By which proxy the cluster is reached: the one that the kubeconfig names, else, but for clusters on this machine, the
/// environment's. kube asks whether the proxy itself is excepted from proxies, and not whether the cluster is.
fn proxy(
    own: Option<String>,
    found: Option<Uri>,
    cluster: &Uri,
    environment: &Matcher,
) -> Result<Option<Uri>, KubeconfigError> {
    if let Some(own) = own {
        return own
            .parse()
            .map(Some)
            .map_err(KubeconfigError::ParseProxyUrl);
    }
    let host = cluster.host().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    if host == "localhost" || address.is_ok_and(|address| address.is_loopback()) {
        return Ok(None);
    }
    let Some(matched) = environment.intercept(cluster) else {
        return Ok(None);
    };
    // What kube found has its user's name and password still.
    Ok(Some(found.unwrap_or_else(|| matched.uri().clone())))
}

/// The proxy by which the kubeconfig says that its cluster is reached.
fn own_proxy(kubeconfig: &Kubeconfig, context: Option<&str>) -> Option<String> {
    let context = context.or(kubeconfig.current_context.as_deref());
    let context = kubeconfig
        .contexts
        .iter()
        .find(|named| Some(named.name.as_str()) == context)
        .and_then(|named| named.context.as_ref());
    let cluster = kubeconfig
        .clusters
        .iter()
        .find(|named| context.is_some_and(|context| context.cluster == named.name))
        .and_then(|named| named.cluster.as_ref());
    cluster
        .and_then(|cluster| cluster.proxy_url.clone())
        .filter(|proxy| !proxy.is_empty())
}

/// Whether nobody has told of a cluster. A file that is there and can't be read may tell of another than the one around a pod.
fn is_missing(error: &KubeconfigError) -> bool {
    match error {
        KubeconfigError::ReadConfig(error, _) => error.kind() == ErrorKind::NotFound,
        error => matches!(
            error,
            KubeconfigError::FindPath | KubeconfigError::CurrentContextNotSet
        ),
    }
}

/// Runs a command's asynchronous part.
///
/// # Errors
/// When the system refuses what that needs.
pub(crate) fn run<T, E: From<ClusterError>>(
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ClusterError::System)?;
    let outcome = executor.block_on(work);
    // A name that is being looked up, which nothing ends, isn't waited for.
    executor.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn write(folder: &Path, name: &str, cluster: &str) -> std::path::PathBuf {
        let file = folder.join(name);
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: {name}\n\
             contexts: [{{name: {name}, context: {{cluster: {name}, user: u}}}}]\n\
             clusters: [{{name: {name}, cluster: {{server: 'https://{name}:6443'{cluster}}}}}]\n\
             users: [{{name: u, user: {{}}}}]\n"
        );
        std::fs::write(&file, text).unwrap();
        file
    }

    /// Would fail if an API server that takes a request and never answers were waited for without end, or without a word
    /// about what was asked.
    #[tokio::test]
    async fn a_silent_cluster_is_not_waited_for() {
        tokio::time::pause();
        let silence = std::future::pending::<Result<(), kube::Error>>();
        let error = within(silence).await.unwrap_err();
        let error = ClusterError::from_kube("list the functions".to_owned(), "https://c", error);
        let text = crate::failure::Failure::from(error).text();
        assert_eq!(
            text,
            "can't list the functions: https://c doesn't answer <- there was no answer within 30.0 s"
        );
    }

    /// Would fail if who may not read the file that they name were led to the cluster that they are in.
    #[test]
    fn a_file_that_is_there_is_not_missing() {
        let of = |kind: ErrorKind| KubeconfigError::ReadConfig(kind.into(), "config".into());
        assert!(is_missing(&of(ErrorKind::NotFound)));
        assert!(!is_missing(&of(ErrorKind::PermissionDenied)));
        assert!(is_missing(&KubeconfigError::CurrentContextNotSet));
    }

    /// Would fail if a file that is gone hid the clusters of those that are there.
    #[test]
    fn of_several_kubeconfigs_some_may_be_missing() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (
            write(folder.path(), "a", ""),
            write(folder.path(), "b", ", proxy-url: 'http://proxy:3128'"),
        );
        let gone = folder.path().join("gone");
        let listed = |files: &[&Path]| kubeconfig(Some(std::env::join_paths(files).unwrap()));
        let merged = listed(&[&gone, &a, Path::new(""), &b]).unwrap();
        assert_eq!(merged.current_context.as_deref(), Some("a"));
        assert_eq!(merged.clusters.len(), 2);
        assert_eq!(own_proxy(&merged, None), None);
        let own = own_proxy(&merged, Some("b"));
        assert_eq!(own.as_deref(), Some("http://proxy:3128"));
        let error = listed(&[&gone]).unwrap_err();
        assert!(
            is_missing(&error) && error.to_string().contains("gone"),
            "{error}"
        );
        std::fs::write(&gone, "a: [").unwrap();
        assert!(!is_missing(&listed(&[&a, &gone]).unwrap_err()));
    }

    /// Would fail if a cluster that is excepted from proxies were asked through one, or one that isn't without.
    #[test]
    fn a_cluster_is_reached_by_the_proxy_that_is_for_it() {
        let environment = Matcher::builder()
            .https("http://10.0.0.1:3128")
            .no("10.0.0.0/8,internal.example")
            .build();
        let by = |own: Option<&str>, cluster: &str| {
            let cluster = cluster.parse().unwrap();
            let found = proxy(own.map(str::to_owned), None, &cluster, &environment).unwrap();
            found.map(|proxy| proxy.to_string())
        };
        let environments = Some("http://10.0.0.1:3128/".to_owned());
        assert_eq!(by(None, "https://c.example:6443"), environments);
        for direct in [
            "https://10.0.0.5:6443",
            "https://c.internal.example",
            "https://127.0.0.1:6443",
            "https://localhost:6443",
            "https://[::1]:6443",
        ] {
            assert_eq!(by(None, direct), None, "{direct}");
        }
        let own = Some("http://own:1/".to_owned());
        assert_eq!(by(Some("http://own:1"), "https://10.0.0.5"), own);
    }
}
