//! Which long-running programs is a cluster made of, and where does each run?

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::layout;

/// One long-running program of a cluster. Its text form is what people call it: `apiserver`, `kubelet-node1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Component {
    Etcd,
    ApiServer,
    ControllerManager,
    Scheduler,
    Registry,
    Provisioner,
    Containerd(u8),
    Kubelet(u8),
    Proxy(u8),
}

/// Those of the control plane, in the order they start.
pub(crate) const CONTROL: [Component; 6] = [
    Component::Etcd,
    Component::Registry,
    Component::ApiServer,
    Component::ControllerManager,
    Component::Scheduler,
    Component::Provisioner,
];

/// Those of a node, in the order they start.
pub(crate) fn of_node(number: u8) -> [Component; 3] {
    [
        Component::Containerd(number),
        Component::Kubelet(number),
        Component::Proxy(number),
    ]
}

impl Component {
    /// All of a cluster with so many nodes.
    pub(crate) fn all(nodes: u8) -> Vec<Component> {
        CONTROL
            .into_iter()
            .chain((1..=nodes).flat_map(of_node))
            .collect()
    }

    /// The part whose namespaces it runs in.
    pub(crate) fn part(self) -> String {
        match self {
            Component::Containerd(number)
            | Component::Kubelet(number)
            | Component::Proxy(number) => layout::node(number),
            _ => "control".to_owned(),
        }
    }

    /// What people call it.
    pub(crate) fn name(self) -> String {
        match self {
            Component::Etcd => "etcd".to_owned(),
            Component::ApiServer => "apiserver".to_owned(),
            Component::ControllerManager => "controller-manager".to_owned(),
            Component::Scheduler => "scheduler".to_owned(),
            Component::Registry => "registry".to_owned(),
            Component::Provisioner => "provisioner".to_owned(),
            Component::Containerd(number) => format!("containerd-{}", layout::node(number)),
            Component::Kubelet(number) => format!("kubelet-{}", layout::node(number)),
            Component::Proxy(number) => format!("proxy-{}", layout::node(number)),
        }
    }

    /// The component that is called so in a cluster with so many nodes.
    ///
    /// # Errors
    /// When there is none; the error names those that there are.
    pub(crate) fn parse(name: &str, nodes: u8) -> Result<Component> {
        let all = Component::all(nodes);
        match all.iter().find(|component| component.name() == name) {
            Some(component) => Ok(*component),
            None => {
                let names: Vec<String> = all.iter().map(|component| component.name()).collect();
                bail!("no component {name:?}; there are {}", names.join(", "))
            }
        }
    }
}
