//! What are a cluster's names and addresses? All follow from its name and the slot it took on this machine.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::files;

/// The most nodes that one cluster may have: each takes a /24 of the pods' /18.
pub(crate) const MAX_NODES: u8 = 32;
/// How many clusters can run side by side; slot `s` owns the network 10.(200+s).0.0/16.
pub(crate) const SLOTS: u8 = 40;
/// What slot 0 has there.
const FIRST: u8 = 200;

/// Whether an address is one that clusters may have, whichever of them run.
pub(crate) fn is_ours(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    first == 10 && (FIRST..FIRST + SLOTS).contains(&second)
}

/// The names and addresses of one cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layout {
    pub(crate) name: String,
    pub(crate) slot: u8,
    pub(crate) nodes: u8,
}

/// Checks that `name` can be part of a cgroup's, a file's and a context's name.
pub(crate) fn check_name(name: &str) -> Result<()> {
    ensure!(
        !name.is_empty()
            && name.len() <= 20
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !name.starts_with('-'),
        "cluster name {name:?}: allowed are 1 to 20 of a-z, 0-9 and -, not starting with -"
    );
    Ok(())
}

/// The folder of the cluster called `name`.
pub(crate) fn folder(name: &str) -> Result<PathBuf> {
    Ok(files::clusters()?.join(name))
}

/// A node's name.
pub(crate) fn node(number: u8) -> String {
    format!("node{number}")
}

impl Layout {
    fn address(&self, third: u8, fourth: u8) -> String {
        format!(
            "10.{}.{third}.{fourth}",
            u16::from(FIRST) + u16::from(self.slot)
        )
    }

    /// Everything of this cluster: nodes, pods and services.
    pub(crate) fn network(&self) -> String {
        format!("{}/16", self.address(0, 0))
    }

    /// The machine's own address on the nodes' network.
    pub(crate) fn host(&self) -> String {
        self.address(0, 1)
    }

    /// The address of the API server and of the registry.
    pub(crate) fn control(&self) -> String {
        self.address(0, 2)
    }

    /// The address of a node.
    pub(crate) fn node(&self, number: u8) -> String {
        self.address(0, 10 + number)
    }

    /// All pods.
    pub(crate) fn pods(&self) -> String {
        format!("{}/18", self.address(64, 0))
    }

    /// The pods of one node.
    pub(crate) fn node_pods(&self, number: u8) -> String {
        format!("{}/24", self.address(64 + number, 0))
    }

    /// All services.
    pub(crate) fn services(&self) -> String {
        format!("{}/20", self.address(128, 0))
    }

    /// The first service address, the API server's.
    pub(crate) fn kubernetes_service(&self) -> String {
        self.address(128, 1)
    }

    /// The service address of the cluster's DNS.
    pub(crate) fn dns(&self) -> String {
        self.address(128, 10)
    }

    /// Where clients reach the API server.
    pub(crate) fn server(&self) -> String {
        format!("https://{}:6443", self.control())
    }

    /// Host and port of the registry, the same from the machine and from the nodes.
    pub(crate) fn registry(&self) -> String {
        format!("{}:5000", self.control())
    }

    /// The one network interface that the cluster has in the machine's own network namespace.
    pub(crate) fn link(&self) -> String {
        link(self.slot)
    }

    /// The cgroup of a node, the same name in every hierarchy. The slot is in it: a cluster of another cache folder may have
    /// the same name.
    pub(crate) fn cgroup(&self, number: u8) -> String {
        format!("{}-{}-{}", self.link(), self.name, node(number))
    }

    /// The numbers of the nodes.
    pub(crate) fn numbers(&self) -> std::ops::RangeInclusive<u8> {
        1..=self.nodes
    }

    /// The folder of the cluster.
    pub(crate) fn folder(&self) -> Result<PathBuf> {
        folder(&self.name)
    }
}

/// The name of the network interface of a slot.
pub(crate) fn link(slot: u8) -> String {
    format!("wisp{slot}")
}

/// Where a part's output goes, in the cluster's folder.
pub(crate) fn log(folder: &Path, component: &str) -> PathBuf {
    folder.join("logs").join(format!("{component}.log"))
}
