//! How is a cluster, and what does it take?

use std::fmt::Write;

use anyhow::Result;

use crate::components::Component;
use crate::kubectl::Kubectl;
use crate::process;
use crate::state::State;
use crate::{namespace, programs};

/// A text for people about the cluster of this record.
pub(crate) fn text(state: &State) -> Result<String> {
    let layout = &state.layout;
    let mut text = String::new();
    let condition = if state.healthy() { "up" } else { "broken" };
    writeln!(
        text,
        "cluster {} is {condition}: {} nodes, network {}",
        layout.name,
        layout.nodes,
        layout.network()
    )?;
    writeln!(
        text,
        "  kubeconfig  {}",
        layout.folder()?.join("kubeconfig").display()
    )?;
    writeln!(text, "  API server  {}", layout.server())?;
    writeln!(text, "  registry    {}", layout.registry())?;
    for component in Component::all(layout.nodes) {
        let found = namespace::find(state, &component.part(), &component.name());
        match found {
            Some(process) => {
                let resident = mebibytes(process.resident());
                writeln!(
                    text,
                    "  {:<20} pid {:<8} {resident:>5} MiB",
                    component.name(),
                    process.pid
                )?;
            }
            None => writeln!(text, "  {:<20} down", component.name())?,
        }
    }
    let (resident, proportional) = memory(state);
    writeln!(
        text,
        "  memory      {} MiB resident in all processes, pods included; {} MiB when shared pages count once",
        mebibytes(resident),
        mebibytes(proportional)
    )?;
    if state.healthy() {
        let kubectl = Kubectl::new(&programs::kubectl()?, state)?;
        let query = ["get", "nodes,pods", "--all-namespaces", "--output=wide"];
        match kubectl.run(query.iter().chain(&["--request-timeout=5s"])) {
            Ok(objects) => {
                for line in objects.lines() {
                    writeln!(text, "  {line}")?;
                }
            }
            Err(_) => writeln!(text, "  the API server does not answer")?,
        }
    }
    Ok(text)
}

fn mebibytes(bytes: u64) -> u64 {
    bytes / (1024 * 1024)
}

/// Resident memory of all processes of a cluster, its pods included, and the same with shared pages counted once.
pub(crate) fn memory(state: &State) -> (u64, u64) {
    let mut processes = process::marked(&format!("{}/", state.id));
    for number in state.layout.numbers() {
        processes.extend(crate::cgroups::processes(&state.layout.cgroup(number)));
    }
    processes.sort();
    processes.dedup();
    processes
        .iter()
        .fold((0, 0), |(resident, proportional), process| {
            (
                resident + process.resident(),
                proportional + process.proportional(),
            )
        })
}
