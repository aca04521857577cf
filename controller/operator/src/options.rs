//! What the command line and the environment say.
#![allow(
    rustdoc::bare_urls,
    rustdoc::broken_intra_doc_links,
    rustdoc::invalid_html_tags,
    reason = "these comments are the command line's help"
)]

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use wisp_api::{Bytes, Pod};
use wisp_artifacts::Cpu;
use wisp_contract::hosts::{self, OwnNames};

use crate::names;
use crate::signatures::{Policy, PolicyError};

/// Makes Functions into pods, wakes them when a request comes, and scales them by their load.
///
/// Log lines are JSON objects on standard output.
#[derive(Debug, Clone, Parser)]
#[command(name = "wisp-operator", version, max_term_width = 100)]
pub struct Options {
    /// Where gateways and replicas ask: to be woken, to report, for artifacts.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8090")]
    pub listen: SocketAddr,
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8091")]
    pub health: SocketAddr,
    /// The namespace that wisp is installed in.
    #[arg(
        long,
        value_name = "NAME",
        env = "POD_NAMESPACE",
        default_value = "wisp-system"
    )]
    pub namespace: String,
    /// The operator's own pod, which gets the leader's label [default: no pod is labelled].
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub pod_name: Option<String>,
    /// The image of the replicas.
    #[arg(long, value_name = "IMAGE", env = "WISP_RUNTIME_IMAGE")]
    pub runtime_image: String,
    /// The image of the replicas that ask for GPUs [default: that of the others].
    #[arg(long, value_name = "IMAGE", env = "WISP_RUNTIME_CUDA_IMAGE")]
    pub runtime_cuda_image: Option<String>,
    /// When nodes pull the image of the replicas.
    #[arg(long, value_name = "POLICY", env = "WISP_RUNTIME_PULL_POLICY", default_value = "IfNotPresent", value_parser = ["Always", "IfNotPresent", "Never"])]
    pub runtime_pull_policy: String,
    /// A Secret that nodes pull the image of the replicas with, which each Function's namespace has by this name. May be
    /// repeated, or separated by commas.
    #[arg(
        long = "runtime-pull-secret",
        value_name = "NAME",
        env = "WISP_RUNTIME_PULL_SECRETS",
        value_delimiter = ','
    )]
    pub runtime_pull_secrets: Vec<String>,
    /// Functions are <name>.<namespace>.<domain> under each of these, as the gateways have it.
    #[arg(
        long = "domain",
        value_name = "DOMAIN",
        env = "WISP_DOMAINS",
        value_delimiter = ','
    )]
    pub domains: Vec<String>,
    /// The cluster's DNS domain.
    #[arg(
        long,
        value_name = "DOMAIN",
        env = "WISP_CLUSTER_DOMAIN",
        default_value = "cluster.local"
    )]
    pub cluster_domain: String,
    /// The Service of the gateways, in the namespace that wisp is installed in.
    #[arg(
        long,
        value_name = "NAME",
        env = "WISP_GATEWAY_SERVICE",
        default_value = "wisp-gateway"
    )]
    pub gateway_service: String,
    /// A host by which gateways are reached for every function, which is no function's, as the gateways have it. May be
    /// repeated, or separated by commas.
    #[arg(
        long = "reserved-host",
        value_name = "HOST",
        env = "WISP_RESERVED_HOSTS",
        value_delimiter = ','
    )]
    pub reserved_hosts: Vec<String>,
    /// Where replicas reach --listen, without a path [default: http://wisp-operator.NAMESPACE.svc.DOMAIN.:8090].
    #[arg(long, value_name = "URL", env = "WISP_ADVERTISE", value_parser = http_url)]
    pub advertise: Option<String>,
    /// The address of the operator's own pod, where pods of pools reach --listen without a name [default: as --advertise].
    #[arg(long, value_name = "IP", env = "POD_IP")]
    pub pod_ip: Option<IpAddr>,
    /// The fewest pods of the pool that a namespace with Functions has without asking.
    #[arg(
        long,
        value_name = "N",
        env = "WISP_DEFAULT_POOL_MIN",
        default_value_t = 1
    )]
    pub default_pool_min: u32,
    /// The most pods of that pool; 0: there is none.
    #[arg(
        long,
        value_name = "N",
        env = "WISP_DEFAULT_POOL_MAX",
        default_value_t = 5
    )]
    pub default_pool_max: u32,
    /// What its pods ask for, as a RuntimePool's spec.pod in JSON [default: nothing].
    #[arg(long, value_name = "JSON", env = "WISP_DEFAULT_POOL_POD", value_parser = pod)]
    pub default_pool_pod: Option<Pod>,
    /// What is shown as a function's URL, with {namespace} and {name}
    /// [default: http://GATEWAY.NAMESPACE.svc.DOMAIN/{namespace}/{name}/].
    #[arg(long, value_name = "URL", env = "WISP_URL_TEMPLATE")]
    pub url_template: Option<String>,
    /// Where components and models are kept.
    #[arg(
        long,
        value_name = "DIR",
        env = "WISP_STORE",
        default_value = "/var/lib/wisp"
    )]
    pub store: PathBuf,
    /// How much of them is kept.
    #[arg(
        long,
        value_name = "SIZE",
        env = "WISP_STORE_SIZE",
        default_value = "10Gi"
    )]
    pub store_size: Bytes,
    /// How much of them one namespace may have [default: all].
    #[arg(long, value_name = "SIZE", env = "WISP_STORE_NAMESPACE_SIZE")]
    pub store_namespace_size: Option<Bytes>,
    /// What processors components are compiled for first: x86-64-v2, x86-64-v3 or arm64. They are compiled for others, too,
    /// once a replica turns out to have one, and never for more of the same family [default: what this node has, and then
    /// what any replica has].
    #[arg(long, value_name = "LEVEL", env = "WISP_CPU_LEVEL")]
    pub cpu_level: Option<Cpu>,
    /// The most memory that one component's initialisation and compiling may take, in a process of its own beside the
    /// operator's [default: five eighths of the container's limit; 1280Mi where it has none].
    #[arg(long, value_name = "SIZE", env = "WISP_PREPARE_MEMORY")]
    pub prepare_memory: Option<Bytes>,
    /// The longest that they may take, in seconds. Meanwhile all other components wait.
    #[arg(long, value_name = "SECONDS", env = "WISP_PREPARE_TIMEOUT", default_value = "300", value_parser = seconds)]
    pub prepare_timeout: Duration,
    /// A registry that is spoken to by plain HTTP, as HOST[:PORT]. May be repeated, or separated by commas.
    #[arg(
        long,
        value_name = "HOST",
        env = "WISP_INSECURE_REGISTRIES",
        value_delimiter = ','
    )]
    pub insecure_registry: Vec<String>,
    /// Whose signatures images must have, as the chart's value `signatures` in JSON [default: nobody's].
    #[arg(
        long,
        value_name = "JSON",
        env = "WISP_SIGNATURES",
        default_value = "{}",
        hide_default_value = true,
        value_parser = signatures
    )]
    pub signatures: Policy,
    /// The longest that a wake-up takes, in seconds: as long as gateways wait for it.
    #[arg(long, value_name = "SECONDS", env = "WISP_ACTIVATE_TIMEOUT", default_value = "60", value_parser = seconds)]
    pub activate_timeout: Duration,
    /// Make a NetworkPolicy for every function and every pool, by which only gateways reach their pods' data ports.
    #[arg(long, env = "WISP_NETWORK_POLICIES")]
    pub network_policies: bool,
    /// How many replaced revisions are kept of every function.
    #[arg(
        long,
        value_name = "N",
        env = "WISP_REVISION_HISTORY",
        default_value_t = 3
    )]
    pub revision_history: usize,
    /// Which log lines to write, as tracing-subscriber's EnvFilter has it.
    #[arg(long, value_name = "FILTER", env = "WISP_LOG", default_value = "info")]
    pub log: String,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "expected a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

impl Options {
    /// Where replicas reach the operator.
    #[must_use]
    pub fn advertised(&self) -> String {
        self.advertise.clone().map_or_else(
            || {
                let host =
                    names::service_host("wisp-operator", &self.namespace, &self.cluster_domain);
                format!("http://{host}:{}", self.listen.port())
            },
            |url| url.trim_end_matches('/').to_owned(),
        )
    }

    /// Where pods reach this very process.
    #[must_use]
    pub fn direct(&self) -> String {
        self.pod_ip.map_or_else(
            || self.advertised(),
            |ip| format!("http://{}", SocketAddr::new(ip, self.listen.port())),
        )
    }

    /// The gateways' name in the cluster.
    #[must_use]
    pub fn gateway_host(&self) -> String {
        format!(
            "{}.{}.svc.{}",
            self.gateway_service, self.namespace, self.cluster_domain
        )
    }

    /// The hosts that functions have without claiming them, and those that none can have.
    #[must_use]
    pub fn own_names(&self) -> OwnNames {
        let (service, domain) = (&self.gateway_service, &self.cluster_domain);
        let own = hosts::of_gateways(service, &self.namespace, domain);
        OwnNames::new(
            &hosts::all_domains(&self.domains, domain),
            own.iter().chain(&self.reserved_hosts),
        )
    }

    /// A function's URL.
    #[must_use]
    pub fn url(&self, namespace: &str, name: &str) -> String {
        let default = || format!("http://{}/{{namespace}}/{{name}}/", self.gateway_host());
        let template = self
            .url_template
            .clone()
            .filter(|template| !template.is_empty());
        template
            .unwrap_or_else(default)
            .replace("{namespace}", namespace)
            .replace("{name}", name)
    }
}

fn signatures(json: &str) -> Result<Policy, PolicyError> {
    Policy::read(json, |name| std::env::var(name).ok())
}

fn pod(json: &str) -> serde_json::Result<Pod> {
    serde_json::from_str(json)
}

fn http_url(text: &str) -> Result<String, String> {
    let uri: http::Uri = text.parse().map_err(|error| format!("{error}"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http"), Some(_)) => Ok(text.to_owned()),
        _ => Err("expected http://HOST[:PORT]".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_from_the_installation_unless_they_are_given() {
        let minimal = [
            "wisp-operator",
            "--runtime-image",
            "r",
            "--namespace",
            "sys",
        ];
        let options = Options::parse_from(minimal);
        assert_eq!(
            options.advertised(),
            "http://wisp-operator.sys.svc.cluster.local.:8090"
        );
        assert_eq!(
            options.url("a", "b"),
            "http://wisp-gateway.sys.svc.cluster.local/a/b/"
        );
        let given = minimal.into_iter().chain([
            "--advertise",
            "http://10.0.0.1:1/",
            "--url-template",
            "https://{name}.{namespace}.example.com/",
        ]);
        let options = Options::parse_from(given);
        assert_eq!(options.advertised(), "http://10.0.0.1:1");
        assert_eq!(options.url("a", "b"), "https://b.a.example.com/");
        assert!(
            Options::try_parse_from(minimal.into_iter().chain(["--advertise", "https://x"]))
                .is_err()
        );
    }

    /// Would fail if a Function could have a host by which all of them are reached.
    #[test]
    fn hosts_that_lead_to_every_function_are_the_gateways() {
        let reserved = "--reserved-host=apps.example.com,Example.org";
        let names =
            Options::parse_from(["wisp-operator", "--runtime-image=r", reserved]).own_names();
        let hosts = [
            "apps.example.com",
            "example.org",
            "wisp-gateway.wisp-system",
        ];
        assert!(hosts.iter().all(|host| names.is_reserved(host)));
        assert!(!names.is_reserved("www.apps.example.com"));
    }
}
