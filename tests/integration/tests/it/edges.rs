//! Which crates may reach which: an edge in the wrong direction fails here, before it is a habit.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what cargo prints is known, and a test may fail"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;
use wisp_integration::repository;

/// A crate, and what it must never reach, over however many edges.
const FORBIDDEN: &[(&str, &[&str])] = &[
    // A pod's process is no Kubernetes client, and serves no tenant's credentials.
    (
        "wisp-runtime",
        &[
            "kube",
            "kube-core",
            "kube-client",
            "k8s-openapi",
            "wisp-api",
            "wisp-gateway",
        ],
    ),
    // What guests link must run in any host, and be small.
    ("wisp", &["tokio", "wasmtime", "hyper"]),
    // Everybody shares the contract: it may bring nothing heavy along.
    (
        "wisp-contract",
        &["tokio", "hyper", "wasmtime", "kube", "k8s-openapi"],
    ),
    // Inference knows nothing of how guests reach it.
    ("wisp-nn", &["wasmtime", "hyper"]),
    // Requests pass through the gateway, not through an engine.
    ("wisp-gateway", &["wasmtime", "wisp-engine", "wisp-nn"]),
    // A decision without I/O.
    ("wisp-autoscale", &["tokio", "kube", "hyper"]),
];

#[test]
fn no_crate_reaches_what_it_must_not() {
    let graph = Graph::of_this_workspace();
    let mut broken = Vec::new();
    for (from, forbidden) in FORBIDDEN {
        for path in graph.paths_from(from) {
            if forbidden.contains(&path.last().unwrap().as_str()) {
                broken.push(path.join(" → "));
            }
        }
    }
    assert!(broken.is_empty(), "forbidden edges:\n{}", broken.join("\n"));
    let gateway = graph.paths_from("wisp-gateway");
    assert!(
        gateway.iter().any(|path| path.last().unwrap() == "kube"),
        "the gateway that ships is a client of Kubernetes', and the graph is another's"
    );
}

/// Normal dependencies between packages, by name. Build and development dependencies don't ship.
struct Graph(BTreeMap<String, BTreeSet<String>>);

impl Graph {
    fn of_this_workspace() -> Self {
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--locked"])
            // With what the gateway is as a program.
            .args(["--features", "wisp-gateway/cluster"])
            .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
            .current_dir(repository())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
        let names: BTreeMap<&str, &str> = metadata["packages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|package| {
                (
                    package["id"].as_str().unwrap(),
                    package["name"].as_str().unwrap(),
                )
            })
            .collect();
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in metadata["resolve"]["nodes"].as_array().unwrap() {
            let from = edges
                .entry(names[node["id"].as_str().unwrap()].to_owned())
                .or_default();
            for dependency in node["deps"].as_array().unwrap() {
                let normal = dependency["dep_kinds"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|kind| kind["kind"].is_null());
                if normal {
                    from.insert(names[dependency["pkg"].as_str().unwrap()].to_owned());
                }
            }
        }
        Self(edges)
    }

    /// The shortest path to every package that `from` reaches.
    fn paths_from(&self, from: &str) -> Vec<Vec<String>> {
        assert!(
            self.0.contains_key(from),
            "no package is named {from}: mend this test's list"
        );
        let mut seen = BTreeSet::from([from.to_owned()]);
        let mut paths = vec![vec![from.to_owned()]];
        let mut next = 0;
        while let Some(path) = paths.get(next).cloned() {
            for to in &self.0[path.last().unwrap()] {
                if seen.insert(to.clone()) {
                    paths.push(path.iter().cloned().chain([to.clone()]).collect());
                }
            }
            next += 1;
        }
        paths
    }
}
