//! Which function a request is for: by its host, then by its path.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;
use http::Version;
use http::header::HOST;
use http::request::Parts;
use wisp_contract::FunctionId;
use wisp_contract::config::Limits;
use wisp_contract::hosts::{Claim, OwnNames};

use crate::function::Function;
use crate::respond::Failure;

pub(crate) mod recall;

/// A function that requests may be for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionRoute {
    /// The function.
    pub id: FunctionId,
    /// Host names that it claims, beside `/<namespace>/<name>/`, `<name>.<namespace>` and `<name>.<namespace>.<domain>`,
    /// which are its own. To claim another function's has no effect while that function is there, and to claim the gateway's,
    /// or one below a domain that holds another namespace, has none at all.
    pub hosts: Vec<String>,
    /// Which of them it has, and since when, in microseconds since 1970: who had a host first keeps it ([`Claim`]).
    pub held: BTreeMap<String, i64>,
    /// When it came to be, in seconds since 1970: a host that nobody had yet is the older function's.
    pub created: i64,
    /// Its limits. Of these the gateway minds `timeout`, `queue`, `queue_bytes` and `request_body`.
    pub limits: Limits,
}

/// All functions by name and by host.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    names: OwnNames,
    functions: DashMap<String, Arc<Function>>,
    /// How many functions, each in a namespace of its own, have a name.
    namesakes: DashMap<String, usize>,
    /// Who has a host.
    hosts: DashMap<String, Arc<Function>>,
    /// Who wants a host, first the one who gets it; also the lock of whoever changes anything.
    claims: Mutex<Claims>,
    /// Another number after every change, and another than any other `Routes` of this process has.
    edition: AtomicU64,
}

type Claims = BTreeMap<String, BTreeSet<Claim>>;

/// The function that a request is for.
pub(crate) struct Found {
    pub(crate) function: Arc<Function>,
    /// Whether the function was named by the path, whose prefix is then not the function's business.
    pub(crate) by_path: bool,
}

impl Routes {
    pub(crate) fn new(domains: &[String], reserved: &[String]) -> Self {
        let routes = Self {
            names: OwnNames::new(domains, reserved),
            ..Self::default()
        };
        routes.changed();
        routes
    }

    /// What threads remember of earlier requests holds no longer.
    fn changed(&self) {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        self.edition
            .store(NEXT.fetch_add(1, Ordering::Relaxed), Ordering::Release);
    }

    /// Adds or changes a function. Returns the hosts that it claims and doesn't have.
    pub(crate) fn insert(&self, mut route: FunctionRoute) -> Vec<String> {
        for host in &mut route.hosts {
            host.make_ascii_lowercase();
        }
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted: BTreeSet<String> = route.hosts.iter().cloned().collect();
        let new: BTreeMap<_, _> = wanted
            .iter()
            .filter(|host| self.names.may_claim(host, &route.id))
            .map(|host| (host.clone(), route.claim(host)))
            .collect();
        let id = route.id.clone();
        let key = id.to_string();
        let existing = self
            .functions
            .get(&key)
            .map(|entry| Arc::clone(entry.value()));
        let mut touched = wanted.clone();
        match existing {
            Some(function) => {
                let old = function.route.load_full();
                for host in &old.hosts {
                    withdraw(&mut claims, host, &old.claim(host));
                    touched.insert(host.clone());
                }
                function.update(route);
            }
            None => {
                *self
                    .namesakes
                    .entry(route.id.name().to_owned())
                    .or_default() += 1;
                self.functions.insert(key, Arc::new(Function::new(route)));
            }
        }
        for (host, claim) in new {
            claims.entry(host).or_default().insert(claim);
        }
        for host in &touched {
            self.settle(&claims, host);
        }
        self.changed();
        wanted
            .into_iter()
            .filter(|host| self.by_host(host).is_none_or(|owner| owner.id != id))
            .collect()
    }

    /// Removes a function; a host it had goes to the next who wants it.
    pub(crate) fn remove(&self, id: &FunctionId) -> Option<Arc<Function>> {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, function) = self.functions.remove(&id.to_string())?;
        if let Some(mut count) = self.namesakes.get_mut(id.name()) {
            *count -= 1;
        }
        self.namesakes.remove_if(id.name(), |_, count| *count == 0);
        let route = function.route.load_full();
        for host in &route.hosts {
            withdraw(&mut claims, host, &route.claim(host));
            self.settle(&claims, host);
        }
        self.changed();
        Some(function)
    }

    /// Gives a host to whom it belongs now.
    fn settle(&self, claims: &Claims, host: &str) {
        let owner = claims
            .get(host)
            .and_then(BTreeSet::first)
            .and_then(|claim| self.get(claim.function()));
        match owner {
            Some(function) => _ = self.hosts.insert(host.to_owned(), function),
            None => _ = self.hosts.remove(host),
        }
    }

    pub(crate) fn get(&self, id: &FunctionId) -> Option<Arc<Function>> {
        self.by_id(&id.to_string())
    }

    /// The function of `namespace/name`.
    fn by_id(&self, id: &str) -> Option<Arc<Function>> {
        self.functions
            .get(id)
            .map(|entry| Arc::clone(entry.value()))
    }

    /// All functions, in the order of their names.
    pub(crate) fn all(&self) -> Vec<Arc<Function>> {
        let mut all: Vec<_> = self
            .functions
            .iter()
            .map(|entry| Arc::clone(entry.value()))
            .collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }

    fn by_host(&self, host: &str) -> Option<Arc<Function>> {
        if self.names.is_reserved(host) {
            return None;
        }
        // The names that everyone has come first: nobody can claim another's.
        if let Some(function) = self.by_own_name(host) {
            return Some(function);
        }
        self.hosts.get(host).map(|entry| Arc::clone(entry.value()))
    }

    /// Who is `<name>.<namespace>.<domain>`, or `<name>.<namespace>`.
    fn by_own_name(&self, host: &str) -> Option<Arc<Function>> {
        let mut functions = self.names.functions(host);
        functions.find_map(|(namespace, name)| self.by_id(&format!("{namespace}/{name}")))
    }

    /// The name of functions that a request's host is, if it is no more than that.
    pub(crate) fn name_alone(&self, request: &Parts) -> Option<String> {
        let host = without_port(authority(request).ok()?);
        if host.contains('.') {
            return None;
        }
        let name = host.to_ascii_lowercase();
        (self.namesakes.contains_key(&name) && !self.names.is_reserved(&name)).then_some(name)
    }

    /// Leads a request, whose host is a name that functions have elsewhere, by its path alone.
    pub(crate) fn find_by_path(&self, request: &Parts) -> Result<Found, Failure> {
        let named = id_of(request.uri.path()).and_then(|id| self.by_id(id));
        let host = without_port(authority(request)?);
        let function = named.ok_or_else(|| {
            Failure::NoSuchFunction(format!(
                "no function of the client's namespace has the name `{host}`: one of another is `{host}.<namespace>`"
            ))
        })?;
        Ok(Found {
            function,
            by_path: true,
        })
    }

    /// Leads a request to its function.
    pub(crate) fn find(&self, request: &Parts) -> Result<Found, Failure> {
        let authority = authority(request)?;
        // The edition first: what is found is at least as new.
        let edition = self.edition.load(Ordering::Acquire);
        let found = |function, by_path| Ok(Found { function, by_path });
        if let Some(function) = recall::find(edition, authority, None) {
            return found(function, false);
        }
        let path = request.uri.path();
        let id = id_of(path);
        // That of a path is kept only where the host is nobody's.
        if let Some(function) = id.and_then(|id| recall::find(edition, authority, Some(id))) {
            return found(function, true);
        }
        let host = without_port(authority);
        let is_lower = !host.bytes().any(|byte| byte.is_ascii_uppercase());
        let function = if is_lower {
            self.by_host(host)
        } else {
            self.by_host(&host.to_ascii_lowercase())
        };
        if let Some(function) = function {
            recall::keep(edition, authority, false, &function);
            return found(function, false);
        }
        if let Some(function) = id.and_then(|id| self.by_id(id)) {
            recall::keep(edition, authority, true, &function);
            return found(function, true);
        }
        Err(Failure::NoSuchFunction(match id {
            Some(id) => format!(
                "there is no function `{id}`, and none has the host `{}`",
                shortened(host)
            ),
            None => format!(
                "no function has the host `{}`, and the path `{}` names none: expected `/<namespace>/<name>/…`",
                shortened(host),
                shortened(path)
            ),
        }))
    }
}

impl FunctionRoute {
    fn claim(&self, host: &str) -> Claim {
        Claim::new(self.id.clone(), self.created, self.held.get(host).copied())
    }
}

fn withdraw(claims: &mut Claims, host: &str, claim: &Claim) {
    if let Some(claimants) = claims.get_mut(host) {
        claimants.remove(claim);
        if claimants.is_empty() {
            claims.remove(host);
        }
    }
}

/// The authority that the client asked: one, and only one.
fn authority(request: &Parts) -> Result<&str, Failure> {
    let bad = |reason, detail: &str| {
        Err(Failure::BadRequest {
            reason,
            detail: detail.to_owned(),
        })
    };
    if let Some(authority) = request.uri.authority() {
        if authority.as_str().contains('@') {
            return bad("bad-host", "the URI holds credentials");
        }
        return Ok(authority.as_str());
    }
    let mut hosts = request.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => match host.to_str() {
            Ok(host) if host.bytes().all(is_of_host) => Ok(host),
            _ => bad("bad-host", "the Host header is no host"),
        },
        (None, _) if request.version == Version::HTTP_10 => Ok(""),
        (None, _) => bad("bad-host", "the Host header is missing"),
        (Some(_), Some(_)) => bad("bad-host", "there is more than one Host header"),
    }
}

/// Whether a host, or its port, may hold it.
fn is_of_host(byte: u8) -> bool {
    const fn bit(byte: u8) -> u128 {
        1 << byte
    }
    const NOT: u128 = bit(b'/')
        | bit(b'\\')
        | bit(b'@')
        | bit(b'?')
        | bit(b'#')
        | bit(b',')
        | bit(b'"')
        | bit(b'<')
        | bit(b'>');
    byte.is_ascii_graphic() && bit(byte) & NOT == 0
}

/// The host of an authority, without port and final dot.
fn without_port(authority: &str) -> &str {
    let host = match authority.rfind(':') {
        Some(colon) if !authority.ends_with(']') => authority.get(..colon).unwrap_or(authority),
        _ => authority,
    };
    host.strip_suffix('.').unwrap_or(host)
}

/// `namespace/name` of a path `/namespace/name`, or `/namespace/name/…`.
fn id_of(path: &str) -> Option<&str> {
    let rest = path.strip_prefix('/')?;
    let slash = rest.find('/')?;
    let name = rest.get(slash + 1..)?;
    let end = name.find('/').unwrap_or(name.len());
    let id = rest.get(..slash + 1 + end)?;
    (slash > 0 && end > 0 && id.len() <= 127).then_some(id)
}

/// A host or path that a sentence has room for.
fn shortened(path: &str) -> String {
    const LONGEST: usize = 100;
    if path.chars().count() <= LONGEST {
        path.to_owned()
    } else {
        path.chars().take(LONGEST).chain(['…']).collect()
    }
}

#[cfg(test)]
mod tests;
