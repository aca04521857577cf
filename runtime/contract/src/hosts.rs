//! Host names that lead to a function without its asking, and names that no function can have.

use std::net::IpAddr;

use crate::assignment::FunctionId;

/// Names of functions: `<name>.<namespace>.<domain>` of every domain, and `<name>.<namespace>`. Nobody but the function itself
/// has them while it is there, and those below a domain nobody outside its namespace ever has.
#[derive(Debug, Clone, Default)]
pub struct OwnNames {
    /// Each with the dot before it.
    suffixes: Vec<String>,
    reserved: Vec<String>,
}

impl OwnNames {
    /// Below these `domains`. What is `reserved` is the gateway's own: a domain itself is only if it is there.
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
        self.below_domains(host).chain(of_short(host))
    }

    fn below_domains<'a>(&'a self, host: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let names = self.suffixes.iter();
        names.filter_map(move |suffix| of_short(host.strip_suffix(suffix.as_str())?))
    }

    /// Whether `function` may have `host` without being called so. A name below a domain is its namespace's also while no
    /// function is called so: else it would be somebody else's until then, and while one is made anew.
    #[must_use]
    pub fn may_claim(&self, host: &str, function: &FunctionId) -> bool {
        let mut names = self.below_domains(host);
        !self.is_reserved(host) && names.all(|(namespace, _)| namespace == function.namespace())
    }

    /// Whether no function can have `host`: the gateway itself is reached by it.
    #[must_use]
    pub fn is_reserved(&self, host: &str) -> bool {
        host == "localhost"
            || host.parse::<IpAddr>().is_ok()
            || self.reserved.iter().any(|reserved| reserved == host)
    }
}

/// `<name>.<namespace>`, which a cluster's DNS completes. Any function may claim such a name, as there are hosts on the
/// internet that look so, but not beside the function that is called so.
#[must_use]
pub fn short(function: &FunctionId) -> String {
    format!("{}.{}", function.name(), function.namespace())
}

/// Namespace and name of `<name>.<namespace>`.
fn of_short(host: &str) -> Option<(&str, &str)> {
    let (name, namespace) = host.split_once('.')?;
    let is_short = !name.is_empty() && !namespace.is_empty() && !namespace.contains('.');
    is_short.then_some((namespace, name))
}

/// That a function wants a host. Of all who may have it, who comes first has it: who had it before all others, then the
/// oldest function, then the first by its id. When a function was made tells nothing of when it claimed a host: that a host
/// was somebody's already is written down, and counts for more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// `i64::MAX` where it doesn't have it.
    since: i64,
    created: i64,
    function: FunctionId,
}

impl Claim {
    /// That of a function which was `created` then, in seconds since 1970, and has the host `since` then, in microseconds.
    #[must_use]
    pub fn new(function: FunctionId, created: i64, since: Option<i64>) -> Self {
        Self {
            since: since.unwrap_or(i64::MAX),
            created,
            function,
        }
    }

    /// Whose it is.
    #[must_use]
    pub fn function(&self) -> &FunctionId {
        &self.function
    }
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
        let short: Vec<_> = names.functions("digits.vision").collect();
        assert_eq!(short, [("vision", "digits")]);
        for host in [
            "digits",
            "a.digits.vision.svc",
            "fn.example.com.",
            "vision.svc.cluster.local",
            ".vision",
            "",
        ] {
            assert_eq!(names.functions(host).count(), 0, "{host}");
        }
    }

    /// Would fail if a namespace could have a name below a domain that holds another's, or not have one that holds its own.
    #[test]
    fn names_below_a_domain_are_their_namespaces() {
        let domains = all_domains(&["fn.example.com".to_owned()], "cluster.local");
        let names = OwnNames::new(&domains, &["gateway.sys".to_owned()]);
        let may = |function: &str, host| names.may_claim(host, &function.parse().unwrap());
        for host in [
            "pay.shop.fn.example.com",
            "pay.shop.svc",
            "pay.shop.svc.cluster.local",
        ] {
            assert!(may("shop/other", host) && !may("evil/pay", host), "{host}");
        }
        for host in [
            "pay.shop",
            "shop.example.com",
            "fn.example.com",
            "example.com",
        ] {
            assert!(may("evil/pay", host), "{host}");
        }
        assert!(!may("gateway/sys", "gateway.sys") && !may("a/b", "localhost"));
    }

    /// Would fail if a host went to whoever is older, though another had it before they wanted it.
    #[test]
    fn who_has_a_host_comes_before_who_is_older() {
        let claim = |id: &str, created, since| Claim::new(id.parse().unwrap(), created, since);
        let mut claims = [
            claim("a/old", 1, None),
            claim("a/second", 2, Some(9_000_000)),
            claim("b/first", 8, Some(8_000_000)),
            claim("a/young", 9, None),
            claim("a/older", 0, None),
        ];
        claims.sort();
        let order = claims.each_ref().map(|claim| claim.function().name());
        assert_eq!(order, ["first", "second", "older", "old", "young"]);
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
