//! How does a cluster that stands lose a node or a component, and get it back?

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use rustix::process::Signal;

use super::{SEEN, hold_node, standing};
use crate::components::{self, Component};
use crate::kubectl::Kubectl;
use crate::layout;
use crate::state::State;
use crate::{
    addons, cgroups, control, locks, namespace, network, node, process, programs, shell, wait,
};

/// Whoever cannot work with what it was given ends within this.
const SETTLED: Duration = Duration::from_secs(1);

fn check_node(state: &State, number: u8) -> Result<()> {
    let nodes = state.layout.nodes;
    ensure!(
        state.layout.numbers().contains(&number),
        "there is no node {number}: cluster {} has nodes 1 to {nodes}",
        state.layout.name
    );
    Ok(())
}

/// Ends a node as a power cut would: every process in it at once, and its network with them.
pub(crate) fn kill_node(name: &str, number: u8) -> Result<()> {
    let _lock = locks::change(name)?;
    let mut state = standing(name)?;
    check_node(&state, number)?;
    let node = layout::node(number);
    let Some(anchor) = state.anchors.remove(&node) else {
        bail!("{node} is down already")
    };
    namespace::cut(&anchor)?;
    cgroups::remove(&state.layout.cgroup(number))?;
    state.write()?;
    network::route_services(&state)
}

/// Starts a node that was killed; its disk is as it was.
pub(crate) fn start_node(name: &str, number: u8) -> Result<()> {
    let programs = programs::ensure()?;
    let _lock = locks::change(name)?;
    let mut state = standing(name)?;
    check_node(&state, number)?;
    ensure!(
        !state.anchors.contains_key(&layout::node(number)),
        "{} is up already",
        layout::node(number)
    );
    let kubectl = Kubectl::new(&programs.kubectl, &state)?;
    shell::mark(state.mark("driver"));
    let before = heartbeat(&kubectl, number)?;
    hold_node(&mut state, number)?;
    node::start(&programs, &state, Component::Containerd(number))?;
    node::import(&programs, &state, number, &addons::base_image()?)?;
    node::start(&programs, &state, Component::Kubelet(number))?;
    node::start(&programs, &state, Component::Proxy(number))?;
    network::route_services(&state)?;
    let node = layout::node(number);
    let what = format!("{node} to be ready again");
    wait::wait(
        &kubectl,
        None,
        &what,
        &["nodes"],
        control::PATIENCE,
        |nodes| {
            let (status, beat) = readiness(nodes.get(&node)?)?;
            // Before its first word after the start, what it said last still stands.
            (status == "True" && beat != before).then_some(())
        },
    )
}

/// When a node last said how it is.
fn heartbeat(kubectl: &Kubectl, number: u8) -> Result<String> {
    let node = layout::node(number);
    let object = serde_json::from_str(&kubectl.run(["get", "node", &node, "--output=json"])?)?;
    Ok(readiness(&object).map(|(_, beat)| beat).unwrap_or_default())
}

/// The status of a node's condition `Ready`, and when it was last told.
fn readiness(node: &serde_json::Value) -> Option<(String, String)> {
    let conditions = node.pointer("/status/conditions")?.as_array()?;
    let ready = conditions
        .iter()
        .find(|condition| condition.get("type").is_some_and(|kind| kind == "Ready"))?;
    let text = |key: &str| Some(ready.get(key)?.as_str()?.to_owned());
    Some((text("status")?, text("lastHeartbeatTime")?))
}

/// Ends one component and starts it again; `hard` gives it no time to end by itself.
pub(crate) fn restart(name: &str, component: &str, hard: bool) -> Result<()> {
    let programs = programs::ensure()?;
    let _lock = locks::change(name)?;
    let state = standing(name)?;
    let component = Component::parse(component, state.layout.nodes)?;
    if let Some(process) = namespace::find(&state, &component.part(), &component.name()) {
        process.signal(if hard { Signal::KILL } else { Signal::TERM });
        if process::wait_gone(&[process], Duration::from_secs(10)).is_err() {
            process.signal(Signal::KILL);
            process::wait_gone(&[process], Duration::from_secs(5))?;
        }
    }
    if components::CONTROL.contains(&component) {
        control::start(&programs, &state, component)?;
    } else {
        node::start(&programs, &state, component)?;
    }
    lives(&state, component)?;
    let kubectl = Kubectl::new(&programs.kubectl, &state)?;
    control::wait_ready(&state, &kubectl)
}

/// Waits until a component that was just started runs, and sees that it doesn't end at once.
fn lives(state: &State, component: Component) -> Result<()> {
    let find = || namespace::find(state, &component.part(), &component.name());
    let end = Instant::now() + SEEN;
    let process = loop {
        if let Some(process) = find() {
            break Some(process);
        }
        if Instant::now() > end {
            break None;
        }
        sleep(Duration::from_millis(10));
    };
    sleep(SETTLED);
    if !process.is_some_and(|process| process.alive()) {
        bail!(
            "{} ended after its start:\n{}",
            component.name(),
            control::last_words(state, component)?
        );
    }
    Ok(())
}
