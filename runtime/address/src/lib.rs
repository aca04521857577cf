//! Which networks addresses are of, after the IANA special-purpose registries (RFC 6890): what guests, fetches and clients may
//! reach, or are believed, depends on it.
//!
//! What an IPv4 address is keeps it from being public, and makes it a machine's own, inside an IPv6 address, too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where clouds have their metadata that have it at no link-local address: Alibaba's, and Azure's WireServer, which has the
/// address of somebody on the internet.
const METADATA_V4: [Ipv4Addr; 2] = [
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
];
/// The same for IPv6: Google's, Oracle's, Scaleway's, Akamai's and Alibaba's.
const METADATA_V6: [Ipv6Addr; 5] = [
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
    Ipv6Addr::new(0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0xfd00, 0x100, 0, 0, 0, 0, 0x100, 0x200),
];

/// Whether `address` is one that anybody on the internet may have: neither loopback, link-local (most cloud metadata
/// services live there), private, shared (CGNAT), multicast, documentation nor reserved, nor where a cloud has its metadata.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

/// Whether `address` is of a private network, as the Services of a cluster are: RFC 1918, or unique local but for those
/// where clouds keep their metadata.
#[must_use]
pub fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private(),
        IpAddr::V6(v6) => v6.is_unique_local() && !is_metadata_v6(v6),
    }
}

/// Whether `address` is one of those that many networks share behind their translators (RFC 6598), as the pods and Services of
/// some clusters do, but for the one where a cloud keeps its metadata.
#[must_use]
pub fn is_shared(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if matches!(v4.octets(), [100, 64..=127, ..]) && !METADATA_V4.contains(&v4))
}

/// Whether `address` is a machine's own, or of its network alone: loopback, unspecified, link-local, multicast or
/// broadcast, of IETF's protocols (192.0.0.0/24, where a cloud has its metadata, too), or one of clouds' metadata. Whoever
/// may name a URL for another process to fetch shall not reach by it what only that process can.
#[must_use]
pub fn is_own(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_own_v4(v4),
        IpAddr::V6(v6) => {
            carried(v6).into_iter().flatten().any(is_own_v4)
                || v6.is_loopback()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
                || is_metadata_v6(v6)
        }
    }
}

fn is_metadata_v6(address: Ipv6Addr) -> bool {
    // Amazon's: the instances' metadata, and the agent that gives pods their credentials, among others.
    matches!(address.segments(), [0xfd00, 0xec2, ..]) || METADATA_V6.contains(&address)
}

fn is_own_v4(address: Ipv4Addr) -> bool {
    matches!(address.octets(), [0, ..] | [192, 0, 0, _])
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || METADATA_V4.contains(&address)
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = matches!(
        (a, b, c),
        (0 | 10 | 127, _, _)            // this network, private, loopback
            | (100, 64..=127, _)        // shared (RFC 6598)
            | (169, 254, _)             // link-local, 169.254.169.254 among them
            | (172, 16..=31, _)         // private
            | (192, 0, 0 | 2)           // protocol assignments, documentation
            | (192, 88, 99)             // 6to4 relays
            | (192, 168, _)             // private
            | (198, 18..=19, _)         // benchmarks
            | (198, 51, 100)            // documentation
            | (203, 0, 113)             // documentation
            | (224..=255, _, _) // multicast, reserved, broadcast
    );
    !special && !METADATA_V4.contains(&address)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [s0, s1, _, _, _, _, s6, s7] = address.segments();
    if is_translated(address) {
        return is_public_v4(joined(s6, s7));
    }
    let special = match s0 {
        // Unspecified, loopback, IPv4-compatible and whatever else is below 100::, which nobody has.
        0..=0xff => true,
        0x100 => true,                       // discard, dummy
        0x2001 => s1 < 0x200 || s1 == 0xdb8, // protocol assignments (Teredo among them), documentation
        0x3fff => s1 < 0x1000,               // documentation
        0x5f00 => true,                      // segment routing
        0xfc00..=0xffff => true, // unique local, fd00:ec2::254 among them; link-local, site-local, multicast
        _ => false,
    };
    !special && carried(address).into_iter().flatten().all(is_public_v4)
}

/// Whether `address` is another way to write an IPv4 one: mapped, translated (SIIT), or NAT64's well-known prefix.
fn is_translated(address: Ipv6Addr) -> bool {
    let [s0, s1, s2, s3, s4, s5, ..] = address.segments();
    matches!(
        [s0, s1, s2, s3, s4, s5],
        [0, 0, 0, 0, 0, 0xffff] | [0, 0, 0, 0, 0xffff, 0] | [0x64, 0xff9b, 0, 0, 0, 0]
    )
}

/// The IPv4 addresses inside an IPv6 one: in its prefix, as 6to4 has it, and at its end, as those have that are another way to
/// write it, IPv4-compatible ones, and interface ids of ISATAP.
fn carried(address: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let [s0, s1, s2, s3, s4, s5, s6, s7] = address.segments();
    let is_compatible = [s0, s1, s2, s3, s4, s5] == [0; 6];
    let is_isatap = matches!((s4, s5), (0 | 0x200, 0x5efe));
    // A network's own NAT64 prefix (RFC 8215), 96 bits of it; with shorter ones the last 24 bits are zero, and the address isn't there.
    let is_locally_translated = [s0, s1, s2] == [0x64, 0xff9b, 1] && (s6 & 0xff, s7) != (0, 0);
    let at_its_end = is_translated(address) || is_locally_translated || is_compatible || is_isatap;
    [
        (s0 == 0x2002).then(|| joined(s1, s2)),
        at_its_end.then(|| joined(s6, s7)),
    ]
}

fn joined(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPECIAL: [&str; 26] = [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.7",
        "100.64.0.1",
        "100.127.255.255",
        "100.100.100.200",
        "168.63.129.16",
        "127.0.0.1",
        "127.255.0.3",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.1",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.7",
        "203.0.113.9",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "10.255.255.255",
        "192.168.0.0",
    ];
    const PUBLIC: [&str; 15] = [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.1",
        "169.253.255.255",
        "168.63.129.15",
        "172.15.255.255",
        "172.32.0.0",
        "192.167.255.255",
        "198.17.255.255",
        "223.255.255.255",
    ];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_public_v4_addresses_are_public_in_whatever_form() {
        for (text, expected) in SPECIAL
            .map(|text| (text, false))
            .into_iter()
            .chain(PUBLIC.map(|text| (text, true)))
        {
            assert_eq!(is_public(ip(text)), expected, "{text}");
            let v4: Ipv4Addr = text.parse().unwrap();
            let [a, b, c, d] = v4.octets();
            for form in [
                format!("::ffff:{v4}"),
                format!("::ffff:0:{v4}"),
                format!("64:ff9b::{v4}"),
                format!("2002:{a:02x}{b:02x}:{c:02x}{d:02x}::1"),
                format!("2a00:1450::5efe:{v4}"),
                format!("2a00:1450::200:5efe:{v4}"),
                format!("2002:808:808::5efe:{v4}"),
            ] {
                assert_eq!(is_public(ip(&form)), expected, "{form}");
            }
            assert!(
                !is_public(ip(&format!("::{v4}"))),
                "IPv4-compatible addresses are nobody's"
            );
        }
    }

    #[test]
    fn only_public_v6_addresses_are_public() {
        for text in [
            "::",
            "::1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:db8::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fd12:3456::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(ip(text)), "{text}");
        }
        for text in [
            "2606:4700:4700::1111",
            "2a00:1450:4001:800::200e",
            "2001:4860:4860::8888",
            "2400:cb00::1",
        ] {
            assert!(is_public(ip(text)), "{text}");
        }
    }

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
            "fd00:ec2::23",
            "fd20:ce::254",
            "fd00:c1::a9fe:a9fe",
            "fd00:42::42",
            "fd00:a9fe:a9fe::1",
            "fd00:100::100:200",
            "168.63.129.16",
            "::ffff:168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "64:ff9b::6464:64c8",
            "64:ff9b:1::a9fe:a9fe",
            "64:ff9b:1:fffe::7f00:1",
            "2a00:1450::5efe:127.0.0.1",
        ] {
            assert!(is_own(ip(own)), "{own}");
        }
        for other in [
            "10.0.0.1",
            "100.64.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "8.8.8.8",
            "fd00::1",
            "fd00:ec1::23",
            "2606:4700::1",
            "::ffff:10.0.0.1",
            "64:ff9b:1::808:808",
            // 8.8.8.8 by the whole prefix of 48 bits.
            "64:ff9b:1:808:8:800::",
            // 1.2.3.127 by 64 bits of it.
            "64:ff9b:1:0:1:203:7f00:0",
        ] {
            assert!(!is_own(ip(other)), "{other}");
        }
    }

    #[test]
    fn private_and_shared_networks_are_told_apart() {
        for private in ["10.0.0.1", "172.16.0.1", "192.168.1.1", "fd00::1"] {
            assert!(
                is_private(ip(private)) && !is_shared(ip(private)),
                "{private}"
            );
        }
        for neither in [
            "8.8.8.8",
            "172.32.0.1",
            "100.63.0.1",
            "100.128.0.1",
            "100.100.100.200",
            "168.63.129.16",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd00:c1::a9fe:a9fe",
            "2606:4700::1",
        ] {
            assert!(
                !is_private(ip(neither)) && !is_shared(ip(neither)),
                "{neither}"
            );
        }
        for shared in ["100.64.0.1", "100.127.255.255"] {
            assert!(is_shared(ip(shared)) && !is_private(ip(shared)), "{shared}");
        }
    }

    proptest::proptest! {
        /// No address that the standard library knows to be special is public, nor is any form of it.
        #[test]
        fn never_public_where_the_standard_library_says_special(bits: u32) {
            let v4 = Ipv4Addr::from(bits);
            if v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_unspecified() || v4.is_documentation() || v4.is_broadcast() {
                proptest::prop_assert!(!is_public(v4.into()));
            }
            proptest::prop_assert_eq!(is_public(v4.into()), is_public(v4.to_ipv6_mapped().into()));
        }
    }
}
