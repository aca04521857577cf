//! Host names that lead to a function without its asking, and names that no function can have.

use std::net::IpAddr;

use crate::assignment::FunctionId;

/// Names of functions: `<name>.<namespace>.<domain>` of every domain. Nobody but the function itself has them while it is
/// there.
#[derive(Debug, Clone, Default)]
pub struct OwnNames {
    /// Each with the dot before it.
    suffixes: Vec<String>,
    reserved: Vec<String>,
}

impl OwnNames {
    /// Below these `domains`. What is `reserved` is the gateway's own.
    pub fn new<'a>(
        domains: impl IntoIterator<Item = &'a String>,
        reserved: impl IntoIterator<Item = &'a String>,
    ) -> Self {
        let suffix = |domain: &String| format!(".{}", domain.to_ascii_lowercase());
        let domains = domains.into_iter().map(suffix);
        let reserved = reserved.into_iter().map(|host| host.to_ascii_lowercase());
        Self {
            suffixes: domains.collect(),
            reserved: reserved.collect(),
        }
    }

    /// The functions whose name `host` would be, as namespace and name, if there were any such.
    pub fn functions<'a>(&'a self, host: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.suffixes.iter().filter_map(move |suffix| {
            let (name, namespace) = host.strip_suffix(suffix.as_str())?.split_once('.')?;
            (!name.is_empty() && !namespace.is_empty() && !namespace.contains('.'))
                .then_some((namespace, name))
        })
    }

    /// Whether no function can have `host`: the gateway itself is reached by it.
    #[must_use]
    pub fn is_reserved(&self, host: &str) -> bool {
        host == "localhost"
            || host.parse::<IpAddr>().is_ok()
            || self.reserved.iter().any(|reserved| reserved == host)
    }
}

/// `<name>.<namespace>`, which a cluster's DNS completes. A function claims it as it does its hosts: it may be somebody's
/// on the internet, whose Function then is the older one.
#[must_use]
pub fn short(function: &FunctionId) -> String {
    format!("{}.{}", function.name(), function.namespace())
}

/// The names by which pods reach the gateways, whose Service that is.
#[must_use]
pub fn of_gateways(service: &str, namespace: &str, cluster_domain: &str) -> [String; 4] {
    [
        service.to_owned(),
        format!("{service}.{namespace}"),
        format!("{service}.{namespace}.svc"),
        format!("{service}.{namespace}.svc.{cluster_domain}"),
    ]
}

/// Everything that stands after `<name>.<namespace>.` in a function's names in a cluster: `domains`, and those of Services.
#[must_use]
pub fn all_domains(domains: &[String], cluster_domain: &str) -> Vec<String> {
    let services = ["svc".to_owned(), format!("svc.{cluster_domain}")];
    domains.iter().cloned().chain(services).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_a_function_is_known_below_every_domain() {
        let domains = all_domains(&["Fn.Example.com".to_owned()], "cluster.local");
        let names = OwnNames::new(&domains, &[]);
        for host in [
            "digits.vision.svc",
            "digits.vision.svc.cluster.local",
            "digits.vision.fn.example.com",
        ] {
            let found: Vec<_> = names.functions(host).collect();
            assert_eq!(found, [("vision", "digits")], "{host}");
        }
        for host in [
            "digits",
            "digits.vision",
            "a.digits.vision.svc",
            "fn.example.com.",
            "vision.svc.cluster.local",
            ".vision",
            "",
        ] {
            assert_eq!(names.functions(host).count(), 0, "{host}");
        }
    }

    #[test]
    fn what_leads_to_the_gateway_itself_is_nobodys() {
        let own = of_gateways("wisp-gateway", "wisp-system", "cluster.local");
        let names = OwnNames::new(&[], &own);
        for host in [
            "localhost",
            "127.0.0.1",
            "::1",
            "wisp-gateway.wisp-system.svc.cluster.local",
            "wisp-gateway.wisp-system",
        ] {
            assert!(names.is_reserved(host), "{host}");
        }
        assert!(!names.is_reserved("digits.example.com"));
    }
}
