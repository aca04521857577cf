//! Names of WIT interfaces, and those that a wisp host offers.

use std::fmt;
use std::str::FromStr;

/// An interface's name as components import and export it: `wasi:http/types@0.2.4`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName {
    /// `wasi:http`.
    pub package: String,
    /// `types`.
    pub interface: String,
    /// `0.2.4`, where the package has a version.
    pub version: Option<String>,
}

/// A name that is not of the form `namespace:package/interface@version`: a plain function or type of the world.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no interface")]
pub struct NotAnInterface(String);

impl FromStr for InterfaceName {
    type Err = NotAnInterface;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (path, version) = match text.split_once('@') {
            Some((path, version)) => (path, Some(version.to_owned())),
            None => (text, None),
        };
        match path.split_once('/') {
            Some((package, interface)) if package.contains(':') => Ok(Self {
                package: package.to_owned(),
                interface: interface.to_owned(),
                version,
            }),
            _ => Err(NotAnInterface(text.to_owned())),
        }
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.package, self.interface)?;
        match &self.version {
            Some(version) => write!(f, "@{version}"),
            None => Ok(()),
        }
    }
}

impl InterfaceName {
    /// Whether `version` is a release of `track`: `0.2` covers `0.2.6` and not `0.2.0-rc.1`; a track that is itself a
    /// full version covers that version only.
    #[must_use]
    pub fn is_version(&self, track: &str) -> bool {
        self.version
            .as_deref()
            .is_some_and(|version| covers(track, version))
    }
}

fn covers(track: &str, version: &str) -> bool {
    if version == track {
        return true;
    }
    let Some(patch) = version
        .strip_prefix(track)
        .and_then(|rest| rest.strip_prefix('.'))
    else {
        return false;
    };
    !patch.is_empty() && patch.bytes().all(|byte| byte.is_ascii_digit())
}

/// A package of which a host offers interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// `wasi:http`.
    pub package: &'static str,
    /// A track such as `0.2`, all of whose releases are served, or one exact version where the package is a draft.
    pub version: &'static str,
    /// The interfaces.
    pub interfaces: &'static [&'static str],
}

impl Offer {
    /// Whether `name` is the interface of one that is offered without a version, too: copies of its WIT have none.
    fn is_unversioned(&self, name: &InterfaceName) -> bool {
        name.version.is_none() && self.package == "wasi:logging"
    }
}

const fn offer(
    package: &'static str,
    version: &'static str,
    interfaces: &'static [&'static str],
) -> Offer {
    Offer {
        package,
        version,
        interfaces,
    }
}

/// Everything that a component may import. The host's tests hold it against the host's linker.
pub const OFFERS: &[Offer] = &[
    offer(
        "wasi:cli",
        "0.2",
        &[
            "environment",
            "exit",
            "stdin",
            "stdout",
            "stderr",
            "terminal-input",
            "terminal-output",
            "terminal-stdin",
            "terminal-stdout",
            "terminal-stderr",
        ],
    ),
    offer("wasi:clocks", "0.2", &["monotonic-clock", "wall-clock"]),
    offer("wasi:filesystem", "0.2", &["types", "preopens"]),
    offer("wasi:http", "0.2", &["types", "outgoing-handler"]),
    offer("wasi:io", "0.2", &["error", "poll", "streams"]),
    offer(
        "wasi:random",
        "0.2",
        &["random", "insecure", "insecure-seed"],
    ),
    offer(
        "wasi:sockets",
        "0.2",
        &[
            "network",
            "instance-network",
            "ip-name-lookup",
            "tcp",
            "tcp-create-socket",
            "udp",
            "udp-create-socket",
        ],
    ),
    offer(
        "wasi:cli",
        "0.3",
        &[
            "environment",
            "exit",
            "types",
            "stdin",
            "stdout",
            "stderr",
            "terminal-input",
            "terminal-output",
            "terminal-stdin",
            "terminal-stdout",
            "terminal-stderr",
        ],
    ),
    offer(
        "wasi:clocks",
        "0.3",
        &["types", "monotonic-clock", "system-clock"],
    ),
    offer("wasi:filesystem", "0.3", &["types", "preopens"]),
    offer("wasi:http", "0.3", &["types", "client"]),
    offer(
        "wasi:random",
        "0.3",
        &["random", "insecure", "insecure-seed"],
    ),
    offer("wasi:sockets", "0.3", &["types", "ip-name-lookup"]),
    offer("wasi:config", "0.2.0-rc.1", &["store"]),
    offer(
        "wasi:keyvalue",
        "0.2.0-draft",
        &["store", "atomics", "batch"],
    ),
    offer("wasi:logging", "0.1.0-draft", &["logging"]),
    offer(
        "wasi:nn",
        "0.2.0-rc-2024-10-28",
        &["errors", "tensor", "graph", "inference"],
    ),
];

/// Why a host doesn't offer an interface, as the end of the sentence "the component imports `…`, …".
#[must_use]
pub fn refusal(name: &InterfaceName) -> Option<String> {
    let of_package: Vec<&Offer> = OFFERS
        .iter()
        .filter(|offer| offer.package == name.package)
        .collect();
    if of_package.is_empty() {
        return Some(hint_for_package(name));
    }
    let Some(offer) = of_package
        .iter()
        .find(|offer| name.is_version(offer.version) || offer.is_unversioned(name))
    else {
        let versions: Vec<String> = of_package
            .iter()
            .map(|offer| spell(offer.version))
            .collect();
        let asked = name.version.as_deref().map_or_else(
            || format!("{} without a version", name.package),
            |version| format!("version {version} of {}", name.package),
        );
        return Some(format!(
            "but {asked} is not served: wisp offers {}{}",
            versions.join(" and "),
            draft(name)
        ));
    };
    if offer.interfaces.contains(&name.interface.as_str()) {
        return None;
    }
    Some(format!(
        "which wisp doesn't offer; of {}@{} it offers {}",
        offer.package,
        spell(offer.version),
        offer.interfaces.join(", ")
    ))
}

/// What a host links but refuses to do for the guest, as a whole sentence.
#[must_use]
pub fn caution(name: &InterfaceName) -> Option<&'static str> {
    match name.package.as_str() {
        "wasi:sockets" => {
            Some("sockets are refused at run time: use outbound HTTP (spec.outbound.allow) instead")
        }
        _ => None,
    }
}

fn spell(version: &str) -> String {
    // Exact versions stand as they are; a track gets its wildcard.
    if version.matches('.').count() == 1 {
        format!("{version}.x")
    } else {
        version.to_owned()
    }
}

fn draft(name: &InterfaceName) -> &'static str {
    let early = name
        .version
        .as_deref()
        .is_some_and(|version| version.starts_with("0.3.0-"));
    if early {
        "; this is a draft from before WASI 0.3 was ratified: rebuild with current bindings"
    } else {
        ""
    }
}

fn hint_for_package(name: &InterfaceName) -> String {
    let hint = match name.package.as_str() {
        "wasi:blobstore" => "; use outbound HTTP to an object store's API",
        "wasi:messaging" => "; use outbound HTTP to a broker's API",
        "wasi:sql" => "; use outbound HTTP to a database's API",
        "wasi:tls" => "; outbound HTTP speaks TLS for the guest (https:// in spec.outbound.allow)",
        "wasi:runtime-config" => "; its successor wasi:config/store@0.2.0-rc.1 is offered",
        "wasi:webgpu" | "wasi:graphics-context" => "; use wasi:nn for inference on a GPU",
        package if package.starts_with("fermyon:") || package.starts_with("spin:") => {
            "; it belongs to Spin: wasi:keyvalue, wasi:config and wasi:http are the portable ones"
        }
        package if package.starts_with("wasmcloud:") => "; it belongs to wasmCloud",
        package if package.starts_with("wasi:") => "",
        _ => "; if another component provides it, join the two with `wac plug` before deploying",
    };
    format!("which wisp doesn't offer{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> Option<String> {
        refusal(&text.parse().unwrap())
    }

    #[test]
    fn names_survive_parsing() {
        for text in [
            "wasi:http/types@0.2.4",
            "wasi:nn/graph@0.2.0-rc-2024-10-28",
            "local:thing/api",
        ] {
            assert_eq!(text.parse::<InterfaceName>().unwrap().to_string(), text);
        }
        assert!("wisp-init".parse::<InterfaceName>().is_err());
    }

    #[test]
    fn every_release_of_a_track_is_offered_and_drafts_only_exactly() {
        for text in [
            "wasi:http/types@0.2.0",
            "wasi:http/types@0.2.12",
            "wasi:http/client@0.3.0",
            "wasi:nn/graph@0.2.0-rc-2024-10-28",
            "wasi:config/store@0.2.0-rc.1",
        ] {
            assert_eq!(refused(text), None, "{text}");
        }
        for text in [
            "wasi:http/types@0.2.0-rc-2023-11-10",
            "wasi:http/types@0.20.0",
            "wasi:nn/graph@0.2.0",
            "wasi:http/types",
        ] {
            assert!(refused(text).is_some(), "{text}");
        }
    }

    #[test]
    fn a_refusal_says_what_is_offered_instead() {
        let of = |text| refused(text).unwrap();
        insta::assert_snapshot!(
            "refusals",
            [
                of("wasi:nn/graph@0.2.0-rc-2024-06-25"),
                of("wasi:http/client@0.3.0-rc-2026-01-06"),
                of("wasi:http/handler@0.3.0"),
                of("wasi:blobstore/container@0.2.0-draft"),
                of("fermyon:spin/llm@2.0.0"),
                of("acme:tax/rates@1.0.0"),
            ]
            .join("\n")
        );
    }
}
