//! Whose a host name is that a Function claims.

use std::fmt;
use std::sync::Arc;

use wisp_api::Function;
use wisp_contract::FunctionId;
use wisp_contract::hosts::{OwnNames, short};

/// A host that a Function claims and does not have.
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
    /// A Function that claimed it earlier.
    Older(FunctionId),
    /// The Function whose own name it is.
    Named(FunctionId),
    /// The gateways.
    Gateway,
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = &self.host;
        match &self.owner {
            Owner::Older(id) => write!(
                f,
                "{host} is {id}'s: the older of two functions that claim a host keeps it"
            ),
            Owner::Named(id) => write!(f, "{host} is {id}'s: it is named so"),
            Owner::Gateway => write!(f, "{host} leads to the gateways themselves"),
        }
    }
}

/// The hosts of `function` that others have. Older is who was created earlier; at the same second, who comes first by
/// namespace and name.
#[must_use]
pub fn taken(function: &Function, all: &[Arc<Function>], names: &OwnNames) -> Vec<Taken> {
    let own = function.id().ok();
    let owner = |host: &String| {
        if names.is_reserved(host) {
            return Some(Owner::Gateway);
        }
        let mut named = names.functions(host).filter_map(|(namespace, name)| {
            let id = FunctionId::new(namespace, name).ok()?;
            let is_there = |other: &Arc<Function>| other.id().ok().as_ref() == Some(&id);
            all.iter().any(is_there).then_some(id)
        });
        if let Some(id) = named.next() {
            return (Some(&id) != own.as_ref()).then_some(Owner::Named(id));
        }
        let claims = all.iter().filter(|other| claims(other, host));
        let oldest = claims.min_by_key(|other| age(other))?;
        let is_older = age(oldest) < age(function);
        is_older.then(|| oldest.id().ok().map(Owner::Older))?
    };
    let short = own.as_ref().map(short);
    short
        .iter()
        .chain(&function.spec.hosts)
        .filter_map(|host| {
            let (host, owner) = (host.clone(), owner(host)?);
            Some(Taken { host, owner })
        })
        .collect()
}

/// Whether a Function claims `host`: by its spec, or as its short name.
fn claims(function: &Function, host: &str) -> bool {
    let meta = &function.metadata;
    let own = meta.name.as_deref().zip(meta.namespace.as_deref());
    host.split_once('.') == own || function.spec.hosts.iter().any(|claimed| claimed == host)
}

/// The Functions that claim one of `hosts`, or a name of `id`.
pub fn rivals<'a>(
    id: &'a FunctionId,
    hosts: &'a [String],
    all: &'a [Arc<Function>],
    names: &'a OwnNames,
) -> impl Iterator<Item = FunctionId> + 'a {
    let own = short(id);
    let is_name = move |host: &String| {
        let mut functions = names.functions(host);
        functions.any(|named| named == (id.namespace(), id.name()))
    };
    let shares = move |other: &&Arc<Function>| {
        let mut wanted = hosts.iter().chain([&own]);
        wanted.any(|host| claims(other, host)) || other.spec.hosts.iter().any(is_name)
    };
    all.iter()
        .filter(shares)
        .filter_map(|other| other.id().ok())
}

fn age(function: &Function) -> impl Ord + use<> {
    let meta = &function.metadata;
    (
        meta.creation_timestamp.clone(),
        meta.namespace.clone(),
        meta.name.clone(),
    )
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

    #[test]
    fn the_older_keeps_a_host_and_the_name_decides_between_twins() {
        let all = [
            function("young", "2026-01-02T00:00:00Z", &["a.example", "b.example"]),
            function("old", "2026-01-01T00:00:00Z", &["a.example"]),
            function("twin", "2026-01-02T00:00:00Z", &["b.example", "c.example"]),
        ];
        let names = |of: usize| {
            let taken = taken(&all[of], &all, &OwnNames::default()).into_iter();
            taken
                .map(|taken| match taken.owner {
                    Owner::Older(id) => format!("{} {id}", taken.host),
                    other => panic!("{other:?}"),
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(names(0), ["a.example n/old", "b.example n/twin"]);
        assert!(names(1).is_empty() && names(2).is_empty());
        let (hosts, id) = (["c.example".to_owned()], "n/none".parse().unwrap());
        assert_eq!(
            rivals(&id, &hosts, &all, &OwnNames::default())
                .map(|id| id.to_string())
                .collect::<Vec<_>>(),
            ["n/twin"]
        );
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
                    "thief.n",
                    "localhost",
                    "wisp-gateway.sys",
                ],
            ),
            function("digits", "2026-01-02T00:00:00Z", &[]),
        ];
        let domains = ["svc".to_owned(), "fn.example".to_owned()];
        let names = OwnNames::new(&domains, &["wisp-gateway.sys".to_owned()]);
        let taken: Vec<_> = taken(&all[0], &all, &names)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            taken,
            [
                "digits.n.fn.example is n/digits's: it is named so",
                "localhost leads to the gateways themselves",
                "wisp-gateway.sys leads to the gateways themselves",
            ]
        );
        let rivals: Vec<_> = rivals(&"n/later".parse().unwrap(), &[], &all, &names).collect();
        assert_eq!(rivals, ["n/thief".parse().unwrap()]);
    }

    /// Would fail if whoever may name a Function had a host of the same name that somebody had before, or its owner
    /// weren't told who has its short name.
    #[test]
    fn a_short_name_is_the_older_ones_too() {
        let all = [
            function("site", "2026-01-01T00:00:00Z", &["acme.n"]),
            function("acme", "2026-01-02T00:00:00Z", &[]),
        ];
        let names = OwnNames::default();
        assert!(taken(&all[0], &all, &names).is_empty());
        let taken = taken(&all[1], &all, &names);
        assert_eq!(
            taken,
            [Taken {
                host: "acme.n".to_owned(),
                owner: Owner::Older("n/site".parse().unwrap()),
            }]
        );
        let rivals: Vec<_> = rivals(&"n/acme".parse().unwrap(), &[], &all, &names).collect();
        assert_eq!(
            rivals,
            ["n/site".parse().unwrap(), "n/acme".parse().unwrap()]
        );
    }
}
