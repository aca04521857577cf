//! What the command line and the environment say.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use http::uri::Authority;
use tracing_subscriber::EnvFilter;
use wisp_api::Bytes;
use wisp_contract::assignment::is_dns_label;
use wisp_contract::hosts;
use wisp_gateway::DEFAULT_MAX_CONNECTIONS;

/// More than twice what one request that waits can hold.
const LEAST_QUEUE_MEMORY: Bytes = Bytes(1 << 20);

/// Leads requests to the functions of a Kubernetes cluster, and wakes those that sleep.
///
/// Functions are found by <name>.<namespace>.<domain>, by their own hosts, by the names of their Services and by the path
/// /<namespace>/<name>/. The cluster is the one that the process runs in, or else the one of KUBECONFIG. Log lines are
/// JSON objects on standard output.
#[derive(Debug, Clone, Parser)]
#[command(name = "wisp-gateway", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// Where requests arrive as plain HTTP/1.1 and HTTP/2.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "WISP_HTTP",
        default_value = "0.0.0.0:8080"
    )]
    pub(crate) http: SocketAddr,
    /// Where requests arrive over TLS, which needs a certificate [default: nowhere].
    #[arg(long, value_name = "ADDRESS", env = "WISP_HTTPS")]
    pub(crate) https: Option<SocketAddr>,
    /// The certificate chain, PEM. It is read again when it changes.
    #[arg(
        long,
        value_name = "FILE",
        env = "WISP_TLS_CERTIFICATE",
        requires = "tls_key"
    )]
    pub(crate) tls_certificate: Option<PathBuf>,
    /// The certificate's private key, PEM.
    #[arg(
        long,
        value_name = "FILE",
        env = "WISP_TLS_KEY",
        requires = "tls_certificate"
    )]
    pub(crate) tls_key: Option<PathBuf>,
    /// A Secret of type kubernetes.io/tls in the gateway's namespace, in place of the two files.
    #[arg(
        long,
        value_name = "NAME",
        env = "WISP_TLS_SECRET",
        conflicts_with = "tls_certificate"
    )]
    pub(crate) tls_secret: Option<String>,
    /// Where /healthz, /readyz and /metrics are served. Keep it away from the public.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "WISP_HEALTH",
        default_value = "0.0.0.0:8081"
    )]
    pub(crate) health: SocketAddr,
    /// Functions are <name>.<namespace>.<domain> under each of these.
    #[arg(
        long = "domain",
        value_name = "DOMAIN",
        env = "WISP_DOMAINS",
        value_delimiter = ','
    )]
    pub(crate) domains: Vec<String>,
    /// The domain of the cluster's Services.
    #[arg(
        long,
        value_name = "DOMAIN",
        env = "WISP_CLUSTER_DOMAIN",
        default_value = "cluster.local"
    )]
    pub(crate) cluster_domain: String,
    /// The Service of the gateways, whose names are no function's.
    #[arg(
        long,
        value_name = "NAME",
        env = "WISP_GATEWAY_SERVICE",
        default_value = "wisp-gateway"
    )]
    pub(crate) service: String,
    /// A host by which gateways are reached for every function, which is no function's: there the path counts. May be
    /// repeated, or separated by commas.
    #[arg(
        long = "reserved-host",
        value_name = "HOST",
        env = "WISP_RESERVED_HOSTS",
        value_delimiter = ','
    )]
    pub(crate) reserved_hosts: Vec<String>,
    /// Where the operator listens, as HOST:PORT.
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "WISP_OPERATOR",
        default_value = "wisp-operator:8090"
    )]
    pub(crate) operator: String,
    /// The namespace that the gateway runs in [default: the one of its service account, or of KUBECONFIG].
    #[arg(long, value_name = "NAME", env = "WISP_NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// What the gateway calls itself before the operator: its pod's name [default: the host's name].
    #[arg(long, value_name = "NAME", env = "WISP_POD")]
    pub(crate) pod: Option<String>,
    /// The Secret of the gateway's namespace that holds its keys, which the operator makes.
    #[arg(
        long,
        value_name = "NAME",
        env = "WISP_KEYS_SECRET",
        default_value = "wisp-gateway"
    )]
    pub(crate) keys_secret: String,
    /// Threads that serve each listener [default: one per CPU].
    #[arg(long, value_name = "N", env = "WISP_THREADS")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// The most connections of clients; who comes then is closed at once. An idle one takes about 20 KiB, and as much again with
    /// TLS.
    #[arg(long, value_name = "N", env = "WISP_MAX_CONNECTIONS", default_value_t = DEFAULT_MAX_CONNECTIONS)]
    pub(crate) max_connections: NonZeroU32,
    /// What requests that wait may hold of memory, those for all functions together, and those for one as much as they leave; who
    /// comes then gets 503 [default: a quarter of the container's limit; 128Mi where it has none].
    #[arg(long, value_name = "SIZE", env = "WISP_QUEUE_MEMORY")]
    pub(crate) queue_memory: Option<Bytes>,
    /// Whoever connects is a proxy, whose x-forwarded-… headers are true.
    #[arg(long, env = "WISP_TRUST_FORWARDED")]
    pub(crate) trust_forwarded: bool,
    /// How long a client's connection is kept without a request, and how long the head of one may take, in seconds. Longer than
    /// the proxy before the gateway keeps its own.
    #[arg(long, value_name = "SECONDS", env = "WISP_IDLE_TIMEOUT", default_value = "75", value_parser = seconds)]
    pub(crate) idle_timeout: Duration,
    /// The longest that a request waits for a function's first replica, in seconds.
    #[arg(long, value_name = "SECONDS", env = "WISP_ACTIVATE_TIMEOUT", default_value = "60", value_parser = seconds)]
    pub(crate) activate_timeout: Duration,
    /// How long the gateway goes on taking connections after SIGTERM, in seconds: until nobody sends it any.
    #[arg(long, value_name = "SECONDS", env = "WISP_DRAIN_DELAY", default_value = "5", value_parser = seconds)]
    pub(crate) drain_delay: Duration,
    /// How long requests in flight may take to finish after that, in seconds.
    #[arg(long, value_name = "SECONDS", env = "WISP_DRAIN_TIMEOUT", default_value = "30", value_parser = seconds)]
    pub(crate) drain_timeout: Duration,
    /// Log one line per request.
    #[arg(long, env = "WISP_ACCESS_LOG")]
    pub(crate) access_log: bool,
    /// Which log lines to write, as tracing-subscriber's EnvFilter has it.
    #[arg(long, value_name = "FILTER", env = "WISP_LOG", default_value = "info")]
    pub(crate) log: String,
}

/// Everything that is wrong with the options.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub(crate) struct OptionsError(Vec<String>);

impl Cli {
    /// Checks what the parser of the command line doesn't.
    ///
    /// # Errors
    /// Every mistake there is.
    pub(crate) fn check(&self) -> Result<(), OptionsError> {
        let mut wrong = Vec::new();
        let reserved = self.reserved_hosts.iter();
        for (option, domain) in self
            .domains
            .iter()
            .map(|domain| ("--domain", domain))
            .chain([("--cluster-domain", &self.cluster_domain)])
            .chain(reserved.map(|host| ("--reserved-host", host)))
        {
            if !is_domain(domain) {
                wrong.push(format!(
                    "{option} {domain:?}: expected a DNS name in lower case, such as `example.com`"
                ));
            }
        }
        let has_port = |authority: &Authority| authority.port_u16().is_some();
        if !self
            .operator
            .parse()
            .is_ok_and(|authority| has_port(&authority))
        {
            wrong.push(format!(
                "--operator {:?}: expected HOST:PORT, such as `wisp-operator:8090`",
                self.operator
            ));
        }
        let has_certificate = self.tls_certificate.is_some() || self.tls_secret.is_some();
        if self.https.is_some() && !has_certificate {
            wrong.push(
                "--https: it needs --tls-certificate and --tls-key, or --tls-secret".to_owned(),
            );
        }
        if self.https.is_none() && has_certificate {
            wrong.push(
                "--tls-certificate, --tls-key and --tls-secret: they need --https".to_owned(),
            );
        }
        if let Some(size) = self.queue_memory
            && size < LEAST_QUEUE_MEMORY
        {
            wrong.push(format!(
                "--queue-memory {size}: expected at least {LEAST_QUEUE_MEMORY}, so that a request can wait"
            ));
        }
        if let Err(error) = EnvFilter::try_new(&self.log) {
            wrong.push(format!("--log {:?}: {error}", self.log));
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(OptionsError(wrong))
        }
    }

    /// Everything that stands after `<name>.<namespace>.` in a function's names.
    pub(crate) fn all_domains(&self) -> Vec<String> {
        hosts::all_domains(&self.domains, &self.cluster_domain)
    }

    /// The gateways' own names: those in the cluster, which runs them in `namespace`, and those that they are told.
    pub(crate) fn own_hosts(&self, namespace: &str) -> Vec<String> {
        let of_service = hosts::of_gateways(&self.service, namespace, &self.cluster_domain);
        let reserved = self.reserved_hosts.iter().cloned();
        of_service.into_iter().chain(reserved).collect()
    }

    /// Which log lines are written.
    pub(crate) fn log_filter(&self) -> EnvFilter {
        EnvFilter::try_new(&self.log).unwrap_or_else(|_| EnvFilter::new("info"))
    }
}

fn is_domain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "expected a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Cli {
        Cli::parse_from(["wisp-gateway"].iter().chain(arguments))
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        parse(&[]).check().unwrap();
        parse(&[
            "--domain=a.example,b",
            "--https=0.0.0.0:1",
            "--tls-secret=x",
        ])
        .check()
        .unwrap();
        let error = parse(&[
            "--domain=Example.com",
            "--cluster-domain=.local",
            "--operator=wisp-operator",
            "--queue-memory=1023Ki",
            "--reserved-host=example.com,*.example.com",
            "--https=0.0.0.0:1",
            "--log=a=b=c",
        ])
        .check()
        .unwrap_err()
        .to_string();
        for named in [
            "--domain \"Example.com\"",
            "--cluster-domain \".local\"",
            "--operator \"wisp-operator\"",
            "--queue-memory 1023Ki",
            "--reserved-host \"*.example.com\"",
            "--https",
            "--log",
        ] {
            assert!(error.contains(named), "{named}: {error}");
        }
        assert!(
            Cli::try_parse_from(["wisp-gateway", "--tls-certificate", "x"]).is_err(),
            "a certificate without its key"
        );
    }

    #[test]
    fn functions_are_known_by_the_names_of_their_services() {
        assert_eq!(
            parse(&["--domain=example.com"]).all_domains(),
            ["example.com", "svc", "svc.cluster.local"]
        );
    }

    /// Would fail if a function could have a host by which all of them are reached.
    #[test]
    fn what_is_reserved_is_the_gateways_beside_their_services_names() {
        let own = parse(&["--reserved-host=a.example,b.example"]).own_hosts("sys");
        for host in ["a.example", "b.example", "wisp-gateway.sys.svc"] {
            assert!(own.iter().any(|own| own == host), "{host}: {own:?}");
        }
    }
}
