//! What processors replicas have: components are compiled for each level there is, so that no replica has to. And what they ask
//! for in vain.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::Semaphore;
use wisp_artifacts::Cpu;

use crate::artifacts::Artifacts;
use crate::cluster::{Cluster, pods};
use crate::live::Functions;

/// How often a pod is looked for that isn't seen yet.
const LOOKS: u32 = 60;
/// How long between.
const LOOKED_EVERY: Duration = Duration::from_millis(500);
/// How many are looked for at once.
const LOOKED_FOR_AT_ONCE: usize = 64;

/// What is done where a host tells what its processor is, or what it lacks.
pub struct Levels {
    artifacts: Arc<dyn Artifacts>,
    cluster: Arc<Cluster>,
    live: Arc<Functions>,
    /// How many more of those that say what their processor is may be looked for at once.
    looking: Arc<Semaphore>,
}

impl Levels {
    /// Of the replicas of a cluster.
    #[must_use]
    pub fn new(
        artifacts: Arc<dyn Artifacts>,
        cluster: Arc<Cluster>,
        live: Arc<Functions>,
    ) -> Arc<Self> {
        Arc::new(Self {
            artifacts,
            cluster,
            live,
            looking: Arc::new(Semaphore::new(LOOKED_FOR_AT_ONCE)),
        })
    }

    /// Somebody at `address` says that its processor is `cpu`. That it has the key of an artifact makes it no host: it counts
    /// once there is a pod of a function or a pool at that address, which the watch may tell later than the pod asks.
    pub fn heard(self: &Arc<Self>, cpu: &str, address: IpAddr) {
        let Ok(level) = cpu.parse::<Cpu>() else {
            return;
        };
        if self.artifacts.knows(level) {
            return;
        }
        // Whoever isn't looked for will ask again, or another of its kind.
        let Ok(looking) = Arc::clone(&self.looking).try_acquire_owned() else {
            return;
        };
        let (this, cpu) = (Arc::clone(self), cpu.to_owned());
        tokio::spawn(async move {
            let _looking = looking;
            for _ in 0..LOOKS {
                if this.is_host(address) {
                    return this.told(&cpu);
                }
                tokio::time::sleep(LOOKED_EVERY).await;
            }
            tracing::debug!(%address, cpu, "who says what its processor is is no pod of a function or a pool");
        });
    }

    fn is_host(&self, address: IpAddr) -> bool {
        let is_there = |pod: &Pod| pods::address(pod) == Some(address) && pods::is_alive(pod);
        self.cluster.pods.any(is_there) || self.cluster.warm.any(is_there)
    }

    /// The processor of a host that was asked is `cpu`. Where none was before, all functions' components are compiled for it.
    pub fn told(&self, cpu: &str) {
        // A level that this version doesn't know is a newer host's.
        let Ok(cpu) = cpu.parse::<Cpu>() else { return };
        if !self.artifacts.learn(cpu) {
            return;
        }
        tracing::info!(%cpu, "a node has another processor: components are compiled for it, too");
        for id in self.live.ids() {
            if let Some(live) = self.live.get(&id) {
                live.inputs_changed();
            }
            self.cluster.reconcile(&id);
        }
    }

    /// A replica asked for an artifact that the store doesn't have. Whose it is is resolved anew, and what is of an older revision
    /// of theirs is fetched anew: the next to ask gets it.
    pub fn lacks(&self, sha256: &str) {
        let now = Instant::now();
        for id in self.live.ids() {
            if self
                .live
                .get(&id)
                .is_some_and(|live| live.lacks(sha256, now))
            {
                tracing::warn!(function = %id, sha256, "the store lacks what the function's replicas need; it is fetched anew where it can be");
                self.cluster.reconcile(&id);
            }
        }
    }

    /// Has functions resolved anew whenever there is machine code for more processors of their component.
    pub async fn run(&self) {
        loop {
            let component = self.artifacts.more().await;
            for id in self.live.ids() {
                if self
                    .live
                    .get(&id)
                    .is_some_and(|live| live.code_was_made(&component))
                {
                    self.cluster.reconcile(&id);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;
    use serde_json::json;
    use wisp_contract::operator::pod::{FUNCTION, POOL};

    use super::*;
    use crate::resolve::tests::Store;

    /// Would fail if whoever has an artifact's key had all components compiled for more processors, or a host of another kind
    /// weren't heard because the watch is behind.
    #[tokio::test]
    async fn only_pods_of_functions_and_pools_say_what_processors_there_are() {
        let (cluster, _feed) = Cluster::new();
        let store = Arc::new(Store::default());
        let artifacts: Arc<dyn Artifacts> = Arc::clone(&store) as _;
        let levels = Levels::new(artifacts, Arc::clone(&cluster), Arc::default());
        let pod = |label: &str, address: &str| -> Event<Pod> {
            let metadata = json!({"name": "p", "namespace": "n", "labels": {label: "f"}});
            let pod =
                json!({"metadata": metadata, "status": {"phase": "Running", "podIP": address}});
            Event::Apply(serde_json::from_value(pod).unwrap())
        };
        let learned = || store.learned.lock().unwrap().clone();
        let (mine, theirs) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        levels.heard("x86-64-v2", theirs);
        levels.heard("arm64", mine);
        levels.heard("x86-64-v9", mine);
        // Both are looked for, and aren't there.
        while levels.looking.available_permits() > LOOKED_FOR_AT_ONCE - 2 {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
        assert_eq!(learned(), []);
        cluster.pods.apply(pod(FUNCTION, "10.0.0.1"));
        while learned().is_empty() {
            tokio::task::yield_now().await;
        }
        // One that stands by.
        cluster.warm.apply(pod(POOL, "10.0.0.3"));
        levels.heard("x86-64-v3", "10.0.0.3".parse().unwrap());
        while learned().len() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(learned(), [Cpu::Arm64, Cpu::X86_64V3]);
    }
}
