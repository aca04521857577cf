//! What can be typed of clusters and registries.

use std::path::PathBuf;
use std::time::Duration;

/// Which cluster, and which namespace of it. The names are kubectl's.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ClusterArgs {
    /// The file that tells of clusters [default: $KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// The kubeconfig's context [default: its current one]
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,

    /// The namespace [default: the context's]
    #[arg(long, short, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
}

impl ClusterArgs {
    /// Whether any of them was given.
    pub(crate) fn is_given(&self) -> bool {
        self.kubeconfig.is_some() || self.context.is_some() || self.namespace.is_some()
    }
}

/// How registries are spoken to.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
#[command(next_help_heading = "Registry")]
pub(crate) struct RegistryArgs {
    /// Speak to the registry without TLS. One on this machine always is
    #[arg(long)]
    pub(crate) plain_http: bool,
}

/// Build a project's component and push it to a registry
#[derive(Debug, clap::Args)]
#[command(
    allow_missing_positional = true,
    after_help = "Credentials are those of `docker login` and `podman login`.\n\
                  A model's tag is the component's, a dash, and the model's name: REFERENCE-NAME."
)]
pub(crate) struct Push {
    /// The folder of the project's Cargo.toml, or the file of a component
    #[arg(default_value = ".", value_name = "FOLDER|FILE")]
    pub(crate) path: PathBuf,

    /// Where to, such as registry.example.com/vision/digits:1.4
    pub(crate) reference: String,

    /// Push a model's file, too; may be given several times
    #[arg(long = "model", value_name = "NAME=FILE")]
    pub(crate) models: Vec<String>,

    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

/// Build, push and apply functions to a cluster, and wait until they are ready
#[derive(Debug, clap::Args)]
#[command(
    after_help = "What a manifest takes from this machine (its folder's Cargo project, `component.file`, a model's \
                  `file`) is pushed to REGISTRY/FUNCTION and named by its digest instead; the manifest itself stays as \
                  it is. Secrets and ConfigMaps that stand in the same file are applied before the function. What the cluster fetches \
                  itself, such as a `component.image`, stays: a project beside it isn't built then. Where a function is as it was, and \
                  its component or a model couldn't be had, the cluster tries again at once.\n\
                  Before anything is built, the cluster is asked by a dry run whether it would take all of it.\n\
                  What --render prints is for a repository that Argo CD, Flux or the like apply from: YAML, or one JSON object per \
                  line with --output json. It asks no cluster, and names a namespace where --namespace or the manifest does."
)]
pub(crate) struct Deploy {
    /// A function.yaml, a folder with one, or a folder of such folders
    #[arg(default_value = ".")]
    pub(crate) paths: Vec<PathBuf>,

    /// Take over fields that others applied
    #[arg(long)]
    pub(crate) force_conflicts: bool,

    /// Only ask the cluster whether it would take all of it: nothing is built, pushed or applied
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Build and push, and print the manifests with what was pushed instead of applying them
    #[arg(
        long,
        conflicts_with_all = ["dry_run", "force_conflicts", "no_wait", "timeout", "kubeconfig", "context"]
    )]
    pub(crate) render: bool,

    /// Don't wait until the functions are ready
    #[arg(long)]
    pub(crate) no_wait: bool,

    /// How long to wait for each function, such as 2m
    #[arg(long, default_value = "2m", value_parser = super::duration, value_name = "DURATION")]
    pub(crate) timeout: Duration,

    /// Where components and models go, such as ghcr.io/ada
    #[arg(
        long,
        env = "WISP_REGISTRY",
        hide_env_values = true,
        value_name = "REGISTRY",
        help_heading = "Registry"
    )]
    registry: Option<String>,

    /// What the cluster calls the registry, where that is another name
    #[arg(
        long,
        env = "WISP_CLUSTER_REGISTRY",
        hide_env_values = true,
        value_name = "REGISTRY",
        help_heading = "Registry"
    )]
    cluster_registry: Option<String>,

    /// A Secret that the cluster pulls the component and the models with; may be given several times
    #[arg(long = "pull-secret", value_name = "NAME", help_heading = "Registry")]
    pub(crate) pull_secrets: Vec<String>,

    #[command(flatten)]
    pub(crate) registry_args: RegistryArgs,

    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

impl Deploy {
    /// The registry, where one is named: a variable that is empty names none.
    pub(crate) fn registry(&self) -> Option<&str> {
        self.registry.as_deref().filter(|named| !named.is_empty())
    }

    /// What the cluster calls it, likewise.
    pub(crate) fn cluster_registry(&self) -> Option<&str> {
        self.cluster_registry
            .as_deref()
            .filter(|named| !named.is_empty())
    }
}

/// List a cluster's functions, or tell how one is
#[derive(Debug, clap::Args)]
pub(crate) struct Get {
    /// The function's name, or `namespace/name`; all of the namespace when left out
    pub(crate) function: Option<String>,

    /// All namespaces
    #[arg(long, short = 'A', conflicts_with_all = ["function", "namespace"])]
    pub(crate) all_namespaces: bool,

    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

/// Print what a function's replicas in a cluster log
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Replicas that are gone have taken their lines with them: to see those, collect the cluster's logs.\n\
                  Exit status: 1 where a replica's lines are missing in what is printed."
)]
pub(crate) struct Logs {
    /// The function's name, or `namespace/name`
    pub(crate) function: String,

    /// Go on with what comes, of replicas that come, too
    #[arg(long, short)]
    pub(crate) follow: bool,

    /// The lines of the containers before: why a replica that starts again and again crashed
    #[arg(long, conflicts_with = "follow")]
    pub(crate) previous: bool,

    /// Only the lines of one request, by its x-request-id
    #[arg(long, value_name = "ID")]
    pub(crate) request: Option<String>,

    /// Only lines of the last so long, such as 10m
    #[arg(long, value_parser = super::duration, value_name = "DURATION")]
    pub(crate) since: Option<Duration>,

    /// Only so many of each replica's last lines [default: 200, or all with --since or --request]
    #[arg(long, value_name = "LINES")]
    pub(crate) tail: Option<u32>,

    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

/// Delete functions from a cluster, and wait until their replicas are gone
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A path is told from a name by how it begins or ends: ./greeter, ../greeter, greeter/, function.yaml. What else \
                  stands in the file, such as a Secret, stays, and so does what was pushed.\n\
                  Where one of several functions isn't there, none is deleted."
)]
pub(crate) struct Delete {
    /// A function's name, `namespace/name`, or a path as `wisp deploy` takes it, whose functions are meant
    #[arg(required = true, value_name = "NAME|PATH", value_hint = clap::ValueHint::AnyPath)]
    pub(crate) targets: Vec<String>,

    /// Succeed where a function isn't there, too
    #[arg(long)]
    pub(crate) ignore_not_found: bool,

    /// Don't wait until the replicas are gone
    #[arg(long)]
    pub(crate) no_wait: bool,

    /// How long to wait for each function's replicas, such as 2m
    #[arg(long, default_value = "2m", value_parser = super::duration, value_name = "DURATION")]
    pub(crate) timeout: Duration,

    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}
