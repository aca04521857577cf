//! Where guests may send requests.

use std::fmt;
use std::net::IpAddr;

use wisp_address::{is_private, is_public, is_shared};

use crate::target::{Host, Scheme, Target, is_name};

/// Entries of one list, at most.
const MAX_ENTRIES: usize = 256;
/// Bytes of one entry, at most.
const MAX_ENTRY_BYTES: usize = 300;

/// A checked `outbound.allow`. Empty: nothing is allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy(Vec<Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    scheme: Scheme,
    host: Pattern,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Exactly(Host),
    /// The name with a dot before it: any name that ends in it.
    Below(String),
}

/// What is wrong with a list: everything, not just the first mistake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("outbound.allow: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct PolicyError(pub Vec<EntryError>);

/// What is wrong with one entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The list is too long.
    #[error("{0} entries: at most {MAX_ENTRIES} are allowed")]
    TooMany(usize),
    /// The entry is too long.
    #[error("`{start}…` is {bytes} bytes: an entry is at most {MAX_ENTRY_BYTES}")]
    TooLong {
        /// Its first characters.
        start: String,
        /// Its length.
        bytes: usize,
    },
    /// The scheme is missing or unknown.
    #[error("`{0}` has no scheme: expected `http://` or `https://` before the host")]
    Scheme(String),
    /// There is something behind host and port.
    #[error(
        "`{0}` has more than scheme, host and port: an origin such as `https://api.example.com` is allowed, no path, query or credentials"
    )]
    NotAnOrigin(String),
    /// The port is no port.
    #[error(
        "`{0}` has no valid port: expected a number from 1 to 65535 after the colon, or no colon"
    )]
    Port(String),
    /// The wildcard is somewhere else than in place of the first labels.
    #[error(
        "`{0}` has a wildcard where none may be: expected `*.` before a name of at least two labels, such as `https://*.example.com`"
    )]
    Wildcard(String),
    /// The host is none.
    #[error(
        "`{0}` has no valid host: expected a DNS name (punycode where it isn't ASCII), an IPv4 address or an IPv6 address in brackets"
    )]
    Host(String),
}

impl Policy {
    /// Checks `outbound.allow`. An entry is `scheme://host` or `scheme://host:port`, the port by default the scheme's.
    /// `*.example.com` stands for every name below `example.com`, not for `example.com` itself.
    ///
    /// # Errors
    /// With every entry that is wrong.
    pub fn parse(entries: &[String]) -> Result<Self, PolicyError> {
        let mut errors = Vec::new();
        if entries.len() > MAX_ENTRIES {
            errors.push(EntryError::TooMany(entries.len()));
        }
        let mut parsed = Vec::with_capacity(entries.len().min(MAX_ENTRIES));
        for entry in entries.iter().take(MAX_ENTRIES) {
            match Entry::parse(entry) {
                Ok(entry) => parsed.push(entry),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            Ok(Self(parsed))
        } else {
            Err(PolicyError(errors))
        }
    }

    /// Whether nothing at all is allowed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether requests to `target` may be made, as far as its name tells.
    pub(crate) fn allows(&self, target: &Target) -> bool {
        self.entries_for(target)
            .any(|entry| entry.matches(&target.host))
    }

    /// Whether a connection for `target`, which is allowed, may be made to `address`: every public address; any other
    /// where an entry for this scheme and port names that address; for loopback, where target and entry say `localhost`;
    /// for a private or shared network's, of which clusters take their Services' addresses, where they say a Kubernetes
    /// Service, or what may be one: nobody on the internet answers for such a name.
    pub(crate) fn permits(&self, target: &Target, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let localhost = Host::Name("localhost".to_owned());
        is_public(address)
            || self
                .entries_for(target)
                .any(|entry| entry.matches(&Host::Address(address)))
            || address.is_loopback()
                && target.host == localhost
                && self
                    .entries_for(target)
                    .any(|entry| entry.matches(&localhost))
            || (is_private(address) || is_shared(address))
                && target.host.is_service()
                && self.allows(target)
    }

    fn entries_for(&self, target: &Target) -> impl Iterator<Item = &Entry> {
        let (scheme, port) = (target.scheme, target.port);
        self.0
            .iter()
            .filter(move |entry| entry.scheme == scheme && entry.port == port)
    }
}

impl Entry {
    fn parse(text: &str) -> Result<Self, EntryError> {
        let owned = || text.to_owned();
        if text.len() > MAX_ENTRY_BYTES {
            return Err(EntryError::TooLong {
                start: text.chars().take(40).collect(),
                bytes: text.len(),
            });
        }
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| EntryError::Scheme(owned()))?;
        let scheme = Scheme::parse(&scheme.to_ascii_lowercase())
            .ok_or_else(|| EntryError::Scheme(owned()))?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@', '\\']) {
            // Credentials are not for the log.
            let shown = text
                .rsplit_once('@')
                .map_or_else(owned, |(_, rest)| format!("{scheme}://…@{rest}"));
            return Err(EntryError::NotAnOrigin(shown));
        }
        // The last colon outside of brackets is before the port.
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (rest, None),
        };
        let port = match port {
            None => scheme.default_port(),
            Some(port) => parse_port(port).ok_or_else(|| EntryError::Port(owned()))?,
        };
        let host = if host.contains('*') {
            let below = host
                .strip_prefix('*')
                .map(|name| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase());
            let valid = |below: &String| {
                below
                    .strip_prefix('.')
                    .is_some_and(|name| is_name(name) && name.contains('.') && !name.contains('*'))
            };
            Pattern::Below(
                below
                    .filter(valid)
                    .ok_or_else(|| EntryError::Wildcard(owned()))?,
            )
        } else {
            Pattern::Exactly(Host::parse(host).ok_or_else(|| EntryError::Host(owned()))?)
        };
        Ok(Self { scheme, host, port })
    }

    fn matches(&self, host: &Host) -> bool {
        match (&self.host, host) {
            (Pattern::Exactly(allowed), host) => allowed == host,
            (Pattern::Below(suffix), Host::Name(name)) => {
                name.len() > suffix.len() && name.ends_with(suffix.as_str())
            }
            (Pattern::Below(_), Host::Address(_)) => false,
        }
    }
}

fn parse_port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits
        .then(|| text.parse().ok())
        .flatten()
        .filter(|port| *port != 0)
}

/// The entries that a message names.
const SHOWN: usize = 8;

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing");
        }
        for (index, entry) in self.0.iter().take(SHOWN).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            let host = match &entry.host {
                Pattern::Exactly(host) => host.to_string(),
                Pattern::Below(suffix) => format!("*{suffix}"),
            };
            write!(f, "{comma}{}://{host}", entry.scheme)?;
            if entry.port != entry.scheme.default_port() {
                write!(f, ":{}", entry.port)?;
            }
        }
        match self.0.len().checked_sub(SHOWN) {
            Some(more) if more > 0 => write!(f, ", and {more} more"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
