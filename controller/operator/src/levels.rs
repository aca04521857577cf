//! What processors replicas have: components are compiled for each level there is, so that no replica has to. And what they ask
//! for in vain.

use std::sync::Arc;
use std::time::Instant;

use wisp_artifacts::Cpu;

use crate::artifacts::Artifacts;
use crate::cluster::Cluster;
use crate::live::Functions;

/// What is done where a host tells what its processor is, or what it lacks.
pub struct Levels {
    artifacts: Arc<dyn Artifacts>,
    cluster: Arc<Cluster>,
    live: Arc<Functions>,
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
        })
    }

    /// A host's processor is `cpu`. Where none was before, all functions' components are compiled for it.
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

    /// A replica asked for an artifact that the store doesn't have. Whose it is is resolved anew: the next to ask gets it.
    pub fn lacks(&self, sha256: &str) {
        let now = Instant::now();
        for id in self.live.ids() {
            if self
                .live
                .get(&id)
                .is_some_and(|live| live.lacks(sha256, now))
            {
                tracing::warn!(function = %id, sha256, "the store lacks what the function's replicas need; it is fetched anew");
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
