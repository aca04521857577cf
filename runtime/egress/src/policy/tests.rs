use proptest::prelude::*;

use super::*;

fn policy(entries: &[&str]) -> Policy {
    Policy::parse(&entries.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
}

fn target(uri: &str) -> Target {
    Target::of(&uri.parse().unwrap()).unwrap()
}

#[test]
fn only_what_is_listed_is_allowed() {
    let policy = policy(&[
        "https://api.example.com",
        "https://*.cdn.example",
        "http://10.0.0.7:8080",
        "HTTP://[fd00::1]/",
    ]);
    for uri in [
        "https://api.example.com/x",
        "https://API.EXAMPLE.COM:443",
        "https://a.cdn.example",
        "https://a.b.cdn.example",
        "http://10.0.0.7:8080",
        "http://[fd00:0::1]",
    ] {
        assert!(policy.allows(&target(uri)), "{uri}");
    }
    for uri in [
        "http://api.example.com",
        "https://api.example.com:8443",
        "https://example.com",
        "https://x.api.example.com",
        "https://cdn.example",
        "https://evilcdn.example",
        "https://a.cdn.example.evil.com",
        "http://10.0.0.7",
        "http://10.0.0.8:8080",
        "https://10.0.0.7:8080",
    ] {
        assert!(!policy.allows(&target(uri)), "{uri}");
    }
    assert_eq!(
        policy.to_string(),
        "https://api.example.com, https://*.cdn.example, http://10.0.0.7:8080, http://[fd00::1]"
    );
    assert!(!Policy::default().allows(&target("https://api.example.com")));
}

#[test]
fn an_address_that_is_not_public_must_be_named() {
    let policy = policy(&[
        "http://db.example:8080",
        "http://10.0.0.7:8080",
        "http://localhost:3000",
        "https://db.example",
    ]);
    let permits = |uri: &str, address: &str| policy.permits(&target(uri), address.parse().unwrap());
    assert!(permits("http://db.example:8080", "1.1.1.1"));
    assert!(permits("http://db.example:8080", "10.0.0.7"));
    assert!(permits("http://db.example:8080", "::ffff:10.0.0.7"));
    assert!(!permits("http://db.example:8080", "10.0.0.8"));
    assert!(!permits("http://db.example:8080", "127.0.0.1"));
    assert!(!permits("http://db.example:8080", "169.254.169.254"));
    assert!(
        !permits("https://db.example", "10.0.0.7"),
        "named for another scheme and port"
    );
    assert!(permits("http://localhost:3000", "127.0.0.1"));
    assert!(permits("http://localhost:3000", "::1"));
    assert!(
        !permits("http://localhost:3000", "10.0.0.7"),
        "localhost is loopback, whatever the resolver says"
    );
}

/// Would fail if a function couldn't call another by its Service's name, or such a name led past what a list means.
#[test]
fn a_service_of_the_cluster_has_a_private_address() {
    let policy = policy(&[
        "http://callee",
        "http://callee.vision.svc",
        "http://*.vision.svc.cluster.local:8080",
        "http://callee.vision.svc.example.com",
        "http://callee.vision",
    ]);
    let permits = |uri: &str, address: &str| policy.permits(&target(uri), address.parse().unwrap());
    // The last but one is of the range that kOps takes.
    for address in ["10.96.0.1", "172.20.0.9", "100.64.0.1", "fd12::1"] {
        for service in ["http://callee", "http://callee.vision.svc"] {
            assert!(permits(service, address), "{service} {address}");
        }
        let other = "http://other.vision.svc.cluster.local:8080";
        assert!(permits(other, address), "{address}");
        for not in [
            "http://other",
            "http://callee:81",
            "http://callee.vision.svc:81",
            "https://callee.vision.svc",
            "http://callee.audio.svc.cluster.local:8080",
            "http://callee.vision.svc.example.com",
            "http://callee.vision",
        ] {
            assert!(!permits(not, address), "{not} {address}");
        }
    }
    for address in [
        "127.0.0.1",
        "169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "fe80::1",
        "fd00:ec2::254",
        "fd20:ce::254",
        "::1",
    ] {
        for service in ["http://callee", "http://callee.vision.svc"] {
            assert!(!permits(service, address), "{service} {address}");
        }
    }
    assert!(permits("http://callee.vision.svc", "8.8.8.8"));
}

#[test]
fn every_mistake_is_told_with_what_is_allowed() {
    let long = format!("https://{}", "a".repeat(400));
    let entries = [
        "api.example.com",
        "ftp://api.example.com",
        "https://api.example.com/v1",
        "https://user:secret@x.example",
        "https://x.example:0",
        "https://x.example:port",
        "https://*",
        "https://*.com",
        "https://a.*.example.com",
        "https://bad host",
        "https://",
        "http://127.1",
        "https://ü.example",
        &long,
    ];
    let error = Policy::parse(&entries.map(str::to_owned)).unwrap_err();
    assert_eq!(error.0.len(), entries.len());
    insta::assert_snapshot!(error.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"), @r"
    `api.example.com` has no scheme: expected `http://` or `https://` before the host
    `ftp://api.example.com` has no scheme: expected `http://` or `https://` before the host
    `https://api.example.com/v1` has more than scheme, host and port: an origin such as `https://api.example.com` is allowed, no path, query or credentials
    `https://…@x.example` has more than scheme, host and port: an origin such as `https://api.example.com` is allowed, no path, query or credentials
    `https://x.example:0` has no valid port: expected a number from 1 to 65535 after the colon, or no colon
    `https://x.example:port` has no valid port: expected a number from 1 to 65535 after the colon, or no colon
    `https://*` has a wildcard where none may be: expected `*.` before a name of at least two labels, such as `https://*.example.com`
    `https://*.com` has a wildcard where none may be: expected `*.` before a name of at least two labels, such as `https://*.example.com`
    `https://a.*.example.com` has a wildcard where none may be: expected `*.` before a name of at least two labels, such as `https://*.example.com`
    `https://bad host` has no valid host: expected a DNS name (punycode where it isn't ASCII), an IPv4 address or an IPv6 address in brackets
    `https://` has no valid host: expected a DNS name (punycode where it isn't ASCII), an IPv4 address or an IPv6 address in brackets
    `http://127.1` has no valid host: expected a DNS name (punycode where it isn't ASCII), an IPv4 address or an IPv6 address in brackets
    `https://ü.example` has no valid host: expected a DNS name (punycode where it isn't ASCII), an IPv4 address or an IPv6 address in brackets
    `https://aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…` is 408 bytes: an entry is at most 300
    ");
    let error = Policy::parse(&vec!["https://a.example".to_owned(); 257])
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "outbound.allow: 257 entries: at most 256 are allowed"
    );
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(entry: String, uri in "(http|https)://\\PC{0,40}") {
        let policy = Policy::parse(&[entry]).unwrap_or_default();
        if let Ok(uri) = uri.parse::<http::Uri>() && let Some(target) = Target::of(&uri) {
            policy.allows(&target);
        }
    }

    /// What a policy prints is a policy that says the same.
    #[test]
    fn printing_and_parsing_agree(scheme in "https?", wild: bool, host in "[a-z]{1,8}(\\.[a-z]{2,8}){1,3}", port in proptest::option::of(1u16..)) {
        let star = if wild { "*." } else { "" };
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let first = Policy::parse(&[format!("{scheme}://{star}{host}{port}")]).unwrap();
        prop_assert_eq!(&Policy::parse(&[first.to_string()]).unwrap(), &first);
        let below = target(&format!("{scheme}://x.{host}{port}"));
        prop_assert_eq!(first.allows(&below), wild);
        prop_assert_eq!(first.allows(&target(&format!("{scheme}://{host}{port}"))), !wild);
        let longer = target(&format!("{scheme}://x{host}{port}"));
        prop_assert!(!first.allows(&longer));
    }

    /// No address that isn't public is permitted by names alone, whatever they resolve to.
    #[test]
    fn names_alone_permit_public_addresses_only(bits: u32) {
        let policy = policy(&["https://*.example.com", "http://x.example.com"]);
        let address = IpAddr::from(std::net::Ipv4Addr::from(bits));
        prop_assert_eq!(policy.permits(&target("https://a.example.com"), address), is_public(address));
    }
}
