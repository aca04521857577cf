//! How does a cluster come up, change and go?

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::components::Component;
use crate::kubectl::Kubectl;
use crate::layout::{self, Layout};
use crate::process::Process;
use crate::programs::Programs;
use crate::state::State;
use crate::{
    addons, cgroups, control, files, locks, machine, namespace, network, node, process, programs,
    shell,
};

mod change;

pub(crate) use change::{kill_node, restart, start_node};

/// How long a component that was just started may take until it is seen.
const SEEN: Duration = Duration::from_secs(10);

/// Brings the cluster `name` up with so many nodes; one that stands, with all its components, is left as it is. What an
/// earlier one left behind is cleaned first.
///
/// # Errors
/// When the machine cannot run it, a part does not start, or a cluster of that name with other nodes stands.
pub(crate) fn up(name: &str, nodes: u8) -> Result<State> {
    layout::check_name(name)?;
    ensure!(
        (1..=layout::MAX_NODES).contains(&nodes),
        "{nodes} nodes: allowed are 1 to {}",
        layout::MAX_NODES
    );
    machine::ensure()?;
    let programs = programs::ensure()?;
    let base = addons::base_image()?;
    let _lock = locks::change(name)?;
    if let Some(old) = State::read(name)? {
        if old.healthy() {
            ensure!(
                old.layout.nodes == nodes,
                "cluster {name} stands with {} nodes, not {nodes}: take it down first, or give the new one another --name",
                old.layout.nodes
            );
            match whole(&old, &programs) {
                Ok(()) => {
                    eprintln!("cluster {name} stands already");
                    return Ok(old);
                }
                Err(error) => eprintln!("cluster {name} is broken: {error:#}"),
            }
        }
        eprintln!("cleaning up what an earlier cluster {name} left behind");
        clean(&old)?;
    }
    let start = Instant::now();
    let (mut state, slots) = reserve(name, nodes)?;
    shell::mark(state.mark("driver"));
    match bring_up(&mut state, slots, &programs, &base) {
        Ok(()) => {
            eprintln!(
                "cluster {name} is ready: {nodes} nodes in {:.1} s",
                start.elapsed().as_secs_f32()
            );
            Ok(state)
        }
        Err(error) => {
            let kept = keep_logs(&state);
            if let Err(second) = clean(&state) {
                eprintln!("cleaning up failed as well: {second:#}");
            }
            match kept {
                Ok(folder) => {
                    Err(error.context(format!("cluster {name} did not come up; logs: {folder}")))
                }
                Err(_) => Err(error.context(format!("cluster {name} did not come up"))),
            }
        }
    }
}

/// Checks that each component of a cluster runs whose part does, and that its API server is ready.
///
/// # Errors
/// With what doesn't, or why it isn't. It takes its time for that: others may use the cluster.
fn whole(state: &State, programs: &Programs) -> Result<()> {
    let down = || -> Vec<String> {
        Component::all(state.layout.nodes)
            .into_iter()
            .filter(|component| state.anchors.contains_key(&component.part()))
            .filter(|component| {
                namespace::find(state, &component.part(), &component.name()).is_none()
            })
            .map(Component::name)
            .collect()
    };
    let end = Instant::now() + SEEN;
    loop {
        let down = down();
        if down.is_empty() {
            break;
        }
        ensure!(Instant::now() < end, "down: {}", down.join(", "));
        thread::sleep(Duration::from_millis(100));
    }
    control::wait_ready(state, &Kubectl::new(&programs.kubectl, state)?)
}

/// Takes a slot and writes it down. Until its link stands, nobody else may choose one: that is what the lock is for.
fn reserve(name: &str, nodes: u8) -> Result<(State, File)> {
    let slots = locks::slots()?;
    let taken: Vec<u8> = State::all()?
        .iter()
        .map(|state| state.layout.slot)
        .collect();
    let layout = Layout {
        name: name.to_owned(),
        slot: network::free_slot(&taken)?,
        nodes,
    };
    files::remove(&layout.folder()?)?;
    let state = State::new(layout)?;
    state.write()?;
    Ok((state, slots))
}

fn bring_up(
    state: &mut State,
    slots: File,
    programs: &Programs,
    base: &std::path::Path,
) -> Result<()> {
    let layout = state.layout.clone();
    let folder = layout.folder()?;
    for sub in ["logs", "volumes"] {
        fs::create_dir_all(folder.join(sub))?;
    }
    let timer = Instant::now();
    let told = |what: &str| {
        if std::env::var_os("WISP_CLUSTER_TIMES").is_some() {
            eprintln!("  {:5.2} s  {what}", timer.elapsed().as_secs_f32());
        }
    };

    control::write_keys(programs, &layout)?;
    control::write_configuration(&layout)?;
    let kubectl = Kubectl::new(&programs.kubectl, state)?;
    told("keys");

    let anchor = namespace::hold(state, "control")?;
    state.anchors.insert("control".to_owned(), anchor.clone());
    state.write()?;
    network::connect_control(&layout, &anchor)?;
    drop(slots);
    for component in [Component::Etcd, Component::Registry, Component::ApiServer] {
        control::start(programs, state, component)?;
    }
    told("control plane started");

    // Nodes get their containerd while the API server is still starting: it needs most of the time.
    for number in layout.numbers() {
        hold_node(state, number)?;
        node::start(programs, state, Component::Containerd(number))?;
    }
    network::route_services(state)?;
    told("containerd started");

    thread::scope(|scope| -> Result<()> {
        let state = &*state;
        let imports: Vec<_> = layout
            .numbers()
            .map(|number| scope.spawn(move || node::import(programs, state, number, base)))
            .collect();
        control::wait_ready(state, &kubectl)?;
        told("API server ready");
        for component in [
            Component::ControllerManager,
            Component::Scheduler,
            Component::Provisioner,
        ] {
            control::start(programs, state, component)?;
        }
        for (number, import) in layout.numbers().zip(imports) {
            join(import)?;
            node::start(programs, state, Component::Kubelet(number))?;
            node::start(programs, state, Component::Proxy(number))?;
        }
        told("nodes started");
        Ok(())
    })?;

    addons::apply(programs, &layout, &kubectl)?;
    told("addons applied");
    for number in layout.numbers() {
        wait_node(state, &kubectl, number)?;
    }
    told("nodes ready");
    kubectl
        .run([
            "--namespace=kube-system",
            "rollout",
            "status",
            "deployment/coredns",
            "--timeout=180s",
        ])
        .context("the cluster's DNS is not ready")?;
    told("DNS ready");
    state.ready = true;
    state.write()
}

fn join<T>(handle: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    match handle.join() {
        Ok(result) => result,
        Err(_) => bail!("a thread of the driver died"),
    }
}

fn hold_node(state: &mut State, number: u8) -> Result<()> {
    let layout = state.layout.clone();
    node::prepare(&layout, number)?;
    let anchor = namespace::hold(state, &layout::node(number))?;
    let control = state
        .anchors
        .get("control")
        .context("the control plane does not run")?;
    network::connect_node(&layout, number, control, &anchor)?;
    state.anchors.insert(layout::node(number), anchor);
    state.write()
}

/// Waits until a node is Ready and knows its pods' range.
fn wait_node(state: &State, kubectl: &Kubectl, number: u8) -> Result<()> {
    let node = layout::node(number);
    let resource = format!("node/{node}");
    kubectl
        .run(["wait", "--for=create", &resource, "--timeout=180s"])
        .with_context(|| format!("{node} did not register"))?;
    let pods = state.layout.node_pods(number);
    let patch = format!("{{\"spec\":{{\"podCIDR\":\"{pods}\",\"podCIDRs\":[\"{pods}\"]}}}}");
    kubectl.run(["patch", &resource, "--patch", &patch])?;
    kubectl
        .run(["wait", "--for=condition=Ready", &resource, "--timeout=180s"])
        .with_context(|| format!("{node} is not ready"))?;
    Ok(())
}

/// Takes the cluster `name` down with everything it made on this machine.
///
/// # Errors
/// When something of it cannot be removed; the error names it.
pub(crate) fn down(name: &str) -> Result<bool> {
    layout::check_name(name)?;
    let lock = locks::change(name)?;
    let state = State::read(name)?;
    if let Some(state) = &state {
        clean(state)?;
    }
    locks::forget(name, &lock)?;
    Ok(state.is_some())
}

/// Removes everything that the record speaks of, whatever of it is still there.
fn clean(state: &State) -> Result<()> {
    let layout = &state.layout;
    // First the link: from here on nothing gets in or out, and the kernel need not be waited for to take it away.
    network::disconnect(layout)?;
    let namespaces: BTreeSet<String> = state
        .anchors
        .values()
        .filter(|anchor| anchor.outside.alive() || anchor.inside.alive())
        .map(|anchor| anchor.namespace.clone())
        .collect();
    // Again until there is none: a child of a driver that was killed may only just have started.
    loop {
        let mut processes = process::marked(&format!("{}/", state.id));
        if !namespaces.is_empty() {
            processes.extend(process::in_namespaces(&namespaces));
        }
        processes.retain(Process::alive);
        if processes.is_empty() {
            break;
        }
        for process in &processes {
            process.signal(Signal::KILL);
        }
        process::wait_gone(&processes, Duration::from_secs(60))?;
    }
    for number in layout.numbers() {
        let cgroup = layout.cgroup(number);
        for process in cgroups::processes(&cgroup) {
            process.signal(Signal::KILL);
        }
        cgroups::remove(&cgroup)?;
    }
    files::remove(&layout.folder()?)
}

/// Copies a cluster's logs to where they outlive it, and says where.
pub(crate) fn keep_logs(state: &State) -> Result<String> {
    let base = std::env::var_os("WISP_CLUSTER_LOGS").map_or_else(
        || files::repository().join("target/cluster-logs"),
        std::path::PathBuf::from,
    );
    let target = base.join(format!(
        "{}-{}",
        state.layout.name,
        state.id.get(..8).unwrap_or("0")
    ));
    fs::create_dir_all(&target)?;
    for entry in fs::read_dir(state.layout.folder()?.join("logs"))? {
        let entry = entry?;
        fs::copy(entry.path(), target.join(entry.file_name()))?;
    }
    Ok(target.display().to_string())
}

/// The record of the cluster `name`, whatever its condition.
pub(crate) fn known(name: &str) -> Result<State> {
    layout::check_name(name)?;
    State::read(name)?.with_context(|| {
        format!("there is no cluster {name}; to start one: cargo xtask cluster up --name {name}")
    })
}

/// The record of the cluster `name`, which must stand.
pub(crate) fn standing(name: &str) -> Result<State> {
    let state = known(name)?;
    ensure!(
        state.healthy(),
        "cluster {name} is broken (its driver or its parts died); to mend it: cargo xtask cluster up --name {name}"
    );
    Ok(state)
}
