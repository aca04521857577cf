//! Which addresses nothing is fetched from.

use std::net::IpAddr;

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::net::lookup_host;
use wisp_address::is_own;

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
