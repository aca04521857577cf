//! Whose a host name is that a Function claims.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use wisp_api::{Function, HostStatus};
use wisp_contract::FunctionId;
use wisp_contract::hosts::{Claim, OwnNames, short};

/// A host that a Function claims, or is called by, and does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Which.
    pub host: String,
    /// Who has it.
    pub owner: Owner,
}

/// Who has a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// A Function that has it, or would before this one.
    First(FunctionId),
    /// The Function whose own name it is.
    Named(FunctionId),
    /// The functions of a namespace, whether or not one is called so.
    Namespace(String),
    /// The gateways.
    Gateway,
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = &self.host;
        match &self.owner {
            Owner::First(id) => write!(f, "{host} is {id}'s: who has a host keeps it"),
            Owner::Named(id) => write!(f, "{host} is {id}'s: it is named so"),
            Owner::Namespace(namespace) => write!(
                f,
                "{host} is a name of the namespace {namespace}, whose functions alone may have it"
            ),
            Owner::Gateway => write!(f, "{host} leads to the gateways themselves"),
        }
    }
}

/// The hosts of `function` that others have, as the gateways see it.
#[must_use]
pub fn taken(function: &Function, all: &[Arc<Function>], names: &OwnNames) -> Vec<Taken> {
    let Ok(own) = function.id() else {
        return Vec::new();
    };
    let owner = |host: &String| {
        if names.is_reserved(host) {
            return Some(Owner::Gateway);
        }
        let is_there = |id: &FunctionId| all.iter().any(|other| is_of(other, id));
        let mut named = names
            .functions(host)
            .filter_map(|(namespace, name)| FunctionId::new(namespace, name).ok());
        if let Some(id) = named.find(is_there) {
            return (id != own).then_some(Owner::Named(id));
        }
        if !names.may_claim(host, &own) {
            let namespace = names.functions(host).next()?.0.to_owned();
            return Some(Owner::Namespace(namespace));
        }
        let claims = all.iter().filter(|other| claims(other, host));
        let claims = claims.filter_map(|other| claim(other, host));
        let first = claims
            .filter(|claim| *claim.function() != own && names.may_claim(host, claim.function()))
            .min()?;
        (first < claim(function, host)?).then(|| Owner::First(first.function().clone()))
    };
    let short = short(&own);
    [&short]
        .into_iter()
        .chain(&function.spec.hosts)
        .filter_map(|host| {
            let (host, owner) = (host.clone(), owner(host)?);
            Some(Taken { host, owner })
        })
        .collect()
}

/// The hosts that lead to `function`, which lacks those that are `taken`: what it has it keeps, as this is written down.
#[must_use]
pub fn held(function: &Function, taken: &[Taken], now: Timestamp) -> Vec<HostStatus> {
    // As precise as it is once it was written.
    let now = Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now);
    let hosts = function.spec.hosts.iter();
    let had = function.status.iter().flat_map(|status| &status.hosts);
    hosts
        .filter(|host| !taken.iter().any(|taken| taken.host == **host))
        .map(|name| HostStatus {
            name: name.clone(),
            since: had
                .clone()
                .find(|host| host.name == *name)
                .map_or(MicroTime(now), |host| host.since.clone()),
        })
        .collect()
}

fn is_of(function: &Function, id: &FunctionId) -> bool {
    function.metadata.deletion_timestamp.is_none() && function.id().ok().as_ref() == Some(id)
}

/// Whether the spec of a Function claims `host`. One that is being deleted has none any more.
fn claims(function: &Function, host: &str) -> bool {
    function.metadata.deletion_timestamp.is_none()
        && function.spec.hosts.iter().any(|claimed| claimed == host)
}

fn claim(function: &Function, host: &str) -> Option<Claim> {
    let mut held = function.held();
    let since = held.find_map(|(name, since)| (name == host).then_some(since));
    Some(Claim::new(function.id().ok()?, function.created(), since))
}

/// What of a Function decides which hosts others have: those that it claims, each with the time since when it has it. Nothing of
/// one that is being deleted, whose own names are nobody's any more either.
#[must_use]
pub fn claimed(function: &Function) -> Option<Vec<(String, Option<MicroTime>)>> {
    let had = function.status.iter().flat_map(|status| &status.hosts);
    let since = |host: &String| had.clone().find(|had| had.name == *host);
    let hosts = function.spec.hosts.iter();
    let claimed = hosts.map(|host| (host.clone(), since(host).map(|had| had.since.clone())));
    let is_there = function.metadata.deletion_timestamp.is_none();
    is_there.then(|| claimed.collect())
}

/// The Functions that claim one of `hosts`, or a name of `id`.
pub fn rivals<'a>(
    id: &'a FunctionId,
    hosts: &'a [String],
    all: &'a [Arc<Function>],
    names: &'a OwnNames,
) -> impl Iterator<Item = FunctionId> + 'a {
    let is_name = move |host: &String| {
        let mut functions = names.functions(host);
        functions.any(|named| named == (id.namespace(), id.name()))
    };
    let shares = move |other: &&Arc<Function>| {
        hosts.iter().any(|host| claims(other, host)) || other.spec.hosts.iter().any(is_name)
    };
    all.iter()
        .filter(shares)
        .filter_map(|other| other.id().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(name: &str, created: &str, hosts: &[&str]) -> Arc<Function> {
        Arc::new(
            serde_json::from_value(serde_json::json!({
                "apiVersion": "wisp.dev/v1alpha1", "kind": "Function",
                "metadata": {"name": name, "namespace": "n", "creationTimestamp": created},
                "spec": {"hosts": hosts},
            }))
            .unwrap(),
        )
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn said(taken: &[Taken]) -> Vec<String> {
        taken.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_host_that_nobody_has_is_the_olders_and_the_name_decides_between_twins() {
        let all = [
            function("young", "2026-01-02T00:00:00Z", &["a.example", "b.example"]),
            function("old", "2026-01-01T00:00:00Z", &["a.example"]),
            function("twin", "2026-01-02T00:00:00Z", &["b.example", "c.example"]),
        ];
        let names = |of: usize| said(&taken(&all[of], &all, &OwnNames::default()));
        assert_eq!(
            names(0),
            [
                "a.example is n/old's: who has a host keeps it",
                "b.example is n/twin's: who has a host keeps it"
            ]
        );
        assert!(names(1).is_empty() && names(2).is_empty());
        let (hosts, id) = (["c.example".to_owned()], "n/none".parse().unwrap());
        assert_eq!(
            rivals(&id, &hosts, &all, &OwnNames::default())
                .map(|id| id.to_string())
                .collect::<Vec<_>>(),
            ["n/twin"]
        );
    }

    /// Would fail if an old Function took a host that another has by claiming it, if an operator that starts anew knew nothing
    /// of who has it, or if a host were nobody's once who had it dropped it.
    #[test]
    fn who_has_a_host_keeps_it_until_it_is_dropped() {
        let names = OwnNames::default();
        let mut young = (*function("young", "2026-01-02T00:00:00Z", &["a.example"])).clone();
        let first = held(&young, &[], at(1));
        young
            .status
            .get_or_insert_default()
            .hosts
            .clone_from(&first);
        assert_eq!(held(&young, &[], at(9)), first, "since when stays");
        let mut thief = (*function("old", "2026-01-01T00:00:00Z", &["a.example"])).clone();
        let all = [Arc::new(young.clone()), Arc::new(thief.clone())];
        assert!(taken(&young, &all, &names).is_empty());
        let lacks = taken(&thief, &all, &names);
        assert_eq!(lacks[0].owner, Owner::First("n/young".parse().unwrap()));
        assert!(held(&thief, &lacks, at(2)).is_empty());

        // An operator that hadn't heard of the first said the same of both: the first still has it.
        thief.status.get_or_insert_default().hosts = held(&thief, &[], at(2));
        let all = [Arc::new(young.clone()), Arc::new(thief.clone())];
        assert!(taken(&young, &all, &names).is_empty());
        assert_eq!(taken(&thief, &all, &names), lacks);

        young.spec.hosts.clear();
        assert!(held(&young, &[], at(3)).is_empty());
        let all = [Arc::new(young), Arc::new(thief.clone())];
        assert!(taken(&thief, &all, &names).is_empty());
    }

    /// Would fail if a Function that claims a host at the same moment as another weren't looked at again once the other has it, or
    /// has it no more.
    #[test]
    fn others_are_concerned_by_what_it_has_and_by_its_end() {
        let mut function = (*function("one", "2026-01-01T00:00:00Z", &["a.example"])).clone();
        let mut before = claimed(&function);
        assert!(before.is_some());
        let mut differs = |function: &Function| {
            let now = claimed(function);
            now != std::mem::replace(&mut before, now.clone())
        };
        function.spec.scaling.min_replicas = 1;
        function.status.get_or_insert_default().replicas = 1;
        assert!(!differs(&function));
        function.status.get_or_insert_default().hosts = held(&function, &[], at(1));
        assert!(differs(&function) && !differs(&function));
        function.spec.hosts.clear();
        assert!(differs(&function));
        function.metadata.deletion_timestamp = function.metadata.creation_timestamp.clone();
        assert!(differs(&function), "its names are free");
    }

    /// Would fail if a Function that is being deleted kept a host from the next, whom the gateways already lead it to.
    #[test]
    fn who_is_being_deleted_has_no_host() {
        let mut going = (*function("digits", "2026-01-01T00:00:00Z", &["a.example"])).clone();
        going.metadata.deletion_timestamp = going.metadata.creation_timestamp.clone();
        let next = function("next", "2026-01-02T00:00:00Z", &["a.example", "digits.n"]);
        let all = [Arc::new(going), Arc::clone(&next)];
        assert!(taken(&next, &all, &OwnNames::default()).is_empty());
    }

    /// Would fail if a Function were told that it has a name which the gateways give to another, or to nobody.
    #[test]
    fn names_of_functions_and_of_the_gateways_are_theirs_whoever_is_older() {
        let all = [
            function(
                "thief",
                "2026-01-01T00:00:00Z",
                &[
                    "digits.n.fn.example",
                    "later.n.svc",
                    "later.shop.svc",
                    "later.shop",
                    "digits.n",
                    "localhost",
                    "wisp-gateway.sys",
                ],
            ),
            function("digits", "2026-01-02T00:00:00Z", &[]),
        ];
        let domains = ["svc".to_owned(), "fn.example".to_owned()];
        let names = OwnNames::new(&domains, &["wisp-gateway.sys".to_owned()]);
        assert_eq!(
            said(&taken(&all[0], &all, &names)),
            [
                "digits.n.fn.example is n/digits's: it is named so",
                "later.shop.svc is a name of the namespace shop, whose functions alone may have it",
                "digits.n is n/digits's: it is named so",
                "localhost leads to the gateways themselves",
                "wisp-gateway.sys leads to the gateways themselves",
            ]
        );
        assert!(taken(&all[1], &all, &names).is_empty());
        for name in ["n/later", "shop/later"] {
            let id = name.parse().unwrap();
            let rivals: Vec<_> = rivals(&id, &[], &all, &names).collect();
            assert_eq!(rivals, ["n/thief".parse().unwrap()], "{name}");
        }
        // A function whose own short name is the gateways'.
        let names = OwnNames::new(&[], &["digits.n".to_owned()]);
        assert_eq!(taken(&all[1], &all, &names)[0].owner, Owner::Gateway);
    }
}
