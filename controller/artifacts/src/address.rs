//! Which addresses are a machine's own, or of its network link alone? Whoever may name a URL for another process to fetch shall
//! not reach by it what only that process can: its own ports, and the metadata services of clouds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::net::lookup_host;

/// Where clouds have their metadata that have it at no link-local address: Amazon's and Google's.
const METADATA: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

/// An address that nothing is fetched from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is an address of this machine or of its link, which nothing is fetched from")]
pub(crate) struct OwnAddress(IpAddr);

/// What may be reached: all but own addresses, and of hosts that are named all.
#[derive(Debug, Clone)]
pub(crate) struct Others {
    /// `host` or `host:port`.
    pub(crate) named: Vec<String>,
}

/// Whether the address is loopback, unspecified, link-local, multicast or broadcast, or one of clouds' metadata; also in one
/// of the forms that carry an IPv4 address inside an IPv6 one.
pub(crate) fn is_own(address: IpAddr) -> bool {
    let is_own_v4 = |v4: Ipv4Addr| {
        v4.octets()[0] == 0
            || v4.is_loopback()
            || v4.is_link_local()
            || v4.is_multicast()
            || v4.is_broadcast()
    };
    let v6 = match address {
        IpAddr::V4(v4) => return is_own_v4(v4),
        IpAddr::V6(v6) => v6,
    };
    let [s0, s1, s2, s3, s4, s5, s6, s7] = v6.segments();
    // IPv4-mapped and -compatible, translated (SIIT), NAT64's well-known prefix, and 6to4.
    let embedded = match [s0, s1, s2, s3, s4, s5] {
        [0, 0, 0, 0, 0, 0 | 0xffff] | [0, 0, 0, 0, 0xffff, 0] | [0x64, 0xff9b, 0, 0, 0, 0] => {
            Some((s6, s7))
        }
        [0x2002, ..] => Some((s1, s2)),
        _ => None,
    };
    let v4 =
        embedded.map(|(high, low)| Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low)));
    v4.is_some_and(is_own_v4)
        || v6.is_loopback()
        || v6.is_unicast_link_local()
        || v6.is_multicast()
        || METADATA.contains(&v6)
}

impl Others {
    /// Whether what is written in `url` in place of a name may be reached; what a name means is known when it is looked up.
    pub(crate) fn may_reach(&self, url: &Url) -> Result<(), OwnAddress> {
        let host = url.host_str().unwrap_or_default();
        let address = host.trim_matches(['[', ']']).parse().ok();
        let port = url.port_or_known_default().unwrap_or_default();
        let is_named = |named: &String| *named == host || *named == format!("{host}:{port}");
        match address.filter(|address| is_own(*address)) {
            Some(address) if !self.named.iter().any(is_named) => Err(OwnAddress(address)),
            _ => Ok(()),
        }
    }

    fn is_named(&self, name: &str) -> bool {
        let of = |named: &str| named.split_once(':').map_or(named, |(host, _)| host) == name;
        self.named.iter().any(|named| of(named))
    }
}

impl Resolve for Others {
    fn resolve(&self, name: Name) -> Resolving {
        let is_named = self.is_named(name.as_str());
        Box::pin(async move {
            let found: Vec<_> = lookup_host((name.as_str(), 0)).await?.collect();
            let (own, others): (Vec<_>, Vec<_>) = found
                .into_iter()
                .partition(|found| !is_named && is_own(found.ip()));
            match own.first() {
                Some(own) if others.is_empty() => Err(OwnAddress(own.ip()).into()),
                _ => Ok(Box::new(others.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if a URL could lead to this process's own ports or to a cloud's metadata, or couldn't to a cluster's Services.
    #[test]
    fn own_addresses_are_told_from_others() {
        for own in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
        ] {
            assert!(is_own(own.parse().unwrap()), "{own}");
        }
        for other in [
            "10.0.0.1",
            "100.64.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "8.8.8.8",
            "fd00::1",
            "2606:4700::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(!is_own(other.parse().unwrap()), "{other}");
        }
    }

    /// Would fail if a redirect or a token server's URL could name what a name can't mean.
    #[tokio::test]
    async fn what_is_named_may_be_reached_wherever_it_is() {
        let others = Others {
            named: vec!["127.0.0.1:5000".to_owned(), "localhost".to_owned()],
        };
        let may = |url: &str| others.may_reach(&url.parse().unwrap()).is_ok();
        assert!(may("http://127.0.0.1:5000/v2/") && may("https://example.com/"));
        for url in [
            "http://127.0.0.1:5001/",
            "http://127.0.0.1/",
            "http://[::1]/",
            "http://0x7f.1/",
            "http://2130706433/",
        ] {
            assert!(!may(url), "{url}");
        }
        let resolve = async |others: &Others| others.resolve("localhost".parse().unwrap()).await;
        assert!(resolve(&others).await.is_ok());
        let nothing = Others { named: Vec::new() };
        let error = resolve(&nothing).await.err().unwrap();
        assert!(error.to_string().contains("of this machine"), "{error}");
    }
}
