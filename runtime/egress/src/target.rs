//! Where a request goes.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use http::Uri;

/// A scheme that can be spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "http" => Some(Self::Http),
            "https" => Some(Self::Https),
            _ => None,
        }
    }

    pub(crate) fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
        })
    }
}

/// A host in the one form in which hosts are compared: lower case, no trailing dot, IPv4 never inside IPv6.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    Name(String),
    Address(IpAddr),
}

impl Host {
    /// Whether it may be a Service's name in a cluster: `<name>`, within its namespace, `<name>.<namespace>.svc`, or that with
    /// the usual domain after it. Neither another cluster's domain nor a namespace in its place is taken for one: it may be
    /// somebody's on the internet, where no name is without a dot. In the network around it such a name may be another's, too.
    pub(crate) fn is_service(&self) -> bool {
        let Self::Name(name) = self else {
            return false;
        };
        let name = name.strip_suffix(".cluster.local").unwrap_or(name);
        name.ends_with(".svc") || !name.contains('.') && name != "localhost"
    }

    /// `text` as in a URL: an IPv6 address is in brackets. A name is letters, digits, `-` and `_` in labels of at most
    /// 63 bytes, 253 in all, the last of them no number: `127.1` or `0x7f000001` would be an address in disguise.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Some(inner) = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            return inner
                .parse::<Ipv6Addr>()
                .ok()
                .map(|v6| Self::Address(IpAddr::V6(v6).to_canonical()));
        }
        if let Ok(address) = text.parse() {
            return Some(Self::Address(IpAddr::V4(address)));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        is_name(&name).then_some(Self::Name(name))
    }
}

/// Whether `name`, in lower case, can be a DNS name and not a number.
pub(crate) fn is_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_')
            })
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    let number = last.bytes().all(|byte| byte.is_ascii_digit())
        || last
            .strip_prefix("0x")
            .is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
    name.len() <= 253 && name.split('.').all(label) && !number
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(v4)) => write!(f, "{v4}"),
            Self::Address(IpAddr::V6(v6)) => write!(f, "[{v6}]"),
        }
    }
}

/// Scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    pub(crate) scheme: Scheme,
    pub(crate) host: Host,
    pub(crate) port: u16,
}

impl Target {
    /// Where a request to `uri` goes; none for a URL with credentials, without a host, or with one that is none.
    pub(crate) fn of(uri: &Uri) -> Option<Self> {
        let scheme = Scheme::parse(uri.scheme_str()?)?;
        let authority = uri.authority()?;
        let host = Host::parse(authority.host())?;
        let port = match authority.port() {
            Some(port) => port.as_str().parse().ok().filter(|port| *port != 0)?,
            None => scheme.default_port(),
        };
        // Nothing may be in the authority but host and port: no credentials, no second colon, no sign in the port.
        let rest = authority.as_str().strip_prefix(authority.host())?;
        let plain = rest.is_empty()
            || rest
                .strip_prefix(':')
                .is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
        plain.then_some(Self { scheme, host, port })
    }

    /// Host and port as they are written in a URL, without the scheme's own port.
    pub(crate) fn authority(&self) -> String {
        if self.port == self.scheme.default_port() {
            self.host.to_string()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_destination_has_one_form() {
        for (uri, expected) in [
            ("https://API.Example.com./x?y", "https://api.example.com"),
            ("http://example.com:80", "http://example.com"),
            ("https://example.com:80", "https://example.com:80"),
            ("http://[::FFFF:10.0.0.7]:8080/", "http://10.0.0.7:8080"),
            ("http://[2606:4700::0:1]/", "http://[2606:4700::1]"),
            ("http://a_b.example.com", "http://a_b.example.com"),
        ] {
            assert_eq!(
                Target::of(&uri.parse().unwrap()).unwrap().to_string(),
                expected,
                "{uri}"
            );
        }
    }

    #[test]
    fn a_destination_that_could_be_read_in_two_ways_is_none() {
        for uri in [
            "http://user@example.com/",
            "http://api.example.com:80@evil.example/",
            "ftp://example.com/",
            "/path",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0x7f.0.0.0x1/",
            "http://0177.0.0.1/",
            "http://example.com:0/",
            "http://a..b/",
        ] {
            // What is no URL at all never gets here.
            if let Ok(uri) = uri.parse::<Uri>() {
                assert!(Target::of(&uri).is_none(), "{uri}");
            }
        }
    }
}
