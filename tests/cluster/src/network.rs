//! How do nodes, pods and the machine reach each other, and why does nothing leave the machine?
//!
//! The bridge lives in the control plane's network namespace; each node has one leg of a veth on it, and so has the
//! machine. The machine's own namespace gets that one link, one route to the whole cluster over it, and an
//! `unreachable` route under it that catches what is sent while the link is gone. Inside, every namespace ends in
//! `unreachable default`: there is no way out.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::layout::{self, Layout};
use crate::namespace::{in_network, ip};
use crate::shell;
use crate::state::{Anchor, State};

/// The bridge, in the control plane's namespace.
const BRIDGE: &str = "nodes";
/// Under every other route of the same range.
const LAST: &str = "4294967290";

#[derive(Deserialize)]
struct Link {
    ifname: String,
}

#[derive(Deserialize)]
struct Route {
    dst: String,
}

/// The first slot whose network and link nobody on this machine uses.
///
/// # Errors
/// When every slot is taken.
pub(crate) fn free_slot(taken: &[u8]) -> Result<u8> {
    let links: Vec<Link> =
        serde_json::from_str(&shell::run(Command::new("ip").args(["-json", "link"]))?)?;
    let routes =
        shell::run(Command::new("ip").args(["-4", "-json", "route", "show", "table", "all"]))?;
    let routes: Vec<Route> = serde_json::from_str(if routes.trim().is_empty() {
        "[]"
    } else {
        &routes
    })?;
    (0..layout::SLOTS)
        .filter(|slot| !taken.contains(slot))
        .filter(|slot| !links.iter().any(|link| link.ifname == layout::link(*slot)))
        .find(|slot| !routes.iter().any(|route| overlaps(&route.dst, *slot)))
        .context("each of the networks 10.200.0.0/16 to 10.239.0.0/16 is in use on this machine")
}

/// Whether a route's destination has addresses in common with a slot's network.
fn overlaps(destination: &str, slot: u8) -> bool {
    let (address, length) = destination.split_once('/').unwrap_or((destination, "32"));
    let (Ok(address), Ok(length)) = (address.parse::<Ipv4Addr>(), length.parse::<u32>()) else {
        return false;
    };
    let mask = u32::MAX.checked_shl(32 - length.min(16)).unwrap_or(0);
    let network = u32::from(Ipv4Addr::new(10, 200 + slot, 0, 0));
    u32::from(address) & mask == network & mask
}

/// Connects the machine to the control plane's namespace, and makes the bridge in it.
pub(crate) fn connect_control(layout: &Layout, control: &Anchor) -> Result<()> {
    let (link, network) = (layout.link(), layout.network());
    // What must be undone later is done first: were the driver killed here, `down` would find it all the same.
    ip(
        None,
        &format!("route add unreachable {network} metric {LAST}"),
    )?;
    ip(
        None,
        &format!(
            "link add {link} type veth peer name machine netns {}",
            control.inside.pid
        ),
    )?;
    let control_address = layout.control();
    ip(
        Some(control),
        &format!(
            "link add {BRIDGE} type bridge forward_delay 0\n\
             link set {BRIDGE} up\n\
             link set machine master {BRIDGE}\n\
             link set machine up\n\
             addr add {control_address}/24 dev {BRIDGE}\n\
             route add unreachable default metric {LAST}\n"
        ),
    )?;
    shell::run(in_network(control, "sh").args(["-c", &format!("echo 0 > /proc/sys/net/ipv4/conf/{BRIDGE}/send_redirects; echo 0 > /proc/sys/net/ipv4/conf/all/send_redirects")]))?;
    let host = layout.host();
    ip(
        None,
        &format!(
            "addr add {host}/24 dev {link}\n\
             link set {link} up\n\
             route add {network} via {control_address} dev {link}\n"
        ),
    )
}

/// Connects a node to the bridge and gives everyone their routes to its pods.
pub(crate) fn connect_node(
    layout: &Layout,
    number: u8,
    control: &Anchor,
    node: &Anchor,
) -> Result<()> {
    let leg = layout::node(number);
    let (address, pods) = (layout.node(number), layout.node_pods(number));
    ip(
        Some(control),
        &format!(
            "link add {leg} type veth peer name eth0 netns {}\n\
             link set {leg} master {BRIDGE}\n\
             link set {leg} up\n\
             route replace {pods} via {address}\n",
            node.inside.pid
        ),
    )?;
    let services = layout.services();
    let mut commands = format!(
        "addr add {address}/24 dev eth0\n\
         link set eth0 up\n\
         route add unreachable default metric {LAST}\n\
         route add {services} dev eth0\n"
    );
    for other in layout.numbers().filter(|other| *other != number) {
        commands.push_str(&format!(
            "route add {} via {}\n",
            layout.node_pods(other),
            layout.node(other)
        ));
    }
    ip(Some(node), &commands)
}

/// Sends what the control plane and the machine say to services through a node that stands.
pub(crate) fn route_services(state: &State) -> Result<()> {
    let layout = &state.layout;
    let Some(control) = state.anchors.get("control") else {
        bail!("the control plane does not run")
    };
    let services = layout.services();
    let alive = layout.numbers().find(|number| {
        state
            .anchors
            .get(&layout::node(*number))
            .is_some_and(Anchor::alive)
    });
    match alive {
        Some(number) => ip(
            Some(control),
            &format!("route replace {services} via {}", layout.node(number)),
        ),
        None => ip(
            Some(control),
            &format!("route replace unreachable {services}"),
        ),
    }
}

/// Takes away the link and the routes of a cluster; none there is no error.
pub(crate) fn disconnect(layout: &Layout) -> Result<()> {
    let links: Vec<Link> =
        serde_json::from_str(&shell::run(Command::new("ip").args(["-json", "link"]))?)?;
    if links.iter().any(|link| link.ifname == layout.link()) {
        ip(None, &format!("link delete {}", layout.link()))?;
    }
    let network = layout.network();
    let routes = shell::run(Command::new("ip").args([
        "-4",
        "route",
        "show",
        "type",
        "unreachable",
        &network,
    ]))?;
    if routes.contains(LAST) {
        ip(
            None,
            &format!("route delete unreachable {network} metric {LAST}"),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_taken_by_any_route_into_its_network_but_the_default() {
        assert!(overlaps("10.200.3.0/24", 0));
        assert!(overlaps("10.0.0.0/8", 7));
        assert!(overlaps("10.203.0.1", 3));
        assert!(!overlaps("10.201.0.0/16", 0));
        assert!(!overlaps("default", 0));
        assert!(!overlaps("192.168.0.0/16", 0));
    }
}
